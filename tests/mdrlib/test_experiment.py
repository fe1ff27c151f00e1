"""`run`: what it leaves, what it refuses, and what a kill at any moment changes: nothing."""

import csv
import functools
import itertools
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mdrlib import checkpoint, experiment
from mdrlib.datasets import download, glyphs, load
from mdrlib.evaluation import embed
from mdrlib.experiment import Config, pick_device, run
from mdrlib.models import EmbeddingNetwork, build_embedder
from mdrlib.results import load_run

ROOT = Path(__file__).resolve().parents[2]
FILES = ["checkpoint.pt", "distances.npz", "embeddings.npz", "history.csv", "result.json"]
METHODS = ["triplet", "triplet+l2", "triplet+mdr"]
TINY = {"ALPHABETS": 2, "CHARACTERS": 5, "WRITERS": 8}  # of glyphs: 10 characters, 80 drawings in a split
CONFIG = Config(backbone="tiny", dim=8, batch_size=16, iterations=6, evaluate_every=3, device="cpu")
ROOTS = [os.environ.get("MDR_DATA_ROOT") or "data", ROOT.parent / "shared" / "data"]
OMNIGLOT = next((r for r in ROOTS if (Path(r) / "omniglot" / download.OMNIGLOT["train"].name).exists()), None)


@pytest.fixture(autouse=True, scope="module")
def tiny_and_silent():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDR_PROGRESS", "off")
        for name, value in TINY.items():
            patch.setattr(glyphs, name, value)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Method -> the folder and the Result of a finished run."""
    found = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("runs") / method
        found[method] = folder, run(replace(CONFIG, method=method), folder)
    return found


@pytest.fixture
def quick_model(monkeypatch):
    """A network of milliseconds, with batch norm, in place of the small one."""

    def build(backbone, dim, normalize, pretrained, weights, freeze_batch_norm, pooling):
        layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.BatchNorm1d(64))
        return EmbeddingNetwork(layers, 64, dim, normalize, freeze_batch_norm)

    monkeypatch.setattr(experiment, "build_embedder", build)
    monkeypatch.setattr(experiment, "load", functools.cache(load))


def arrays(folder):
    """All arrays a run has left."""
    found = {}
    for name in ("distances.npz", "embeddings.npz"):
        with np.load(folder / name, allow_pickle=False) as file:
            found |= {key: file[key] for key in file.files}
    return found


def distances(x):
    x = x.astype(np.float64)
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


def timeless(history):
    timed = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in timed} for row in history]


def assert_same_run(folder, result, expected_folder, expected):
    """To the last bit, in everything but time."""
    assert result.metrics == expected.metrics and timeless(result.history) == timeless(expected.history)
    found, wanted = arrays(folder), arrays(expected_folder)
    assert found.keys() == wanted.keys()
    assert all(found[key].tobytes() == wanted[key].tobytes() for key in found)
    model, other = (checkpoint.load(place / "checkpoint.pt")["model"] for place in (folder, expected_folder))
    assert all(torch.equal(model[key], other[key]) for key in model | other)
    assert [row["iteration"] for row in csv.DictReader((folder / "history.csv").open())] == [
        str(row["iteration"]) for row in expected.history
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_its_files_and_they_agree(runs, method):
    folder, result = runs[method]
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [row["iteration"] for row in result.history] == [0, 3, 6]
    assert result.selected_by == "last" and result.config["method"] == method
    assert result.metrics == {key: result.history[-1][key] for key in result.metrics}
    assert load_run(folder) == result
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = {key for row in result.history for key in row}
    for row, wanted in zip(rows, result.history, strict=True):
        assert {key: float(value) if value else None for key, value in row.items()} == {
            key: wanted.get(key) for key in keys
        }
    assert ("level_0" in keys) == (method == "triplet+mdr") == ("regularizer" in keys)


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_are_of_the_checkpoint_and_give_the_metrics(runs, method):
    folder, result = runs[method]
    found, test = arrays(folder), load("glyphs", "test")
    normalize = "l2" if method == "triplet+l2" else "mean-distance"
    model = build_embedder("tiny", 8, normalize, weights=folder / "checkpoint.pt")
    np.testing.assert_allclose(found["embeddings"], embed(model, test.images), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["labels"], test.labels)
    if method == "triplet+l2":
        np.testing.assert_allclose(np.linalg.norm(found["embeddings"], axis=1), 1, rtol=1e-5)

    d, labels = distances(found["embeddings"]), found["labels"]
    np.fill_diagonal(d, np.inf)
    order = d.argsort(1, kind="stable")
    right = labels[order] == labels[:, None]
    for k in (1, 2, 4, 8):
        assert result.metrics[f"recall@{k}"] == pytest.approx(right[:, :k].any(1).mean(), abs=0.013)
    assert result.metrics["r_precision"] == pytest.approx(right[:, :7].mean(), abs=1e-3)
    assert found["neighbours"].shape == (80, 10)
    near = np.take_along_axis(d, found["neighbours"], 1)
    np.testing.assert_allclose(near, np.sort(d, 1)[:, :10], rtol=1e-4)


def test_distances_hold_a_histogram_of_all_pairs_an_evaluation(runs):
    folder, _ = runs["triplet+mdr"]
    found = arrays(folder)
    assert found["iterations"].tolist() == [0, 3, 6] and found["edges"].shape == (121,)
    for split in ("train", "test"):
        positive, negative = found[f"{split}_positive"], found[f"{split}_negative"]
        assert positive.shape == negative.shape == (3, 120)
        assert positive.sum(1).tolist() == [10 * 8 * 7 // 2] * 3
        assert negative.sum(1).tolist() == [80 * 79 // 2 - 280] * 3
    i, j = np.triu_indices(80, 1)
    d = distances(found["embeddings"])[i, j]
    z = ((d - d.mean()) / d.std(ddof=1)).clip(-6, 6)
    same = found["labels"][i] == found["labels"][j]
    for part, key in ((z[same], "test_positive"), (z[~same], "test_negative")):
        counts = np.histogram(part, found["edges"])[0]
        assert np.abs(counts - found[key][-1]).sum() <= 8, "a pair may lie on an edge"


def test_the_same_call_returns_at_once_and_touches_nothing(runs, monkeypatch):
    folder, result = runs["triplet+mdr"]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(experiment, "load", None)
    assert run(CONFIG, folder) == result == run(CONFIG, str(folder))
    moved = replace(CONFIG, device="auto", data_root="elsewhere")
    assert run(moved, folder) == result, "where it runs is not what it is"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": 0.01}, "lr: 0.001 there, 0.01 now"),
        ({"levels": (1.0,), "seed": 3}, r"levels: \[-3.0, 0.0, 3.0\] there, \[1.0\] now, seed: 0 there, 3"),
        ({"method": "triplet"}, "method: 'triplet.mdr' there, 'triplet' now"),
    ],
)
def test_another_config_is_refused_by_field(runs, tmp_path, finished, change, words):
    folder = runs["triplet+mdr"][0]
    if not finished:
        (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
        folder = tmp_path
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=words) as caught:
        run(replace(CONFIG, **change), folder)
    assert str(folder) in str(caught.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    checkpoint.save(tmp_path / "checkpoint.pt", {"model": {}})
    with pytest.raises(ValueError, match="holds another experiment"):
        run(CONFIG, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
        run(CONFIG, tmp_path)


def test_other_data_under_the_same_name_are_refused(runs, tmp_path, monkeypatch):
    (tmp_path / "checkpoint.pt").write_bytes((runs["triplet+mdr"][0] / "checkpoint.pt").read_bytes())
    monkeypatch.setattr(glyphs, "DRAWING_TURN", 0.3)
    with pytest.raises(ValueError, match="test: .*fingerprint.* there, .* now, train: .* another folder"):
        run(CONFIG, tmp_path)


def test_runs_repeat_to_the_bit_and_seeds_differ(tmp_path, quick_model):
    first = run(CONFIG, tmp_path / "first")
    torch.randn(5)
    assert_same_run(tmp_path / "again", run(CONFIG, tmp_path / "again"), tmp_path / "first", first)
    other = run(replace(CONFIG, seed=1), tmp_path / "other")
    assert timeless(other.history)[0] != timeless(first.history)[0], "the network begins differently"
    a, b = arrays(tmp_path / "first")["embeddings"], arrays(tmp_path / "other")["embeddings"]
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    "switch, value",
    [
        ("learn_levels", False),
        ("augment", False),
        ("diagonal_in_stats", True),
        ("freeze_batch_norm", True),
        ("memory_bank", 40),
        ("mdr_in_distance", True),
        ("switch", 0.5),
        ("spread_weight", 1.0),
        ("head", "l2-mean-distance"),
    ],
)
def test_switches_do_what_they_say(tmp_path, quick_model, switch, value):
    plain = run(replace(CONFIG, mdr_weight=1.0), tmp_path / "plain")
    other = run(replace(CONFIG, mdr_weight=1.0, **{switch: value}), tmp_path / "other")
    assert timeless(plain.history) != timeless(other.history)
    levels = [other.history[-1][f"level_{k}"] for k in range(3)]
    assert (levels == [-3, 0, 3]) == (switch == "learn_levels")
    statistics = checkpoint.load(tmp_path / "other" / "checkpoint.pt")["model"]["backbone.2.running_mean"]
    assert (statistics == 0).all() == (switch == "freeze_batch_norm")


def test_validation_selects_the_best_on_held_out_classes(tmp_path, quick_model):
    config = replace(CONFIG, validation=0.3, iterations=24, lr=0.05)
    result = run(config, tmp_path)
    scores = [row["validation_recall@1"] for row in result.history]
    best = scores.index(max(scores))
    assert best < len(scores) - 1, "otherwise this test shows nothing"
    assert result.selected_by == "validation"
    assert result.metrics == {key: result.history[best][key] for key in result.metrics}
    assert {"recall@1", "recall@8", "map@r"} <= set(result.metrics), "none of the held-out classes"
    assert not any(name.startswith("validation") for name in result.metrics)
    found, saved = arrays(tmp_path), checkpoint.load(tmp_path / "checkpoint.pt")
    assert saved["best"] == best and saved["best_weights"] == {}, "they are the model's"
    d = distances(found["embeddings"])
    np.fill_diagonal(d, np.inf)
    right = (found["labels"][d.argmin(1)] == found["labels"]).mean()
    assert right == pytest.approx(result.metrics["recall@1"], abs=0.013)
    # 3 of 10 classes are held out: neither trained on nor counted among the training pairs
    assert found["train_positive"].sum(1)[0] == 7 * 28 and found["validation_positive"].sum(1)[0] == 3 * 28


def test_a_held_out_alphabet_selects_in_place_of_random_classes(tmp_path, quick_model):
    config = replace(CONFIG, held_out_group=1)
    result = run(config, tmp_path)
    assert result.selected_by == "validation" and "validation_map@r" in result.history[-1]
    train, found = load("glyphs", "train"), arrays(tmp_path)
    second = train.labels[train.groups == train.groups.max()].unique()
    assert len(second) == 5 and len(train.labels.unique()) == 10
    # Pairs of the five classes of the other alphabet, of eight drawings each.
    assert found["train_positive"].sum(1)[0] == found["validation_positive"].sum(1)[0] == 5 * 28
    with pytest.raises(ValueError, match="held_out_group must be below the 2 coarse classes, got 2"):
        run(replace(config, held_out_group=2), tmp_path / "other")
    with pytest.raises(ValueError, match="held_out_group needs coarse classes, which digits lacks"):
        run(replace(config, dataset="digits", held_out_group=0, per_class=4), tmp_path / "none")


def test_metrics_of_classes_are_kept_along_the_run(tmp_path, quick_model):
    result = run(CONFIG, tmp_path)
    classes, along = result.per_class, result.per_class["history"]
    assert along["iteration"] == [row["iteration"] for row in result.history] == [0, 3, 6]
    for name in ("recall@1", "map@r"):
        assert along[name][-1] == classes[name]
        for row, values in zip(result.history, along[name], strict=True):
            mean = np.average(values, weights=classes["queries"])
            assert mean == pytest.approx(row[name], abs=1e-6)


class Killed(BaseException):
    """In place of the end of the process."""


def test_a_run_that_dies_before_any_of_its_writes_ends_with_the_same_bits(tmp_path, quick_model, monkeypatch):
    config = replace(CONFIG, validation=0.3, iterations=2, evaluate_every=2)
    expected = run(config, tmp_path / "whole")
    monkeypatch.setattr(experiment, "SAVE_SECONDS", -1)  # a checkpoint an iteration
    left, move = [0], os.replace

    def move_or_die(source, target):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        move(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", move_or_die)
    for write in itertools.count(1):
        folder, left[0] = tmp_path / str(write), write
        try:
            run(config, folder)
        except Killed:
            assert_same_run(folder, run(config, folder), tmp_path / "whole", expected)
            assert sorted(path.name for path in folder.iterdir()) == FILES
        else:
            break
    assert write > 8, "histories, checkpoints, arrays, the best weights, the result"


PROCESS = """
import os, time
from mdrlib import experiment
from mdrlib.datasets import glyphs, loader
from mdrlib.experiment import Config, run
for name, value in tiny.items():
    setattr(glyphs, name, value)
experiment.SAVE_SECONDS = save_seconds
# Slow enough for a kill to hit its moment on any machine.
turn = loader.random_affine
loader.random_affine = lambda *images, **part: time.sleep(0.03) or turn(*images, **part)
os.fsync = lambda number: time.sleep(0.03)
run(Config(**config), folder)
"""


def start(config, folder, save_seconds):
    """A process of its own, forked from one that has imported torch and done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mdrlib.experiment"])
    given = {"tiny": TINY, "config": config.to_dict(), "folder": str(folder), "save_seconds": save_seconds}
    process = context.Process(target=exec, args=(PROCESS, given))
    process.start()
    return process


def wait_for(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_bits(tmp_path):
    config = replace(CONFIG, iterations=30, evaluate_every=12)
    expected = run(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    path = folder / "checkpoint.pt"

    def begun():
        return (folder / "history.csv").exists()

    def saved():
        return path.exists() and checkpoint.load(path)["iteration"] > reached[-1]

    def writing():
        return any(folder.glob(".checkpoint.pt.*"))

    reached = [0]
    # Before there is a checkpoint; between two of them; in the middle of writing one.
    for happened, delay, save_seconds in ((begun, 0, 1000), (saved, 0.1, 0.1), (writing, 0, 0)):
        process = start(config, folder, save_seconds)
        wait_for(happened, process)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(checkpoint.load(path)["iteration"] if path.exists() else 0)
    assert reached[1] == 0 < reached[2] <= reached[3] < 30, reached
    assert_same_run(folder, run(config, folder), tmp_path / "whole", expected)


def test_determinism_is_asked_of_torch_only_during_a_run(tmp_path, quick_model, monkeypatch):
    seen, forward = [], experiment.TripletLoss.forward

    def watched(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return forward(*arguments)

    monkeypatch.setattr(experiment.TripletLoss, "forward", watched)
    run(CONFIG, tmp_path / "a")
    assert seen == [True] * 6 and not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        run(CONFIG, tmp_path / "b")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(OMNIGLOT is None, reason="Omniglot is neither in MDR_DATA_ROOT nor beside")
def test_omniglot_runs_and_its_place_is_not_recorded(tmp_path, quick_model, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    config = replace(CONFIG, dataset="omniglot", iterations=2, batch_size=32, data_root=Path(OMNIGLOT))
    assert config.data_root == str(OMNIGLOT)
    result = run(config, tmp_path / "run")
    assert {split: entry["images"] for split, entry in result.data.items()} == {"train": 2720, "test": 2120}
    assert 0.05 < result.metrics["recall@1"] < 1  # chance is below 0.01
    assert result.config["data_root"] is None
    assert str(OMNIGLOT) not in (tmp_path / "run" / "result.json").read_text()


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device is '{name}' but torch sees no GPU"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="sees 2 GPU"):
        pick_device("cuda:2")
    for name in ("gpu", "", "mps", "cuda:", "cuda:-1"):
        with pytest.raises(ValueError, match="device must be"):
            pick_device(name)


def test_a_run_without_its_device_or_data_set_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for field, value in (("device", "cuda"), ("dataset", "mnist"), ("backbone", "vgg"), ("batch_size", 64)):
        with pytest.raises(ValueError, match=f"{value}"):
            run(replace(CONFIG, **{field: value}), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_authors_way_is_to_select_by_the_test_set(tmp_path, quick_model):
    result = run(replace(CONFIG, select_by_test=True, iterations=24, lr=0.05, seed=3), tmp_path)
    scores = [row["recall@1"] for row in result.history]
    assert result.selected_by == "test" and result.metrics["recall@1"] == max(scores)
    assert max(scores) > scores[-1], "otherwise this test shows nothing"
    found = arrays(tmp_path)
    d = distances(found["embeddings"])
    np.fill_diagonal(d, np.inf)
    right = (found["labels"][d.argmin(1)] == found["labels"]).mean()
    assert right == pytest.approx(max(scores), abs=0.013)


def test_the_learning_rate_falls_by_its_factor(tmp_path, quick_model):
    result = run(replace(CONFIG, lr_steps=(3, 5), lr_decay=0.5), tmp_path)
    assert [row["lr"] for row in result.history] == [1e-3, 5e-4, 2.5e-4]


@pytest.mark.parametrize("switch", ["bf16", "channels_last"])
def test_layout_and_precision_change_the_step_and_hardly_the_loss(tmp_path, switch):
    plain, other = (run(replace(CONFIG, **{switch: on}), tmp_path / str(on)) for on in (False, True))
    first, second = (result.history[1]["loss"] for result in (plain, other))
    assert second == pytest.approx(first, rel=0.15)
    assert (first != second) or switch == "channels_last"  # which the small network always has
    a, b = (arrays(tmp_path / str(on))["embeddings"] for on in (False, True))
    assert a.dtype == b.dtype == np.float32
    assert plain.history[0] | {"seconds": 0} == other.history[0] | {"seconds": 0}, "evaluations stay float32"


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(tmp_path, monkeypatch):
    # Traced by torch.compile, then run as it is: generating code would take a minute and a half.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    config = replace(CONFIG, iterations=2, evaluate_every=1)
    plain, compiled = (run(replace(config, compile=on), tmp_path / str(on)) for on in (False, True))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for row, other in zip(plain.history[1:], compiled.history[1:], strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
    weights = [checkpoint.load(tmp_path / str(on) / "checkpoint.pt")["model"] for on in (False, True)]
    assert weights[0].keys() == weights[1].keys(), "a checkpoint does not tell that it was compiled"


def test_the_levels_may_have_their_own_learning_rate(tmp_path, quick_model):
    same, fixed, fast = (
        run(replace(CONFIG, level_lr=lr), tmp_path / str(lr)).history[-1] for lr in (CONFIG.lr, 0, 0.1)
    )
    plain = run(CONFIG, tmp_path / "plain").history[-1]
    levels = [[row[f"level_{k}"] for k in range(3)] for row in (plain, same, fixed, fast)]
    assert levels[0] == levels[1] and plain["lr"] == fast["lr"] == CONFIG.lr
    assert levels[2] == [-3, 0, 3]
    moved = np.abs(np.array(levels) - [-3, 0, 3]).max(1)
    assert moved[3] > 20 * moved[0] > 0


def test_a_weights_file_of_the_same_name_and_other_content_is_another_experiment(tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path / str(seed) / "weights.pt"
        path.parent.mkdir()
        torch.save(build_embedder("tiny", 8, "mean-distance").state_dict(), path)
    configs = [replace(CONFIG, mode="evaluate", weights=tmp_path / str(k) / "weights.pt") for k in (0, 1)]
    result = run(configs[0], tmp_path / "run")
    with pytest.raises(ValueError, match="another experiment .weights: .*fingerprint.* there, .* now"):
        run(configs[1], tmp_path / "run")
    (tmp_path / "1/weights.pt").write_bytes((tmp_path / "0/weights.pt").read_bytes())
    assert run(configs[1], tmp_path / "run") == result
    (tmp_path / "1/weights.pt").unlink()
    assert run(configs[1], tmp_path / "run") == result, "a finished run needs no weights"
    (tmp_path / "0/weights.pt").write_bytes(b"other")
    (tmp_path / "run/result.json").rename(tmp_path / "run/other.json")
    checkpoint.save(tmp_path / "run/checkpoint.pt", {"config": result.config, "data": result.data})
    with pytest.raises(ValueError, match="weights: .* there, .* now"):
        run(configs[0], tmp_path / "run")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda trainer: trainer.mdr.levels.data.fill_(np.nan), "(level_0|regularizer) is nan at .* 3"),
        (lambda trainer: trainer.mdr.running_mean.fill_(np.inf), "(running_mean|regularizer) is .* 3"),
        (lambda trainer: trainer.mdr.running_std.fill_(np.nan), "(running_std|regularizer) is nan at .* 3"),
        (lambda trainer: trainer.optimizer.param_groups[0].update(lr=np.inf), "lr is inf at iteration 3"),
        (lambda trainer: trainer.model.backbone[2].running_var.fill_(np.nan), "running_var is partly .* 3"),
    ],
)
def test_what_is_not_finite_ends_a_run_before_it_is_written(tmp_path, quick_model, monkeypatch, spoil, words):
    step = experiment.Trainer.step

    def spoiled(trainer, *batch):
        step(trainer, *batch)
        if trainer.iteration == 3:
            spoil(trainer)

    monkeypatch.setattr(experiment.Trainer, "step", spoiled)
    with pytest.raises(FloatingPointError, match=words):
        run(CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]
    assert [row["iteration"] for row in csv.DictReader((tmp_path / "history.csv").open())] == ["0"]


def test_metrics_that_are_not_finite_end_a_run(tmp_path, quick_model, monkeypatch):
    monkeypatch.setattr(experiment, "measure", lambda *arguments: ({"recall@1": float("nan")}, {}))
    with pytest.raises(FloatingPointError, match="recall@1 is nan at iteration 0"):
        run(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_levels_that_leave_float32_end_the_run(tmp_path, quick_model):
    with pytest.raises(FloatingPointError, match="regularizer is nan at iteration 3: lower lr, mdr_weight"):
        run(replace(CONFIG, level_weight=1e39), tmp_path)


@pytest.mark.parametrize("change", ["missing", "shape", "type"])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(runs, tmp_path, change):
    state = checkpoint.load(runs["triplet+mdr"][0] / "checkpoint.pt")
    if change == "missing":
        del state["optimizer"]
    elif change == "shape":
        state["model"]["linear.bias"] = torch.zeros(3)
    else:
        state["config"] = torch.zeros(3)
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    wanted = {"missing": "KeyError .*optimizer", "shape": "linear.bias", "type": "needs a mapping"}[change]
    with pytest.raises(ValueError, match=wanted) as caught:
        run(CONFIG, tmp_path)
    assert str(tmp_path) in str(caught.value) and "another folder" in str(caught.value)


def test_one_process_at_a_time_is_at_a_run(tmp_path, quick_model, monkeypatch):
    with checkpoint.locked(tmp_path):
        with pytest.raises(BlockingIOError, match=f"{tmp_path} is in use by process {os.getpid()}: wait"):
            run(CONFIG, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not any(tmp_path.iterdir())
    (tmp_path / ".lock").write_text("12345")  # of a process that was killed
    checkpoint.temporary(tmp_path / "checkpoint.pt").write_bytes(b"half")
    (tmp_path / ".gitignore").write_text("*")
    run(CONFIG, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", *FILES]


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(tmp_path):
    first = start(replace(CONFIG, iterations=60), tmp_path / "run", 1000)
    wait_for((tmp_path / "run" / "history.csv").exists, first)
    before = (tmp_path / "run" / "history.csv").read_bytes()
    for config in (replace(CONFIG, iterations=60), replace(CONFIG, seed=1)):
        with pytest.raises(BlockingIOError, match=f"run is in use by process {first.pid}: wait"):
            run(config, tmp_path / "run")
    assert (tmp_path / "run" / "history.csv").read_bytes() == before
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    run(CONFIG, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
