"""Batches of photographs: the recipe's pixels, the same for any workers, and errors one can read."""

import gc
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mdrlib import checkpoint
from mdrlib.datasets import ImageFiles, PKBatchSampler, loader
from mdrlib.datasets.loader import default_workers, eval_batches, image_seed, train_batches
from mdrlib.datasets.transforms import to_float

SIZE, EDGE = 28, 32  # as 224 is to 256


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Eight images of four classes: noise, wide and high ones, one grey, one CMYK."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k in range(8):
        width, height = ((60, 45), (45, 70))[k % 2]
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels).convert({3: "L", 4: "CMYK"}.get(k, "RGB"))
        image.save(tmp_path / f"{k}.jpg", quality=90)
    labels = torch.arange(4).repeat_interleave(2)
    return ImageFiles("toy", "train", tmp_path, [f"{k}.jpg" for k in range(8)], labels, list("abcd"))


def sampler_of(files, iterations=6, **more):
    return PKBatchSampler(files.labels, 4, 2, iterations, **more)


def batches_of(files, sampler, **more):
    return train_batches(files, torch.arange(8), files.labels, sampler, size=SIZE, **more)


def images_of(batches):
    return torch.stack([images for images, _ in batches])


def plain(files, index, transform):
    return v2.functional.pil_to_tensor(transform(Image.open(files.paths[index]).convert("RGB")))


def recipes(edge, size):
    """The authors' transforms of training and of evaluation, as they stand in torchvision."""
    lanczos = v2.InterpolationMode.LANCZOS
    stretch = v2.Resize((edge, edge), interpolation=lanczos)
    crop = v2.RandomResizedCrop(size, scale=(0.16, 1), ratio=(0.75, 1.33), interpolation=lanczos)
    train = v2.Compose([stretch, crop, v2.RandomHorizontalFlip()])
    return train, v2.Compose([stretch, v2.CenterCrop(size)])


@pytest.mark.parametrize("cache", [False, True])
def test_training_has_the_pixels_of_the_plain_recipe(files, cache):
    recipe = recipes(EDGE, SIZE)[0]
    sampler = sampler_of(files)
    seen = 0
    for t, (images, labels) in enumerate(batches_of(files, sampler, seed=5, cache=cache)):
        assert images.shape == (4, 3, SIZE, SIZE) and images.dtype == torch.uint8 and images.is_contiguous()
        assert torch.equal(labels, files.labels[sampler.batch(t)]) and labels.dtype == torch.int64
        for j, index in enumerate(sampler.batch(t)):
            torch.manual_seed(image_seed(5, t, j))
            assert torch.equal(images[j], plain(files, index, recipe)), (t, j)
        assert to_float(images).max() <= 1
        seen += 1
    assert seen == 6


@pytest.mark.parametrize("cache", [False, True])
def test_evaluation_has_the_pixels_of_the_plain_recipe_in_order(files, cache):
    recipe = recipes(EDGE, SIZE)[1]
    indices = [6, 0, 3, 4, 7]
    for _ in range(2):  # the second time from the cache
        parts = list(eval_batches(files, torch.tensor(indices), 2, size=SIZE, cache=cache))
        assert [part.shape for part in parts] == [(2, 3, SIZE, SIZE)] * 2 + [(1, 3, SIZE, SIZE)]
        for image, index in zip(torch.cat(parts), indices, strict=True):
            assert image.dtype == torch.uint8 and torch.equal(image, plain(files, index, recipe))


def test_the_size_of_the_recipe_is_224_of_256(files):
    train, test = recipes(256, 224)
    (images,) = eval_batches(files, [2], 8)
    assert torch.equal(images[0], plain(files, 2, test))
    sampler = sampler_of(files)
    images, _ = next(train_batches(files, range(8), files.labels, sampler))
    torch.manual_seed(image_seed(0, 0, 0))
    assert torch.equal(images[0], plain(files, sampler.batch(0)[0], train))


def test_any_number_of_workers_and_an_interruption_give_the_same_bits(files):
    before = checkpoint.rng_state()
    wanted = images_of(batches_of(files, sampler_of(files), cache=False))
    assert len({image.numpy().tobytes() for batch in wanted for image in batch}) == 24, (
        "each has its own crop"
    )
    for workers in (1, 2):
        sampler = sampler_of(files)
        batches = batches_of(files, sampler, workers=workers)
        first = images_of(next(batches) for _ in range(2))
        time.sleep(0.5)  # workers go on to later batches, which must not count
        assert sampler.position == 2
        batches.close()
        state = sampler.state_dict()
        sampler = sampler_of(files)
        sampler.load_state_dict(state)
        rest = images_of(batches_of(files, sampler, workers=workers))
        assert torch.equal(torch.cat([first, rest]), wanted), workers
        assert sampler.position == 6 and not list(batches_of(files, sampler))
        evaluated = torch.cat(list(eval_batches(files, range(8), 3, size=SIZE, workers=workers)))
        assert torch.equal(evaluated, torch.cat(list(eval_batches(files, range(8), 8, size=SIZE))))
    after = checkpoint.rng_state()
    assert torch.equal(before["torch"], after["torch"]) and before["python"] == after["python"]
    assert all(np.array_equal(a, b) for a, b in zip(before["numpy"], after["numpy"], strict=True))


def test_ranks_together_load_what_one_process_does(files):
    one = images_of(batches_of(files, sampler_of(files)))
    ranks = [images_of(batches_of(files, sampler_of(files, rank=r, world_size=2))) for r in range(2)]
    assert torch.equal(torch.cat(ranks, dim=1), one)
    samplers = [sampler_of(files), sampler_of(files, rank=1, world_size=2)]
    labels = [[y for _, y in batches_of(files, sampler)] for sampler in samplers]
    assert all(torch.equal(y, of_all) for y, of_all in zip(*labels, strict=True)), "labels are of all ranks"


def test_another_seed_makes_other_crops_of_the_same_images(files):
    one, other = (images_of(batches_of(files, sampler_of(files), seed=seed)) for seed in (0, 1))
    assert all((a != b).any() for a, b in zip(one.flatten(0, 1), other.flatten(0, 1), strict=True))


def test_indices_choose_the_images_and_labels_are_theirs(files, monkeypatch):
    indices, labels = torch.tensor([7, 6, 2, 3]), torch.tensor([1, 1, 0, 0])
    opened = []
    monkeypatch.setattr(
        loader.ResizedImages,
        "__getitem__",
        lambda self, index: opened.append(index) or Image.new("RGB", (EDGE, EDGE)),
    )
    sampler = PKBatchSampler(labels, 4, 2, 3)
    got = [part for _, part in train_batches(files, indices, labels, sampler, size=SIZE)]
    assert opened == [int(indices[p]) for t in range(3) for p in sampler.batch(t)]
    assert [{7: 1, 6: 1, 2: 0, 3: 0}[index] for index in opened] == torch.cat(got).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_and_a_missing_image_are_named_without_a_traceback_of_workers(files, workers):
    files.paths[5].write_bytes(files.paths[5].read_bytes()[:300])
    with pytest.raises(OSError) as caught:
        list(eval_batches(files, range(8), 2, size=SIZE, workers=workers))
    assert str(caught.value).startswith(f"{files.paths[5]} cannot be read as an image")
    assert "\n" not in str(caught.value)
    batches = eval_batches(files, range(8), 2, size=SIZE, workers=workers)
    assert len([next(batches), next(batches)]) == 2, "those before it are given"
    batches.close()
    files.paths[5].unlink()
    with pytest.raises(FileNotFoundError, match=f"^{files.paths[5]} is missing; ") as caught:
        list(batches_of(files, sampler_of(files, 20), workers=workers))
    assert within(10, lambda: not children()), "workers end with the error, whoever holds it"


def children():
    return multiprocessing.active_children()


def within(seconds, condition):
    """Whether the condition holds by then: the machine may be busy."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_workers_end_when_the_iterator_is_closed_or_dropped(files):
    assert not children()
    descriptors, pids = None, []
    for end in ("close", "drop", "exhaust", "close"):
        batches = batches_of(files, sampler_of(files), workers=2)
        next(batches)
        pids += [child.pid for child in children()]
        if end == "close":
            batches.close()
        elif end == "exhaust":
            assert len(list(batches)) == 5
        del batches
        gc.collect()
        assert within(10, lambda: not children()), end
        if descriptors is None:  # the first time starts a server that stays
            descriptors = len(os.listdir("/proc/self/fd"))
        assert within(10, lambda most=descriptors: len(os.listdir("/proc/self/fd")) <= most), end
    assert len(set(pids)) == 8
    # torch_<process>_...: what PyTorch shares between processes. There may be others on this machine.
    assert not [
        name for name in os.listdir("/dev/shm") if name.startswith(tuple(f"torch_{p}_" for p in pids))
    ]


def test_what_may_have_ended_a_worker_is_said(files):
    batches = batches_of(files, sampler_of(files, 1000), workers=1)
    next(batches)
    children()[0].kill()
    with pytest.raises(RuntimeError, match='memory.*if __name__ == "__main__".*workers=0') as caught:
        list(batches)
    assert caught.tb is not None and within(10, lambda: not children())


def test_default_workers_leave_one_core(monkeypatch):
    for cores, wanted in ((1, 0), (2, 1), (8, 7), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)), raising=False)
        assert default_workers() == wanted
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert default_workers() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 0


def test_seeds_of_images_are_far_apart_and_fit_torch():
    seeds = {image_seed(s, t, j) for s in range(3) for t in range(20) for j in range(20)}
    assert len(seeds) == 1200 and all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62


@pytest.mark.parametrize(
    "change, message",
    [
        ({"indices": torch.arange(7)}, r"labels must be int64 \(7,\), got torch.int64 \(8,\)"),
        ({"labels": torch.zeros(8)}, "labels must be int64"),
        ({"indices": torch.arange(1, 9)}, r"indices must be in 0..7, got some from 1 to 8"),
        ({"indices": torch.arange(8) - 1}, "got some from -1 to 6"),
        ({"indices": torch.zeros(8)}, r"indices must be integers \(N,\), N > 0, got float32"),
        ({"indices": [], "labels": files}, "indices must be integers"),
        (
            {"sampler": PKBatchSampler(torch.tensor([0, 0, 1, 1]), 4, 2, 1)},
            "draws from 4 images, indices are 8",
        ),
        ({"size": 0}, "size must be an integer of 1 or more, got 0"),
        ({"size": 22.4}, "size must be an integer"),
        ({"seed": -1}, "seed must be an integer of 0 or more, got -1"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_once(files, change, message):
    given = {"indices": torch.arange(8), "labels": files.labels, "sampler": sampler_of(files)}
    with pytest.raises(ValueError, match=message):
        train_batches(files, **given | change)


@pytest.mark.parametrize("batch_size", [0, 2.0, True])
def test_a_batch_has_a_size(files, batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer of 1 or more"):
        eval_batches(files, [0], batch_size)


def test_what_to_install_is_said(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(ImportError, match=r"needs torchvision: pip install mdrlib\[vision\]"):
        eval_batches(files, [0], 1)


SCRIPT = """
import multiprocessing, os, time, torch
from pathlib import Path
from mdrlib.datasets import ImageFiles
from mdrlib.datasets.loader import eval_batches
if __name__ == "__main__":
    names = [f"{k}.jpg" for k in range(8)]
    files = ImageFiles("toy", "train", Path(FOLDER), names, torch.arange(8), names)
    batches = eval_batches(files, range(8), 1, size=8, workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(300)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_workers_end_with_a_process_that_is_killed_and_run_its_copy_of_mdrlib(files, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FOLDER", repr(str(tmp_path))))
    other = tmp_path / "other" / "mdrlib"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('the wrong copy')\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=other.parent, env=env)
    try:
        worker = int(done.stdout.readline())
        with open(f"/proc/{worker}/stat") as file:
            server = int(file.read().rpartition(")")[2].split()[1])
        assert alive(worker) and alive(server) and server != done.pid
    finally:
        done.kill()
        done.wait()
        done.stdout.close()
    assert within(20, lambda: not alive(worker) and not alive(server))
