"""Data sets by name, and sets in memory."""

import hashlib
import pickle
import subprocess
import sys

import pytest
import torch

from mdrlib.datasets import ImageSet, load

PARTS = {
    "images": torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2),
    "labels": torch.tensor([0, 0, 1, 1, 2, 2]),
    "classes": ["a", "b", "c"],
}


def test_splits_share_no_class_and_items_are_images_with_labels():
    train, test = load("digits", "train"), load("digits", "test")
    assert not set(train.classes) & set(test.classes)
    for split, data in (("train", train), ("test", test)):
        assert (data.name, data.split) == ("digits", split)
        assert data.images.dtype == torch.uint8 and data.labels.dtype == torch.int64
        assert torch.equal(data.labels.unique(), torch.arange(len(data.classes)))
        image, label = data[5]
        assert image.dtype == torch.float32 and image.shape == data.images.shape[1:] == (1, 32, 32)
        assert torch.equal((image * 255).round().byte(), data.images[5])
        assert type(label) is int and label == data.labels[5]


@pytest.mark.parametrize("name", ["mnist", "CUB", ""])
def test_an_unknown_name_is_answered_with_the_choices(name):
    with pytest.raises(ValueError, match=f"'{name}'; choose one of .*'digits', .*'omniglot', 'sop'"):
        load(name, "train")


@pytest.mark.parametrize(
    "name, split", [("glyphs", "query"), ("digits", ""), ("cub", "query"), ("inshop", "test")]
)
def test_an_unknown_split_is_answered_with_the_choices(name, split):
    with pytest.raises(ValueError, match=f"{name} has no split '{split}'; choose one of .*'train'"):
        load(name, split)


def test_it_is_a_dataset_for_loaders_and_other_processes():
    data = ImageSet("toy", "train", **PARTS)
    assert len(data) == 6 and repr(data) == "ImageSet(toy train: 6 images, 3 classes)"
    batches = list(torch.utils.data.DataLoader(data, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 2] and batches[0][0].shape == (4, 1, 2, 2)
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint


def test_the_fingerprint_is_of_images_and_labels():
    data = ImageSet("toy", "train", **PARTS)
    content = PARTS["images"].numpy().tobytes() + PARTS["labels"].numpy().tobytes()
    assert data.fingerprint == hashlib.sha256(content).hexdigest()[:16]


def test_optional_packages_are_named_when_they_are_needed(make_tree):
    make_tree("cub"), make_tree("cars")
    blocked = ["PIL", "sklearn", "torchvision", "matplotlib", "scipy", "scipy.io"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from mdrlib.datasets import load\n"
        "assert len(load('glyphs', 'test')) == 2400\n"
        "data = load('cub', 'train')\n"
        "for use in (lambda: data[0], lambda: load('cars', 'train'), lambda: load('digits', 'train')):\n"
        "    try: use()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.count("pip install 'mdrlib[data]'") == 3, done.stderr
    assert all(name in done.stdout for name in ("PIL", "scipy", "sklearn"))
