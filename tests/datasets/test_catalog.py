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


@pytest.mark.parametrize("name", ["glyphs", "digits"])
def test_splits_share_no_class_and_items_are_images_with_labels(name):
    train, test = load(name, "train"), load(name, "test")
    assert not set(train.classes) & set(test.classes)
    assert not set(train.group_names) & set(test.group_names)
    for split, data in (("train", train), ("test", test)):
        assert (data.name, data.split) == (name, split)
        assert data.images.dtype == torch.uint8 and data.labels.dtype == torch.int64
        assert torch.equal(data.labels.unique(), torch.arange(len(data.classes)))
        image, label = data[5]
        assert image.dtype == torch.float32 and image.shape == data.images.shape[1:] == (1, 32, 32)
        assert (
            torch.equal((image * 255).round().byte(), data.images[5]) and 0 <= image.min() <= image.max() <= 1
        )
        assert type(label) is int and label == data.labels[5]


def test_digits_are_scikit_learns_scans():
    from sklearn.datasets import load_digits

    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (901, 896)
    assert train.classes == list("01234") and test.classes == list("56789")
    assert train.groups is None and train.group_names == [] and train.writers is None
    scans = load_digits()
    small = torch.nn.functional.avg_pool2d(test.images.float(), 4)[:, 0] * 16 / 255
    original = torch.from_numpy(scans.images[scans.target >= 5]).float()
    # Enlarging bilinearly smooths; the average over the 4 x 4 pixels of a scan's pixel stays close to it.
    assert (small - original).abs().mean() < 1.2
    assert torch.corrcoef(torch.stack([small.flatten(), original.flatten()]))[0, 1] > 0.95
    assert test.images.max() == 255 and test.images.min() == 0


@pytest.mark.parametrize("name", ["mnist", "CUB", ""])
def test_an_unknown_name_is_answered_with_the_choices(name):
    with pytest.raises(ValueError, match=f"'{name}'; choose one of .*'digits', .*'omniglot', 'sop'"):
        load(name, "train")


@pytest.mark.parametrize("split", ["query", "validation", ""])
def test_an_unknown_split_is_answered_with_the_choices(split):
    with pytest.raises(ValueError, match=f"glyphs has no split '{split}'; choose one of .*'train', 'test'"):
        load("glyphs", split)


def test_a_transform_is_given_the_image_in_the_unit_interval():
    data = ImageSet("toy", "train", **PARTS, transform=lambda image: (image.shape, image.max().item() <= 1))
    assert data[3] == (((1, 2, 2), True), 1)
    assert load("digits", "train", transform=lambda image: "seen")[0][0] == "seen"


def test_it_is_a_dataset_for_loaders_and_other_processes():
    data = ImageSet("toy", "train", **PARTS)
    assert len(data) == 6 and repr(data) == "ImageSet(toy train: 6 images 1 x 2 x 2, 3 classes)"
    batches = list(torch.utils.data.DataLoader(data, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 2] and batches[0][0].shape == (4, 1, 2, 2)
    assert len(list(data)) == 6, "a plain loop ends"
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint


def test_the_fingerprint_is_of_images_and_labels():
    import hashlib

    data = ImageSet("toy", "train", **PARTS)
    content = PARTS["images"].numpy().tobytes() + PARTS["labels"].numpy().tobytes()
    assert data.fingerprint == hashlib.sha256(content).hexdigest()[:16]
    other = PARTS["images"].clone()
    other[5, 0, 1, 1] += 1
    assert ImageSet("toy", "train", **PARTS | {"images": other}).fingerprint != data.fingerprint
    labels = torch.tensor([0, 0, 1, 2, 1, 2])
    assert ImageSet("toy", "train", **PARTS | {"labels": labels}).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"images": PARTS["images"].float()}, "images must be uint8"),
        ({"images": PARTS["images"][:, 0]}, "images must be uint8"),
        ({"labels": PARTS["labels"][:5]}, "labels must be int64"),
        ({"labels": PARTS["labels"].int()}, "labels must be int64"),
        ({"labels": PARTS["labels"] + 1}, "labels must use each of 0..2"),
        ({"classes": ["a", "b"]}, "labels must use each of 0..1"),
        ({"groups": torch.zeros(5, dtype=torch.int64)}, "groups must be int64"),
        ({"writers": torch.zeros(6)}, "writers must be int64"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        ImageSet("toy", "train", **PARTS | parts)


def test_importing_and_loading_glyphs_needs_torch_and_numpy_alone():
    blocked = ["PIL", "sklearn", "torchvision", "matplotlib", "tqdm", "scipy"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from mdrlib.datasets import load\n"
        "assert len(load('glyphs', 'test')) == 2400\n"
        "try: load('digits', 'train')\n"
        "except ImportError as error: assert 'mdrlib[data]' in str(error); print('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr
