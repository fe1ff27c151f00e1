"""The loop against an update by hand, its history, and stopping and going on at every iteration."""

import math

import pytest
import torch
from torch import nn

from mdrlib import MDR, checkpoint, trainer
from mdrlib.batches import in_memory
from mdrlib.datasets import PKBatchSampler
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MemoryBank
from mdrlib.miners import all_triplets
from mdrlib.models import build_embedder
from mdrlib.trainer import Trainer

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
    model=None, loss=None, mdr=None, iterations=6, evaluate=None, augment=False, images=IMAGES, **settings
):
    """A Trainer of a linear model on images, 4 classes x 3 a batch, without augmentation."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    sampler = PKBatchSampler(LABELS, 12, 3, iterations)
    if loss is None:
        loss = TripletLoss(0.2, generator=generator)
    return Trainer(
        model=model or Linear(),
        loss=loss if isinstance(loss, nn.Module) else Loss(loss),
        mdr=mdr,
        batches=in_memory(images, LABELS, sampler, generator, augment),
        sampler=sampler,
        evaluate=evaluate or (lambda model: ({"recall@1": 0.5}, {"count": torch.tensor([1])})),
        generator=generator,
        **({"lr": 0.01} | settings),
    )


def fit(made, folder):
    made.fit(folder / "checkpoint.pt", "a run", {"config": "mine"}, lambda history: None)
    return made


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


def test_steps_follow_the_equations(tmp_path):
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
    batches = [made.sampler.batch(t) for t in range(6)]
    fit(made, tmp_path)
    for batch, lr, row in zip(batches, (0.01, 0.01, 2e-3, 2e-3, 4e-4, 4e-4), made.history[1:], strict=True):
        loss, regularizer = oracle.step(IMAGES[batch], LABELS[batch], lr)
        assert row["loss"] == pytest.approx(loss, rel=1e-9)
        assert row["regularizer"] == pytest.approx(regularizer, rel=1e-9)
        assert row["running_mean"] == pytest.approx(oracle.mean.item(), rel=1e-9)
        assert row["running_std"] == pytest.approx(oracle.std.item(), rel=1e-9)
        levels = [row[f"level_{k}"] for k in range(3)]
        assert levels == pytest.approx(oracle.parameters[2].tolist(), rel=1e-7)
    for found, expected in zip(made.model.parameters(), oracle.parameters[:2], strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-9)


def test_weight_decay_leaves_the_levels_alone(tmp_path):
    mdr = MDR()
    made = fit(make(mdr=mdr, weight_decay=10.0, mdr_weight=0.0, level_weight=0.0), tmp_path)
    assert mdr.levels.tolist() == [-3.0, 0.0, 3.0]
    assert made.model.layer.weight.norm() < make().model.layer.weight.norm()
    fixed = MDR(learn_levels=False)
    fit(make(mdr=fixed, mdr_weight=1.0, level_weight=1.0), tmp_path)
    assert fixed.levels.tolist() == [-3.0, 0.0, 3.0]


def test_without_mdr_the_weights_of_its_terms_do_nothing(tmp_path):
    plain, weighted = (fit(make(**w), tmp_path) for w in ({}, {"mdr_weight": 5.0, "level_weight": 5.0}))
    assert torch.equal(plain.model.layer.weight, weighted.model.layer.weight)
    assert not [key for key in plain.history[-1] if key.startswith(("level", "occupancy", "running", "reg"))]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_batch_norm_keeps_its_statistics(tmp_path, frozen):
    model = build_embedder("small", 4, "mean-distance", freeze_batch_norm=frozen)
    made = make(model=model, iterations=1, images=torch.nn.functional.interpolate(IMAGES, size=32))
    before = {key: value.clone() for key, value in model.named_buffers()}
    fit(made, tmp_path)
    assert len(before) == 12
    assert [torch.equal(value, before[key]) for key, value in model.named_buffers()] == [frozen] * 12


def test_the_history_is_of_the_iterations_since_the_row_before(tmp_path):
    losses, batches, reports = [], [], []

    def loss(x, y):
        losses.append(x.square().mean())
        batches.append(x.detach())
        return losses[-1]

    mdr = MDR((-1.0, 0.0, 1.0))
    made = make(loss=loss, mdr=mdr, iterations=7, evaluate_every=3)
    made.fit(tmp_path / "c.pt", "a run", {}, lambda history: reports.append(len(history)))
    first, *rows = made.history
    assert [row["iteration"] for row in made.history] == [0, 3, 6, 7] and reports == [1, 2, 3, 4]
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
    assert [row["seconds"] for row in made.history] == sorted(row["seconds"] for row in made.history)
    assert made.seconds >= made.history[-1]["seconds"]
    # Of the last batch: the share of its pairs nearest to each level.
    d = torch.pdist(batches[-1])
    z = (d - mdr.running_mean) / mdr.running_std
    nearest = (z[:, None] - mdr.levels.detach()).abs().argmin(1)
    shares = (nearest.bincount(minlength=3) / len(d)).tolist()
    assert [made.history[-1][f"occupancy_{k}"] for k in range(3)] == pytest.approx(shares)


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
    made = fit(make(**settings), tmp_path)
    assert made.seconds == 4 + 3 * 100 and made.training_seconds == 4
    assert [row["images_per_second"] for row in made.history] == [None, 12.0, 12.0]
    spend(1000)
    again = make(**settings)
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    assert fit(again, tmp_path).history == made.history and again.seconds == 204


def test_the_best_evaluation_is_remembered_with_its_weights(tmp_path):
    scores, seen = [0.2, 0.9, 0.4, 0.9], []

    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        seen.append(model.layer.weight.clone())
        return {"recall@1": 0.0, "validation_recall@1": scores[len(seen) - 1]}, {}

    made = make(evaluate=evaluate, keep_best="validation_recall@1", evaluate_every=2)
    fit(made, tmp_path)
    assert made.best == 1 and torch.equal(made.best_weights["layer.weight"], seen[1])
    assert not torch.equal(seen[1], seen[3])
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    assert saved["best"] == 1 and torch.equal(saved["best_weights"]["layer.weight"], seen[1])


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(tmp_path):
    made = make(loss=lambda x, y: x.sum() * float("nan"), evaluate_every=2)
    with pytest.raises(FloatingPointError, match="the loss is nan at iteration 2: lower lr"):
        fit(made, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists(), "what is broken is not kept"
    # With the triplet loss, embeddings that blow up are met first, and say the same.
    with pytest.raises(ValueError, match="NaN or infinite values.* learning rate"):
        fit(make(model=small_model(), mdr=MDR(), mdr_weight=0.1, lr=1e30), tmp_path)


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
        return {"validation_recall@1": math.sin(50 * score)}, {"x": model[2].bias.clone()}

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


def test_mdr_sees_the_embeddings_of_past_batches(tmp_path):
    seen = []

    class Watched(MDR):
        def forward(self, x, bank=None):
            seen.append((x.detach().clone(), bank.clone()))
            return super().forward(x, bank)

    made = fit(make(mdr=Watched(), bank=MemoryBank(30, 4), mdr_weight=0.1), tmp_path)
    past = torch.cat([x for x, _ in seen]).float()
    for t, (_, bank) in enumerate(seen):
        assert len(bank) == min(12 * t, 30)
        assert same(sorted(bank.tolist()), sorted(past[max(0, 12 * t - 30) : 12 * t].tolist()))
    assert not same(
        made.model.layer.weight, fit(make(mdr=MDR(), mdr_weight=0.1), tmp_path).model.layer.weight
    )


@pytest.mark.parametrize("bank", [0, 20])
def test_a_run_goes_on_at_every_iteration_with_the_same_bits(tmp_path, monkeypatch, bank):
    def begin():
        return resumable(MemoryBank(bank, 4) if bank else None)

    whole = timeless(fit(begin(), tmp_path).state_dict())
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1)
    kept = []
    monkeypatch.setattr(checkpoint, "save", lambda path, state: kept.append(state))
    path = tmp_path / "checkpoint.pt"
    for stop in range(1, 10):
        first, count = begin(), len(kept)
        first.sampler.iterations, first.sampler.__class__ = stop, Stopping
        with pytest.raises(KeyboardInterrupt):
            fit(first, tmp_path)
        assert len(kept) == count + stop and kept[-1]["config"] == "mine"
        torch.save(kept[-1], path)
        second = begin()
        torch.manual_seed(1234)  # another process has drawn other numbers
        second.load_state_dict(checkpoint.load(path))
        assert second.iteration == stop
        assert same(timeless(fit(second, tmp_path).state_dict()), whole), stop


class Stopping(PKBatchSampler):
    """Ctrl-C instead of the batch after the last; its length stays that of the whole run."""

    def __len__(self):
        return 9

    def __iter__(self):
        yield from super().__iter__()
        raise KeyboardInterrupt


def test_a_checkpoint_is_written_at_evaluations_and_when_time_has_passed(tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", lambda path, state: saved.append(state["iteration"]))

    def loss(x, y):
        clock[0] += 4
        return x.square().mean()

    fit(make(loss=loss, iterations=13, evaluate_every=6), tmp_path)
    assert trainer.SAVE_SECONDS == 15 and saved == [4, 6, 10, 12, 13]


def test_a_state_of_another_kind_of_device_is_taken_but_for_its_generator(tmp_path):
    made = fit(make(), tmp_path)
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    gpus = torch.zeros(16, dtype=torch.uint8)  # seed and offset are all there is to a GPU's generator
    other = make()
    before = other.generator.get_state()
    other.load_state_dict(state | {"generator": gpus})
    assert other.iteration == 6 and torch.equal(other.model.layer.weight, made.model.layer.weight)
    assert torch.equal(other.generator.get_state(), before)


class Proxies(nn.Module):
    """A loss with parameters: squared distances to the proxy of each class."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(CLASSES, 4, dtype=torch.float64))

    def forward(self, x, y):
        return (x - self.proxies[y]).square().mean()


def test_proxies_learn_with_their_own_rate_and_are_kept(tmp_path):
    settings = {"iterations": 4, "lr": 0.01, "lr_steps": (2,), "lr_decay": 0.5, "loss_lr": 0.1}
    whole = fit(make(loss=Proxies(), **settings), tmp_path)
    # Adam's steps are the learning rate while the gradient's sign stays: 2 of 0.1, then 2 of 0.05.
    moved = (whole.loss.proxies - 1).abs().max().item()
    assert moved == pytest.approx(0.3, rel=0.1)
    half = make(loss=Proxies(), **settings)
    for _, (images, labels) in zip(range(2), half.batches, strict=False):
        half._step(images, labels)
        half.iteration += 1
    again = make(loss=Proxies(), **settings)
    again.load_state_dict(half.state_dict())
    assert torch.equal(again.loss.proxies, half.loss.proxies)
    fit(again, tmp_path)
    assert torch.equal(again.loss.proxies, whole.loss.proxies)
    old = make().state_dict()
    del old["loss"]  # a checkpoint of before losses had parameters
    make().load_state_dict(old)
