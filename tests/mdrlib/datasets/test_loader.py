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
from mdrlib.datasets import ImageFiles, PKBatchSampler
from mdrlib.datasets.loader import Photographs, default_workers, image_seed, in_memory
from mdrlib.datasets.preprocessing import Preprocessing
from mdrlib.datasets.transforms import random_affine, to_float

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


def photographs(files, indices=None, workers=0, cache=True, size=SIZE, batch_size=128):
    chosen = torch.arange(8) if indices is None else torch.tensor(indices)
    return Photographs(files, chosen, Preprocessing(size), workers, cache, torch.device("cpu"), batch_size)


def batches_of(files, sampler, workers=0, cache=True, seed=0, **more):
    return photographs(files, workers=workers, cache=cache).training(files.labels, sampler, seed, **more)


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
        assert images.shape == (4, 3, SIZE, SIZE) and images.dtype == torch.float32 and images.max() <= 1
        assert torch.equal(labels, files.labels[sampler.batch(t)]) and labels.dtype == torch.int64
        for j, index in enumerate(sampler.batch(t)):
            torch.manual_seed(image_seed(5, t, j))
            assert torch.equal(images[j], to_float(plain(files, index, recipe))), (t, j)
        seen += 1
    assert seen == 6


@pytest.mark.parametrize("cache", [False, True])
def test_evaluation_has_the_pixels_of_the_plain_recipe_in_order(files, cache):
    recipe = recipes(EDGE, SIZE)[1]
    indices = [6, 0, 3, 4, 7]
    for _ in range(2):  # the second time from the cache
        parts = list(photographs(files, indices, cache=cache, batch_size=2))
        assert [part.shape for part in parts] == [(2, 3, SIZE, SIZE)] * 2 + [(1, 3, SIZE, SIZE)]
        for image, index in zip(torch.cat(parts), indices, strict=True):
            assert image.dtype == torch.uint8 and torch.equal(image, plain(files, index, recipe))
    part = photographs(files, indices)[torch.tensor([4, 1])]
    assert len(part) == 2 and torch.equal(next(iter(part))[1], plain(files, 0, recipe))


def test_the_size_of_the_recipe_is_224_of_256(files):
    train, test = recipes(256, 224)
    (images,) = photographs(files, [2], size=224)
    assert torch.equal(images[0], plain(files, 2, test))
    sampler = sampler_of(files)
    images, _ = next(photographs(files, size=224).training(files.labels, sampler, 0))
    torch.manual_seed(image_seed(0, 0, 0))
    assert torch.equal(images[0], to_float(plain(files, sampler.batch(0)[0], train)))


def test_any_number_of_workers_and_an_interruption_give_the_same_bits(files):
    before = checkpoint.rng_state()
    wanted = images_of(batches_of(files, sampler_of(files), cache=False))
    assert len({image.numpy().tobytes() for batch in wanted for image in batch}) == 24, "each has its crop"
    for workers in (1, 2):
        batches = batches_of(files, sampler_of(files), workers=workers)
        first = images_of(next(batches) for _ in range(2))
        batches.close()
        rest = images_of(batches_of(files, sampler_of(files), workers=workers, start=2))
        assert torch.equal(torch.cat([first, rest]), wanted), workers
        evaluated = torch.cat(list(photographs(files, workers=workers, batch_size=3)))
        assert torch.equal(evaluated, torch.cat(list(photographs(files))))
    assert not list(batches_of(files, sampler_of(files), start=6))
    after = checkpoint.rng_state()
    assert torch.equal(before["torch"], after["torch"])


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


def test_without_augmentation_training_sees_the_middle_and_is_told_the_time(files):
    spent, sampler = [], sampler_of(files)
    whole = next(iter(photographs(files)))
    for t, (images, _) in enumerate(batches_of(files, sampler, augment=False, spent=spent)):
        assert torch.equal(images, to_float(whole[sampler.batch(t)]))
    assert len(spent) == 6 and min(spent) > 0


def test_indices_choose_the_images_and_labels_are_theirs(files):
    indices, labels = [7, 6, 2, 3], torch.tensor([1, 1, 0, 0])
    sampler = PKBatchSampler(labels, 4, 2, 3)
    whole = next(iter(photographs(files)))
    for t, (images, of) in enumerate(photographs(files, indices).training(labels, sampler, 0, augment=False)):
        assert torch.equal(images, to_float(whole[[indices[p] for p in sampler.batch(t)]]))
        assert torch.equal(of, labels[sampler.batch(t)])


def test_batches_in_memory_start_anywhere_and_ranks_share_them():
    images = torch.randint(0, 256, (12, 1, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.arange(6).repeat_interleave(2)

    def batches(augment, start=0, rank=0, world_size=1):
        sampler = PKBatchSampler(labels, 4, 2, 5, 1, rank, world_size)
        generator = torch.Generator().manual_seed(3)
        return list(in_memory(images, labels, sampler, generator, augment, start))

    sampler, generator = PKBatchSampler(labels, 4, 2, 5, 1), torch.Generator().manual_seed(3)
    for t, (x, y) in enumerate(batches(True)):
        assert torch.equal(x, random_affine(to_float(images[sampler.batch(t)]), generator))
        assert torch.equal(y, labels[sampler.batch(t)])
    for (x, y), (resumed, of) in zip(batches(False)[3:], batches(False, start=3), strict=True):
        assert torch.equal(x, resumed) and torch.equal(y, of)
    for (x, y), *ranks in zip(batches(True), *(batches(True, 0, r, 2) for r in range(2)), strict=True):
        assert torch.equal(torch.cat([part for part, _ in ranks]), x)
        assert all(torch.equal(of, y) for _, of in ranks)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_and_a_missing_image_are_named_without_a_traceback_of_workers(files, workers):
    files.paths[5].write_bytes(files.paths[5].read_bytes()[:300])
    with pytest.raises(OSError) as caught:
        list(photographs(files, workers=workers, batch_size=2))
    assert str(caught.value).startswith(f"{files.paths[5]} cannot be read as an image")
    assert "\n" not in str(caught.value)
    batches = iter(photographs(files, workers=workers, batch_size=2))
    assert len([next(batches), next(batches)]) == 2, "those before it are given"
    batches.close()
    files.paths[5].unlink()
    with pytest.raises(OSError, match=f"^{files.paths[5]} cannot be read") as caught:
        list(batches_of(files, sampler_of(files, 20), workers=workers))
    assert within(60, lambda: not children()), "workers end with the error, whoever holds it"


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
        assert within(60, lambda: not children()), end
        if descriptors is None:  # the first time starts a server that stays
            descriptors = len(os.listdir("/proc/self/fd"))
        assert within(60, lambda most=descriptors: len(os.listdir("/proc/self/fd")) <= most), end
    assert len(set(pids)) == 8
    # torch_<process>_...: what PyTorch shares between processes. There may be others on this machine.
    assert not [
        name for name in os.listdir("/dev/shm") if name.startswith(tuple(f"torch_{p}_" for p in pids))
    ]


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


def test_what_to_install_is_said(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(ImportError, match=r"torchvision.* is missing: pip install 'mdrlib\[vision\]'"):
        next(batches_of(files, sampler_of(files)))


SCRIPT = """
import multiprocessing, os, time, torch
from pathlib import Path
from mdrlib.datasets import ImageFiles
from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.preprocessing import Preprocessing
if __name__ == "__main__":
    names = [f"{k}.jpg" for k in range(8)]
    files = ImageFiles("toy", "train", Path(FOLDER), names, torch.arange(8), names)
    batches = iter(Photographs(files, torch.arange(8), Preprocessing(8), 1, True, torch.device("cpu"), 1))
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(300)
"""


READ = """
import sys, tempfile, torch
from pathlib import Path
from mdrlib.datasets import ImageFiles
from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.preprocessing import Preprocessing

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    names = [f"{k}.jpg" for k in range(8)]
    files = ImageFiles("toy", "train", folder, names, torch.arange(8), names)
    read = Photographs(files, torch.arange(8), Preprocessing(28), 1, False, torch.device("cpu"), 4)
    print(sum(len(part) for part in read), tempfile.gettempdir())
"""


def test_workers_under_a_long_folder_of_temporary_files(files, tmp_path):
    """As job schedulers hand them out: a socket's path may have 104 to 108 bytes."""
    script, folder = tmp_path / "read.py", tmp_path / ("job-" * 30)
    script.write_text(READ)
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, script, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"8 {folder}\n"


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
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
    assert within(60, lambda: not alive(worker) and not alive(server))
