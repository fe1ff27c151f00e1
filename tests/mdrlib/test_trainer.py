"""The loop against an update by hand, its history, and stopping and going on at every iteration."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from mdrlib import MDR, checkpoint, trainer
from mdrlib.datasets import PKBatchSampler
from mdrlib.datasets.loader import in_memory
from mdrlib.evaluation import History
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MemoryBank
from mdrlib.miners import all_triplets
from mdrlib.models import build_embedder
from mdrlib.trainer import Trainer, progress

CLASSES, EACH, SIZE = 6, 5, 8
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)
IMAGES = torch.randint(256, (len(LABELS), 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")


class Linear(nn.Module):
    """Embeddings (N, dim) in double precision, so that an oracle need not forgive rounding."""

    def __init__(self, dim=4):
        super().__init__()
        self.layer = nn.Linear(SIZE * SIZE, dim).double()

    def forward(self, images):
        return self.layer(images.double().flatten(1))


class Loss(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def small_model():
    """With batch norm, whose running statistics are state too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIZE * SIZE), nn.Linear(SIZE * SIZE, 4))


def make(
    model=None,
    loss=None,
    mdr=None,
    iterations=6,
    evaluate=None,
    evaluate_every=100,
    augment=False,
    images=IMAGES,
    keep_best=None,
    lr=0.01,
    lr_steps=(),
    loss_lr=0.01,
    weight_decay=0.0,
    **settings,
):
    """A Trainer of a linear model on images, 4 classes x 3 a batch; its batches and its History."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    sampler = PKBatchSampler(LABELS, 12, 3, iterations)
    if loss is None:
        loss = TripletLoss(0.2, generator=generator)
    loss, model = loss if isinstance(loss, nn.Module) else Loss(loss), model or Linear()
    groups = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    if mdr is not None:
        groups.append({"params": list(mdr.parameters())})
    if list(loss.parameters()):
        groups.append({"params": list(loss.parameters()), "lr": loss_lr})
    optimizer = torch.optim.Adam(groups, lr=lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(lr_steps), 0.2)
    made = Trainer(model, loss, optimizer, scheduler, mdr, **settings)
    made.batches = lambda start: in_memory(images, LABELS, sampler, generator, augment, start=start)
    made.generator, made.every, made.last = generator, evaluate_every, iterations
    evaluate = evaluate or (lambda model: ({"recall@1": 0.5}, {"count": torch.tensor([1])}))
    made.history = History(evaluate, keep_best)
    return made


def evaluate_now_and_then(made):
    if made.iteration in (0, made.last) or made.iteration % made.every == 0:
        made.history.add(made)


def fit(made, *callbacks):
    made.fit(made.batches, [evaluate_now_and_then, *callbacks])
    return made


def state_of(made):
    """All that goes on; copies, as a file has."""
    random = {"generator": made.generator.get_state(), "rng": checkpoint.rng_state()}
    return copy.deepcopy(made.state_dict() | made.history.state_dict() | random)


def restore(made, state):
    made.load_state_dict(state)
    made.history.load_state_dict(state)
    made.generator.set_state(state["generator"])
    checkpoint.set_rng_state(state["rng"])


class Oracle:
    """The same training in float64, from the equations: triplets by loops, MDR by pairs, Adam by hand."""

    def __init__(self, layer, levels, margin, mdr_weight, level_weight, momentum, weight_decay):
        self.parameters = [p.detach().clone() for p in (*layer.parameters(), levels)]
        self.decays = [weight_decay, weight_decay, 0.0]
        self.averages = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.margin, self.mdr_weight, self.level_weight = margin, mdr_weight, level_weight
        self.momentum, self.mean, self.std, self.steps = momentum, None, None, 0

    def step(self, images, labels, lr):
        weight, bias, levels = leaves = [p.clone().requires_grad_() for p in self.parameters]
        x = (images.float() / 255).double().flatten(1) @ weight.T + bias
        n = len(x)
        pairs = {(i, j): (x[i] - x[j]).norm() for i in range(n) for j in range(n) if i != j}
        triplets = [
            torch.relu(pairs[a, p] - pairs[a, q] + self.margin)
            for a, p in pairs
            for q in range(n)
            if labels[a] == labels[p] != labels[q]
        ]
        loss, d = torch.stack(triplets).mean(), torch.stack(list(pairs.values()))
        mean, std = d.detach().mean(), d.detach().std()
        first, g = self.mean is None, self.momentum
        self.mean = mean if first else g * self.mean + (1 - g) * mean
        self.std = std if first else g * self.std + (1 - g) * std
        z = (d - self.mean) / self.std
        regularizer = (z[:, None] - levels).abs().amin(1).mean()
        (loss + self.mdr_weight * regularizer + self.level_weight * (levels**2).sum()).backward()
        self.steps += 1
        for k, (leaf, decay, (m, v)) in enumerate(zip(leaves, self.decays, self.averages, strict=True)):
            gradient = leaf.grad + decay * leaf.detach()
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient**2)
            unbiased = (v / (1 - 0.999**self.steps)).sqrt() + 1e-8
            self.parameters[k] = leaf.detach() - lr * m / (1 - 0.9**self.steps) / unbiased
        return loss.item(), regularizer.item()


def test_steps_follow_the_equations():
    mdr = MDR((-1.0, 0.2, 2.0), momentum=0.75).double()
    settings = {"mdr_weight": 0.7, "level_weight": 0.3, "weight_decay": 0.5}
    made = make(
        loss=TripletLoss(0.4, miner=all_triplets),
        mdr=mdr,
        lr_steps=(2, 4),
        evaluate_every=1,
        **settings,
    )
    oracle = Oracle(made.model.layer, mdr.levels, margin=0.4, momentum=0.75, **settings)
    batches = [PKBatchSampler(LABELS, 12, 3, 6).batch(t) for t in range(6)]
    fit(made)
    for batch, lr, row in zip(
        batches, (0.01, 0.01, 2e-3, 2e-3, 4e-4, 4e-4), made.history.rows[1:], strict=True
    ):
        loss, regularizer = oracle.step(IMAGES[batch], LABELS[batch], lr)
        assert row["loss"] == pytest.approx(loss, rel=1e-9)
        assert row["regularizer"] == pytest.approx(regularizer, rel=1e-9)
        assert row["running_mean"] == pytest.approx(oracle.mean.item(), rel=1e-9)
        assert row["running_std"] == pytest.approx(oracle.std.item(), rel=1e-9)
        levels = [row[f"level_{k}"] for k in range(3)]
        assert levels == pytest.approx(oracle.parameters[2].tolist(), rel=1e-7)
    for found, expected in zip(made.model.parameters(), oracle.parameters[:2], strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-9)


def nothing(embeddings, labels):
    return embeddings.sum() * 0


def test_mdr_in_units_of_distance_does_not_pull_harder_where_distances_are_alike():
    pulls = {}
    for in_distance in (False, True):
        for size in (1.0, 0.01):
            layer = torch.nn.Linear(4, 3).double()
            layer.weight.data = torch.eye(3, 4).double() * size
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
            scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
            mdr = MDR().double()
            trainer = Trainer(
                *(layer, nothing, optimizer, scheduler, mdr), mdr_weight=0.5, mdr_in_distance=in_distance
            )
            generator = torch.Generator().manual_seed(0)
            trainer.step(torch.randn(12, 4, generator=generator, dtype=torch.float64), torch.arange(12) // 3)
            pulls[in_distance, size] = layer.weight.grad.norm().item()
    assert pulls[False, 0.01] == pytest.approx(100 * pulls[False, 1.0], rel=1e-6)
    assert pulls[True, 0.01] == pytest.approx(pulls[True, 1.0], rel=1e-6)


def test_weight_decay_leaves_the_levels_alone():
    mdr = MDR()
    made = fit(make(mdr=mdr, weight_decay=10.0, mdr_weight=0.0, level_weight=0.0))
    assert mdr.levels.tolist() == [-3.0, 0.0, 3.0]
    assert made.model.layer.weight.norm() < make().model.layer.weight.norm()
    fixed = MDR(learn_levels=False)
    fit(make(mdr=fixed, mdr_weight=1.0, level_weight=1.0))
    assert fixed.levels.tolist() == [-3.0, 0.0, 3.0]


def test_without_mdr_the_weights_of_its_terms_do_nothing():
    plain, weighted = (fit(make(**w)) for w in ({}, {"mdr_weight": 5.0, "level_weight": 5.0}))
    assert torch.equal(plain.model.layer.weight, weighted.model.layer.weight)
    assert not [
        key for key in plain.history.rows[-1] if key.startswith(("level", "occupancy", "running", "reg"))
    ]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_batch_norm_keeps_its_statistics(frozen):
    model = build_embedder("small", 4, "mean-distance", freeze_batch_norm=frozen)
    made = make(model=model, iterations=1, images=torch.nn.functional.interpolate(IMAGES, size=32))
    before = {key: value.clone() for key, value in model.named_buffers()}
    fit(made)
    assert len(before) == 12
    assert [torch.equal(value, before[key]) for key, value in model.named_buffers()] == [frozen] * 12


def test_the_history_is_of_the_iterations_since_the_row_before():
    losses, batches = [], []

    def loss(x, y):
        losses.append(x.square().mean())
        batches.append(x.detach())
        return losses[-1]

    mdr = MDR((-1.0, 0.0, 1.0))
    made = make(loss=loss, mdr=mdr, iterations=7, evaluate_every=3)
    fit(made)
    first, *rows = made.history.rows
    assert [row["iteration"] for row in made.history.rows] == [0, 3, 6, 7]
    for row, part in zip(rows, (slice(0, 3), slice(3, 6), slice(6, 7)), strict=True):
        assert row["loss"] == pytest.approx(torch.stack(losses[part]).mean().item(), rel=1e-6)
    columns = ["iteration", "seconds", "images_per_second", "lr", "loss", "regularizer", "running_mean"]
    columns += ["running_std", "level_0", "level_1", "level_2"]
    assert list(first) == [*columns, "recall@1"]
    assert first["loss"] is first["images_per_second"] is first["running_mean"] is None
    assert [first[f"level_{k}"] for k in range(3)] == [-1.0, 0.0, 1.0]
    for row in rows:
        assert list(row) == [*columns, "occupancy_0", "occupancy_1", "occupancy_2", "recall@1"]
        assert sum(row[f"occupancy_{k}"] for k in range(3)) == pytest.approx(1, abs=1e-6)
        assert row["images_per_second"] > 0 and row["recall@1"] == 0.5
        assert all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
    seconds = [row["seconds"] for row in made.history.rows]
    assert seconds == sorted(seconds) and made.seconds >= seconds[-1]
    # Of the last batch: the share of its pairs nearest to each level.
    d = torch.pdist(batches[-1])
    z = (d - mdr.running_mean) / mdr.running_std
    nearest = (z[:, None] - mdr.levels.detach()).abs().argmin(1)
    shares = (nearest.bincount(minlength=3) / len(d)).tolist()
    assert [made.history.rows[-1][f"occupancy_{k}"] for k in range(3)] == pytest.approx(shares)


def test_all_time_spent_is_counted_and_the_time_between_two_calls_is_not(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: clock[0])

    def spend(seconds, value=None):
        clock[0] += seconds
        return value

    def evaluate(model):
        return spend(100, ({"recall@1": 0.0}, {}))

    def loss(x, y):
        return spend(1, x.square().mean())

    settings = {"loss": loss, "evaluate": evaluate, "iterations": 4, "evaluate_every": 2}
    made = fit(make(**settings))
    assert made.seconds == 4 + 3 * 100 and made.training_seconds == 4
    state = state_of(made)
    assert [row["images_per_second"] for row in made.history.rows] == [None, 12.0, 12.0]
    spend(1000)
    again = make(**settings)
    restore(again, state)
    assert fit(again).history.rows == made.history.rows and again.seconds == 304


def test_the_best_weights_are_kept_until_the_model_has_them():
    scores, seen = [0.2, 0.9, 0.4, 0.9], []

    def evaluate(model):
        seen.append(model.layer.weight.clone())
        return {"recall@1": 0.0, "validation_recall@1": scores[len(seen) - 1]}, {}

    made = fit(make(evaluate=evaluate, keep_best="validation_recall@1", evaluate_every=2))
    assert made.history.best == 1 and torch.equal(made.history.best_weights["layer.weight"], seen[1])
    assert not torch.equal(seen[1], seen[3])
    for _ in range(2):  # again after a stop between the last checkpoint and the result
        assert made.history.select(made.model) is made.history.rows[1]
        assert torch.equal(made.model.layer.weight, seen[1]) and made.history.best_weights == {}
    assert fit(make()).history.select(None)["iteration"] == 6, "the last one where none is kept"


def test_a_loss_that_is_not_finite_ends_the_run_with_advice():
    made = make(loss=lambda x, y: x.sum() * float("nan"), evaluate_every=2)
    with pytest.raises(FloatingPointError, match="loss is nan at iteration 2: lower lr"):
        fit(made)
    # With the triplet loss, embeddings that blow up are met first, and say the same.
    with pytest.raises(ValueError, match="NaN or infinite values.* learning rate"):
        fit(make(model=small_model(), mdr=MDR(), mdr_weight=0.1, lr=1e30))


def same(a, b):
    """Equal to the last bit, in all that tensors, lists and dicts hold; NaN is nowhere."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def timeless(state):
    """A state without what differs between any two runs."""
    timed = ("seconds", "images_per_second")
    history = [{key: row[key] for key in row if key not in timed} for row in state["history"]]
    return {key: value for key, value in state.items() if key != "seconds"} | {"history": history}


def resumable(bank=None):
    def evaluate(model):
        score = sum(p.abs().sum().item() for p in model.parameters())
        return {"validation_recall@1": math.sin(50 * score)}, {"x": model[2].bias.detach().clone()}

    return make(
        model=small_model(),
        loss=TripletLoss(0.2),  # draws from torch's own generator
        mdr=MDR((-1.0, 1.0)),
        iterations=9,
        evaluate=evaluate,
        lr_steps=(3, 5),
        weight_decay=0.01,
        mdr_weight=0.5,
        level_weight=0.1,
        evaluate_every=4,
        augment=True,
        keep_best="validation_recall@1",
        bank=bank,
    )


def test_mdr_sees_the_embeddings_of_past_batches():
    seen = []

    class Watched(MDR):
        def forward(self, x, bank=None):
            seen.append((x.detach().clone(), bank.clone()))
            return super().forward(x, bank)

    made = fit(make(mdr=Watched(), bank=MemoryBank(30, 4), mdr_weight=0.1))
    past = torch.cat([x for x, _ in seen]).float()
    for t, (_, bank) in enumerate(seen):
        assert len(bank) == min(12 * t, 30)
        assert same(sorted(bank.tolist()), sorted(past[max(0, 12 * t - 30) : 12 * t].tolist()))
    assert not same(made.model.layer.weight, fit(make(mdr=MDR(), mdr_weight=0.1)).model.layer.weight)


@pytest.mark.parametrize("bank", [0, 20])
def test_a_run_continues_at_every_iteration_with_the_same_bits(bank):
    def begin():
        return resumable(MemoryBank(bank, 4) if bank else None)

    kept = []
    whole = timeless(state_of(fit(begin(), lambda made: kept.append(state_of(made)))))
    assert [state["iteration"] for state in kept] == list(range(10))
    for state in kept[1:]:
        again = begin()
        torch.manual_seed(1234)  # another process has drawn other numbers
        restore(again, state)
        assert same(timeless(state_of(fit(again))), whole), state["iteration"]


def test_callbacks_come_before_the_first_iteration_and_after_each():
    seen = []
    fit(make(iterations=3), lambda made: seen.append(made.iteration))
    assert seen == [0, 1, 2, 3]


def test_progress_in_lines_for_logs(monkeypatch, capsys):
    monkeypatch.setenv("MDR_PROGRESS", "lines")
    monkeypatch.setattr(trainer, "LINE_SECONDS", -1)
    made = make(iterations=2)
    fit(made, progress("glyphs triplet", 2))
    said = capsys.readouterr()
    assert said.err == "" and re.fullmatch(
        r"(glyphs triplet  iteration \d/2  loss \d\.\d{4}  \d+ s\n){3}", said.out
    )
    monkeypatch.setattr(trainer, "LINE_SECONDS", 1000)
    fit(make(iterations=5), progress("a run", 5))
    assert capsys.readouterr().out.startswith("a run  iteration 5/5"), "the last one always"


def test_progress_as_a_bar_and_not_at_all(monkeypatch, capfd):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    fit(make(iterations=2), progress("a run", 2))
    assert capfd.readouterr() == ("", "")
    monkeypatch.delenv("MDR_PROGRESS")
    fit(make(iterations=2), progress("a run", 2))
    said = capfd.readouterr()
    assert said.out == "" and "a run" in said.err and "2/2" in said.err and "loss=" in said.err


class Proxies(nn.Module):
    """A loss with parameters: squared distances to the proxy of each class."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(CLASSES, 4, dtype=torch.float64))

    def forward(self, x, y):
        return (x - self.proxies[y]).square().mean()


def test_proxies_learn_with_their_own_rate():
    made = fit(make(loss=Proxies(), iterations=4, lr=0.01, lr_steps=(2,), loss_lr=0.1))
    # Adam's steps are the learning rate while the gradient's sign stays: 2 of 0.1, then 2 of 0.02.
    assert (made.loss.proxies - 1).abs().max().item() == pytest.approx(0.24, rel=0.1)


def test_images_and_network_are_laid_out_channels_last_when_asked():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            seen.append((x.is_contiguous(memory_format=torch.channels_last), self.layer.weight.stride(1)))
            return self.layer(x).mean((2, 3))

    for on in (False, True):
        fit(make(model=Watched(), images=IMAGES.expand(-1, 3, -1, -1), iterations=1, channels_last=on))
    assert seen == [(False, 9), (True, 1)]
