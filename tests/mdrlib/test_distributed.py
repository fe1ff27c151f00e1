"""Two processes against one: steps, evaluation, runs; a process that dies, and going on after it.

This file is also what torchrun starts: each process then writes what it saw to a folder, and the tests
compare. One pair of processes does it all, since importing torch takes each of them seconds.
"""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mdrlib import MDR, distributed, experiment
from mdrlib.__main__ import main
from mdrlib.datasets import PKBatchSampler, glyphs, load, loader
from mdrlib.datasets.loader import in_memory
from mdrlib.datasets.transforms import to_float
from mdrlib.experiment import Config, pick_device, run
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MemoryBank
from mdrlib.models import EmbeddingNetwork, build_embedder
from mdrlib.results import load_run
from mdrlib.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]

ROOT = Path(__file__).resolve().parents[2]
LABELS = torch.arange(6).repeat_interleave(5)
IMAGES = torch.randint(256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
TINY = {"ALPHABETS": 2, "CHARACTERS": 5, "WRITERS": 8}  # of glyphs: 10 characters, 80 drawings in a split
CONFIG = Config(dim=8, batch_size=16, iterations=6, evaluate_every=3, lr=0.01, device="cpu")
RUNS = {
    "triplet": replace(CONFIG, method="triplet"),
    "l2": replace(CONFIG, method="triplet+l2", freeze_batch_norm=True),
    "mdr": replace(CONFIG, method="triplet+mdr", memory_bank=40, validation=0.4, evaluate_every=2),
}
STOPPED = replace(RUNS["mdr"], seed=1)
DIGITS = Config(dataset="digits", dim=8, batch_size=16, iterations=6, evaluate_every=3, device="cpu")
UNSHARED = replace(CONFIG, batch_size=12)  # three classes
YAML = "dim: 8\nbatch_size: 16\niterations: 6\nevaluate_every: 3\ndevice: cpu\n"
# Head, then what MDR and the loss are, and how the step is taken.
STEPS = {
    "none": ("none", {}),
    "l2": ("l2", {"augment": True}),
    "mean-distance": ("mean-distance", {"parameters": True}),
    "mean-distance frozen": ("mean-distance", {"frozen": True}),
    "mean-distance channels_last": ("mean-distance", {"channels_last": True}),
    "eager": ("mean-distance", {"mdr": "eager", "augment": True}),
    "tiled": ("mean-distance", {"mdr": "tiled", "bank": True}),
    "none tiled": ("none", {"mdr": "tiled"}),
    "bf16": ("mean-distance", {"mdr": "tiled", "bf16": True}),
}


class Double(nn.Module):
    """Makes what follows double precision: two orders of addition then agree to 1e-12."""

    def forward(self, images):
        return images.double()


class Centres(TripletLoss):
    """A loss with parameters of its own."""

    def __init__(self, generator):
        super().__init__(0.2, generator=generator)
        self.centres = nn.Parameter(torch.ones(6, 5).double())

    def forward(self, x, labels):
        return super().forward(x, labels) + (x - self.centres[labels]).square().sum(1).sqrt().mean()


def trace(head, mdr=None, bank=False, augment=False, parameters=False, frozen=False, **settings):
    """All that four steps do, in this process: losses, embeddings, gradients, levels, buffers."""
    torch.manual_seed(0)
    precision = nn.Identity() if settings.get("bf16") else Double()
    layers = [precision, nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    model = EmbeddingNetwork(nn.Sequential(*layers, nn.BatchNorm1d(144, momentum=None)), 144, 5, head, frozen)
    model = model if settings.get("bf16") else model.double()
    generator = torch.Generator().manual_seed(1)
    place = distributed.rank(), distributed.world_size()
    sampler = PKBatchSampler(LABELS, 12, 3, 4, 0, *place)
    loss = Centres(generator) if parameters else TripletLoss(0.2, generator=generator)
    regularizer = mdr and MDR((-1.0, 0.2, 2.0), backend=mdr).double()
    past = MemoryBank(20, 5).double() if bank else None
    parts = [part for part in (model, loss, regularizer) if part is not None]
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [])
    made = Trainer(model, loss, optimizer, scheduler, regularizer, past, 0.5, 0.1, **settings)
    modules = {"model": made.model, "loss": made.loss, "mdr": made.mdr, "bank": made.bank}
    steps = []
    for images, labels in in_memory(IMAGES, LABELS, sampler, generator, augment):
        made.step(images, labels)
        seen = {"sums": made.sums, "embeddings": made.embeddings}
        for part, module in modules.items():
            if module is not None:
                seen |= {f"{part} {k}": v for k, v in module.state_dict().items()}
                seen |= {f"{part} {k} gradient": p.grad for k, p in module.named_parameters()}
        steps.append({k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in seen.items()})
    return steps


def rounding(dtype=torch.float32):
    """The embeddings of a whole batch by the network of the stored runs, in training mode."""
    torch.manual_seed(0)
    train = load("digits", "train")
    place = distributed.rank(), distributed.world_size()
    chosen = PKBatchSampler(train.labels, 64, 16, 1, 0, *place).batch(0)
    model = distributed.parallel(build_embedder("small", 64, "mean-distance").train().to(dtype))
    gather = {"gather": distributed.gather} if distributed.world_size() > 1 else {}
    return model(to_float(train.images[chosen]).to(dtype), **gather).detach()


def quick(backbone, dim, normalize, pretrained=False, weights=None, freeze_batch_norm=False, pooling=""):
    """A network of milliseconds and double precision in place of the small one."""
    layers = nn.Sequential(Double(), nn.AvgPool2d(4), nn.Flatten(), nn.BatchNorm1d(64))
    return EmbeddingNetwork(layers, 64, dim, normalize, freeze_batch_norm).double()


def patch(monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    for name, value in TINY.items():
        monkeypatch.setattr(glyphs, name, value)
    monkeypatch.setattr(experiment, "build_embedder", quick)


def stop(monkeypatch, folder):
    """STOPPED as it is left when it ends at its fourth step."""
    step = Trainer.step

    def step_or_stop(self, images, labels):
        if self.iteration == 3:
            raise KeyboardInterrupt
        step(self, images, labels)

    with monkeypatch.context() as inner:
        inner.setattr(experiment, "SAVE_SECONDS", -1)
        inner.setattr(Trainer, "step", step_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run(STOPPED, folder)


def error_of(function):
    try:
        function()
    except ValueError as error:
        return str(error)


def both(folder):
    """What each of the two processes does; it ends with the error of one of them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        distributed.join()
        seen = {name: trace(head, **options) for name, (head, options) in STEPS.items()}
        seen["rounding"] = rounding()
        seen["ranks"] = [distributed.local_rank(), distributed.rank(), distributed.world_size()]
        seen["refused"] = error_of(lambda: run(UNSHARED, folder / "unshared"))
        seen["differs"] = error_of(lambda: distributed.agree("the seed", distributed.rank()))
        seen["from first"] = error_of(lambda: distributed.from_first(lambda: int(f"{seen['ranks']}")))
        for name, config in RUNS.items():
            seen[f"run {name}"] = run(config, folder / name).metrics
        run(STOPPED, folder / "one then two")
        stop(monkeypatch, folder / "two then one")
        monkeypatch.setattr(experiment, "build_embedder", build_embedder)
        run(DIGITS, folder / "digits")
        monkeypatch.setattr(experiment, "build_embedder", quick)
        torch.save(seen, folder / f"seen{distributed.rank()}.pt")
        change = loader.random_affine

        def damaged(*arguments, **options):
            if distributed.rank() == 1:
                raise OSError("photo.jpg is damaged")
            return change(*arguments, **options)

        monkeypatch.setattr(loader, "random_affine", damaged)
        return main(["run", str(folder / "config.yml"), "--out", str(folder / "dies")])


def torchrun(*words):
    """torchrun with two processes, from the clone, one thread each."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MDR_PROGRESS": "off", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process, seconds=400):
    """What torchrun has printed, on stdout and stderr, when it has ended."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.terminate()  # if it hangs: it takes its processes along


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of what this process alone does, and what it saw."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        seen = {name: trace(head, **options) for name, (head, options) in STEPS.items()}
        for name, config in RUNS.items():
            seen[f"run {name}"] = run(config, folder / name).metrics
        run(STOPPED, folder / "whole")
    return folder, seen


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes did, what each saw, and how torchrun ended."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        stop(monkeypatch, folder / "one then two")
    folder.joinpath("config.yml").write_text(YAML)
    process = torchrun(__file__, folder)
    said = end_of(process)
    files = [folder / f"seen{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), said[1]
    return folder, [torch.load(file) for file in files], process.returncode, said


def timeless(result):
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed and v is not None} for row in result.history]


def assert_close_history(found, expected, tolerance):
    for row, other in zip(timeless(found), timeless(expected), strict=True):
        assert row == pytest.approx(other, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_two_processes_are_those_of_one(one, two, name):
    # Adam makes steps of rounding where a gradient is zero, as that of a bias that moves all embeddings.
    tolerance, steps = {"rtol": 1e-8, "atol": 1e-8}, 4
    if name == "bf16":  # whose rounding, of one part in 256, later steps would add up
        tolerance, steps = {"rtol": 0.02, "atol": 0.02}, 1
    first, second = (seen[name] for seen in two[1])
    for step, (wanted, here, there) in enumerate(list(zip(one[1][name], first, second, strict=True))[:steps]):
        assert wanted.keys() == here.keys() == there.keys()
        assert len(here["embeddings"]) == 12
        for key, value in wanted.items():
            what = f"{key} after step {step}"
            torch.testing.assert_close(here[key], value, **tolerance, msg=lambda m, w=what: f"{w}: {m}")
            torch.testing.assert_close(there[key], here[key], rtol=0, atol=0)
            assert "gradient" not in key or value.isfinite().all()
    gradients = [key for key in one[1][name][0] if key.endswith("gradient")]
    assert len(gradients) == 7 + ("mdr levels gradient" in gradients) + ("loss centres gradient" in gradients)
    if "frozen" not in name:
        moved = [step["model backbone.2.running_var"] for step in first]
        assert not torch.equal(moved[0], moved[-1])


def test_one_process_rounds_more_than_two_but_both_stay_within_a_bound(two):
    """Batch norm of torch adds up channels-last images in float32; what processes share is contiguous.

    torch adds contiguous images up in float64. The network of the stored runs is channels last: its
    embeddings were 9e-5 from those in float64, those of two processes 9e-7.
    """
    exact = rounding(torch.float64)

    def error(found):
        return float((found - exact).detach().norm() / exact.detach().norm())

    assert error(rounding()) < 1e-3
    for seen in two[1]:
        assert error(seen["rounding"]) < 1e-5
    x = torch.rand(64, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = nn.BatchNorm2d(32).double()(x.double())
    assert error(nn.BatchNorm2d(32)(x)) < 1e-6
    assert error(nn.BatchNorm2d(32)(x.contiguous(memory_format=torch.channels_last))) < 1e-4


def test_runs_of_two_processes_end_with_the_metrics_of_one(one, two):
    for name, config in RUNS.items():
        found, wanted = load_run(two[0] / name), load_run(one[0] / name)
        assert found.metrics == pytest.approx(wanted.metrics, abs=1e-9)
        assert all(seen[f"run {name}"] == found.metrics for seen in two[1])
        assert_close_history(found, wanted, 1e-5)
        assert found.config == wanted.config and found.data == wanted.data
        assert found.environment["processes"] == 2 and "processes" not in wanted.environment
        assert found.selected_by == wanted.selected_by == ("validation" if config.validation else "last")
        with np.load(two[0] / name / "embeddings.npz") as a, np.load(one[0] / name / "embeddings.npz") as b:
            assert a["labels"].tolist() == b["labels"].tolist() and len(a["labels"]) == 80
            np.testing.assert_allclose(a["embeddings"], b["embeddings"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left", ["one then two", "two then one"])
def test_any_number_of_processes_goes_on_with_what_another_left(one, two, left, monkeypatch):
    patch(monkeypatch)
    assert (two[0] / left / "result.json").exists() == (left == "one then two")
    found, wanted = run(STOPPED, two[0] / left), load_run(one[0] / "whole")
    assert found.metrics == pytest.approx(wanted.metrics, abs=1e-9)
    assert_close_history(found, wanted, 1e-5)


def test_the_processes_know_their_numbers_and_share_errors(two):
    for rank, seen in enumerate(two[1]):
        assert seen["ranks"] == [rank, rank, 2]
        assert "multiple of per_class x world_size, got 12 and 4 x 2" in seen["refused"]
        assert seen["differs"] == "the seed differs: 0 in process 0, 1 in process 1"
        assert "invalid literal" in seen["from first"] and "[0, 0, 2]" in seen["from first"]
    assert not (two[0] / "unshared").exists()


def test_the_error_of_one_process_ends_the_job_and_is_shown(two):
    folder, _, status, (_, said) = two
    assert status == 1
    assert "mdrlib (process 1 of 2): photo.jpg is damaged\n" in said
    cause = said.split("Root Cause")[1]
    assert re.search(r"rank +: 1 ", cause) and "OSError: photo.jpg is damaged" in cause
    assert not (folder / "dies" / "result.json").exists()


def test_the_same_command_goes_on_after_a_process_was_killed(two, tmp_path):
    psutil = pytest.importorskip("psutil")
    config, out = tmp_path / "config.yml", tmp_path / "out"
    config.write_text(YAML + "dataset: digits\n")
    words = ("-m", "mdrlib", "run", config, "--out", out)
    process = torchrun(*words)
    ends = time.monotonic() + 400
    while not (out / "checkpoint.pt").exists():
        assert time.monotonic() < ends and process.poll() is None, end_of(process, 0)[1]
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    second = next(child for child in children if child.environ().get("RANK") == "1")
    os.kill(second.pid, signal.SIGKILL)
    assert "SIGKILL" in end_of(process)[1] and process.returncode == 1
    assert not (out / "result.json").exists()
    assert not any(child.is_running() for child in children)

    process = torchrun(*words)
    printed, said = end_of(process)
    assert process.returncode == 0, said
    found, wanted = load_run(out), load_run(two[0] / "digits")
    assert found.metrics == wanted.metrics and timeless(found) == timeless(wanted)
    assert printed.count('"recall@1"') == 1, "the first process alone prints"
    with np.load(out / "embeddings.npz") as a, np.load(two[0] / "digits" / "embeddings.npz") as b:
        assert a["embeddings"].tobytes() == b["embeddings"].tobytes()
    rows = list(csv.DictReader((out / "history.csv").open()))
    assert [row["iteration"] for row in rows] == ["0", "3", "6"]


def test_one_process_needs_no_other():
    x, network = torch.ones(3, 2), nn.Linear(2, 2)
    assert distributed.gather(x) is x and distributed.parallel(network) is network
    assert distributed.from_first(lambda: 7) == 7
    with distributed.processes():
        assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)


def test_batch_norm_of_another_class_is_refused_unless_frozen():
    class WithActivation(nn.BatchNorm2d):
        pass

    layers = nn.Sequential(nn.Conv2d(1, 2, 1), WithActivation(2))
    with pytest.raises(ValueError, match="WithActivation cannot .* freeze_batch_norm=True"):
        distributed.share_batch_norm(layers)
    distributed.share_batch_norm(layers.eval())


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_its_own_gpu(monkeypatch, name):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on each of two nodes
    assert pick_device(name) == torch.device("cuda:1") and chosen == [torch.device("cuda:1")]
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="sees 2 GPU; start one process per GPU"):
        pick_device(name)


if __name__ == "__main__":
    sys.exit(both(Path(sys.argv[1])))
