"""Losses of pytorch-metric-learning against their formulas; MDR as a regularizer of that library."""

import math
import sys

import pytest
import torch
from torch.nn.functional import normalize

from mdrlib import MDR, checkpoint, pairwise_distances
from mdrlib.config import LOSSES, MINERS, Config, method_parts
from mdrlib.experiment import run
from mdrlib.losses import MDRRegularizer, build_loss
from mdrlib.miners import all_triplets, distance_weighted, hard_negatives

losses = pytest.importorskip("pytorch_metric_learning.losses")
distances = pytest.importorskip("pytorch_metric_learning.distances")

CLASSES, EACH, DIM = 4, 3, 6
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)
TAKEN = [name for name in LOSSES if name != "triplet"]


def batch(seed=0):
    x = torch.randn(CLASSES * EACH, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * x).requires_grad_()


@pytest.mark.parametrize("name", TAKEN)
def test_no_pairs_and_no_triplets_are_a_finite_loss(name):
    """One class alone or one member of each, and a miner that finds nothing."""
    nothing = (torch.empty(0, dtype=torch.int64),) * 3
    for labels in (LABELS, 0 * LABELS, torch.arange(len(LABELS))):
        x = batch().float().detach().requires_grad_()
        loss = build_loss(name, len(LABELS), DIM, miner=lambda *_, **__: nothing)
        value = loss(x, labels)
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all()


def log_sum(values):
    return math.log(sum(math.exp(v) for v in values))


def formula(name, x, proxies=None):
    """The loss from its publication, by loops; margins: 0.2, pairs 1."""
    d, y, n = pairwise_distances(x).tolist(), LABELS.tolist(), len(x)
    cosine = (normalize(x, dim=1) @ normalize(x if proxies is None else proxies, dim=1).T).tolist()
    if name == "contrastive":
        together = [d[i][j] for i in range(n) for j in range(n) if i != j and y[i] == y[j]]
        apart = [max(0, 1 - d[i][j]) for i in range(n) for j in range(n) if y[i] != y[j]]
        means = [
            sum(v for v in part if v > 0) / max(1, sum(v > 0 for v in part)) for part in (together, apart)
        ]
        return sum(means)
    if name == "margin":
        total, count = 0, 0
        for a, p, q in zip(*(t.tolist() for t in all_triplets(x, LABELS)), strict=True):
            costs = max(0, d[a][p] - 1 + 0.2), max(0, 1 - d[a][q] + 0.2)
            total, count = total + sum(costs), count + sum(cost > 0 for cost in costs)
        return total / count
    if name == "lifted-structure":
        total, count = 0, 0
        for i in range(n):
            for j in range(n):
                if i != j and y[i] == y[j]:
                    apart = [1 - d[k][q] for k in (i, j) for q in range(n) if y[q] != y[k]]
                    total, count = total + max(0, d[i][j] + log_sum(apart)) ** 2 / 2, count + 1
        return total / count
    if name == "multi-similarity":
        total = 0
        for i in range(n):
            near = [math.exp(-2 * (cosine[i][j] - 0.5)) for j in range(n) if j != i and y[j] == y[i]]
            far = [math.exp(50 * (cosine[i][j] - 0.5)) for j in range(n) if y[j] != y[i]]
            total += math.log(1 + sum(near)) / 2 + math.log(1 + sum(far)) / 50
        return total / n
    if name == "proxy-nca":
        logits = [[-9 * (2 - 2 * c) for c in row] for row in cosine]
        return sum(log_sum(row) - row[y[i]] for i, row in enumerate(logits)) / n
    assert name == "proxy-anchor"
    near, far = 0, 0
    for c in range(CLASSES):
        near += math.log(1 + sum(math.exp(-32 * (cosine[i][c] - 0.1)) for i in range(n) if y[i] == c))
        far += math.log(1 + sum(math.exp(32 * (cosine[i][c] + 0.1)) for i in range(n) if y[i] != c))
    return (near + far) / CLASSES


@pytest.mark.parametrize("scale", (1.0, 0.1))
@pytest.mark.parametrize("name", TAKEN)
def test_equals_its_formula(name, scale):
    torch.manual_seed(0)
    x = (batch() * scale).detach().requires_grad_()
    loss = build_loss(name, CLASSES, DIM, miner=all_triplets)
    value = loss(x, LABELS)
    proxies = next(loss.parameters(), None)
    assert value.item() == pytest.approx(formula(name, x, proxies), rel=1e-6)
    value.backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert proxies is None or proxies.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TAKEN)
def test_losses_of_distances_see_lengths_and_losses_of_cosines_do_not(name):
    """So nothing is normalized unless you ask for it."""
    torch.manual_seed(0)
    loss = build_loss(name, CLASSES, DIM, miner=all_triplets)
    x = batch().detach()
    same = loss(x, LABELS).item() == pytest.approx(loss(0.5 * x, LABELS).item(), rel=1e-6)
    assert same == (LOSSES[name] == "l2")


def test_the_margin_loss_looks_where_its_miner_does():
    x = 0.1 * batch().detach()
    drawn = build_loss("margin", CLASSES, DIM, miner=hard_negatives)(x, LABELS)
    assert drawn != build_loss("margin", CLASSES, DIM, miner=all_triplets)(x, LABELS)
    first, second = (
        build_loss(
            "margin", CLASSES, DIM, miner=distance_weighted, generator=torch.Generator().manual_seed(s)
        )
        for s in (1, 1)
    )
    assert first(x, LABELS) == second(x, LABELS)


def test_an_unknown_loss_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(ValueError, match="name must be .*'triplets'"):
        build_loss("triplets", 2, 2)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r"pip install 'mdrlib\[pml\]'"):
        build_loss("contrastive", 2, 2)


@pytest.mark.parametrize("backend", ("eager", "tiled"))
@pytest.mark.parametrize("name", ("contrastive", "triplet", "proxy-anchor"))
def test_as_a_regularizer_there_and_as_a_module_here_it_is_the_same(name, backend):
    """Loss, all gradients, running statistics; lambda 0.3, nu 0.01; over three steps."""
    plain = {"normalize_embeddings": False}
    make = {
        "contrastive": lambda **o: losses.ContrastiveLoss(distance=distances.LpDistance(**plain), **o),
        "triplet": lambda **o: losses.TripletMarginLoss(distance=distances.LpDistance(**plain), **o),
        "proxy-anchor": lambda **o: losses.ProxyAnchorLoss(CLASSES, DIM, **o),
    }[name]
    torch.manual_seed(0)
    regularizer = MDRRegularizer(backend=backend, level_weight=0.01 / 0.3).double()
    theirs = make(embedding_regularizer=regularizer, embedding_reg_weight=0.3)
    torch.manual_seed(0)
    bare, mdr = make(), MDR(backend=backend).double()
    for step in range(3):
        there, here = batch(step), batch(step)
        total = theirs(there, LABELS)
        here_total = bare(here, LABELS) + 0.3 * mdr(here) + 0.01 * mdr.level_penalty()
        torch.testing.assert_close(total, here_total, rtol=1e-12, atol=0)
        wrt_there = [there, *theirs.parameters()]
        by_name = dict(bare.named_parameters())
        wrt_here = [here] + [
            mdr.levels if key.endswith("mdr.levels") else by_name[key] for key, _ in theirs.named_parameters()
        ]
        for a, b in zip(
            torch.autograd.grad(total, wrt_there), torch.autograd.grad(here_total, wrt_here), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(regularizer.mdr.state_dict(), mdr.state_dict(), rtol=1e-12, atol=0)


def test_methods_are_read_or_refused():
    assert method_parts("triplet") == ("triplet", "mean-distance", False)
    assert method_parts("triplet+l2+mdr") == ("triplet", "l2", True)
    assert method_parts("proxy-anchor+mdr") == ("proxy-anchor", "l2", True)
    config = Config(method="contrastive+mdr", head="none")
    assert (config.loss, config.normalize, config.with_mdr) == ("contrastive", "none", True)
    for wrong in ("", "mdr", "triplet+", "triplet+mdr+l2", "triplet+mdr+mdr", "Triplet", "arcface"):
        with pytest.raises(ValueError, match="method must be one of"):
            Config(method=wrong)


def test_a_run_trains_proxies_for_the_classes_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    config = Config(
        method="proxy-anchor+mdr",
        backbone="tiny",
        iterations=8,
        batch_size=32,
        dim=16,
        evaluate_every=4,
        train_classes=20,
        label_noise=0.2,
    )
    history = run(config, tmp_path / "run").history
    state = checkpoint.load(tmp_path / "run/checkpoint.pt")
    assert state["loss"]["proxies"].shape == (20, 16)
    assert history[2]["loss"] < history[1]["loss"] and history[2]["running_std"] > 0


def test_every_miner_has_its_name():
    assert set(MINERS) == {
        "distance_weighted", "semihard_negatives", "hard_negatives", "random_negatives", "all_triplets"
    }  # fmt: skip
