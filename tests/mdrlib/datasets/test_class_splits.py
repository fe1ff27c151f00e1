"""Random halvings of classes: of sets in memory, of benchmarks, and by coarse classes where there are any."""

import pytest
import torch

from mdrlib.datasets import load, split_names
from mdrlib.datasets.class_splits import Row, halve, training_half


def test_halvings_come_in_pairs_that_share_nothing_and_lose_nothing():
    for count in (2, 7, 8, 81):
        units = [3 * unit + 1 for unit in range(count)] * 2
        halves = [training_half(units, k) for k in range(1, 11)]
        for one, other in zip(halves[::2], halves[1::2], strict=True):
            assert not one & other and one | other == set(units)
            assert len(one) == count // 2
        assert count < 8 or len({frozenset(half) for half in halves}) == 10, "five different ones"
        assert halves == [training_half(reversed(units), k) for k in range(1, 11)]


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_sets_in_memory_keep_every_image(name):
    own = [load(name, split) for split in ("train", "test")]
    every = sorted(image.numpy().tobytes() for data in own for image in data.images)
    for k in (1, 2, 10):
        train, test = (load(name, split, class_split=k) for split in ("train", "test"))
        assert not set(train.classes) & set(test.classes) and not set(train.group_names) & set(
            test.group_names
        )
        assert sorted(image.numpy().tobytes() for data in (train, test) for image in data.images) == every
        for data in (train, test):
            for part in own:  # each image keeps its class, alphabet and writer
                of = {image.numpy().tobytes(): i for i, image in enumerate(part.images)}
                pairs = [(i, of.get(image.numpy().tobytes())) for i, image in enumerate(data.images)]
                for i, j in [(i, j) for i, j in pairs if j is not None][::50]:
                    assert data.classes[data.labels[i]] == part.classes[part.labels[j]]
                    if part.groups is not None:
                        assert data.group_names[data.groups[i]] == part.group_names[part.groups[j]]
                        assert data.writers[i] == part.writers[j]
    swapped = load(name, "test", class_split=1)
    assert load(name, "train", class_split=2).fingerprint == swapped.fingerprint != own[0].fingerprint
    assert torch.equal(load(name, "train", class_split=2).images, swapped.images)


@pytest.mark.parametrize("layout", ["cub", "sop", "inshop"])
def test_benchmarks_are_halved_over_all_splits(make_tree, layout):
    make_tree(layout)
    own = {split: load(layout, split) for split in split_names(layout)}
    classes = {name for data in own.values() for name in data.classes}
    paths = sorted(path for data in own.values() for path in data.paths)
    for k in (1, 2):
        sets = {split: load(layout, split, class_split=k) for split in split_names(layout)}
        assert sorted(path for data in sets.values() for path in data.paths) == paths
        tested = set(sets["gallery" if layout == "inshop" else "test"].classes)
        assert not tested & set(sets["train"].classes) and tested | set(sets["train"].classes) == classes
    assert [len(load(layout, "train", class_split=k).classes) for k in (1, 2)] == [2, 3]


def test_queries_and_gallery_keep_their_images_and_classes_that_have_none_take_turns():
    rows = {"train": [], "query": [], "gallery": []}
    for number in range(4):  # two classes for training, two with queries and gallery, each of four images
        for k in range(4):
            split = "train" if number < 2 else ("query", "gallery")[k % 2]
            rows[split].append(Row(f"{number}{k}", number, str(number)))
    rows["train"].append(Row("40", 4, "4"))
    for k in range(1, 11):
        halves = halve(rows, k)
        numbers = {split: {row.number for row in found} for split, found in halves.items()}
        assert numbers["query"] == numbers["gallery"] - {4}, "one image has no query"
        assert not numbers["train"] & numbers["gallery"]
        for split in ("query", "gallery"):
            kept = [row.path for row in halves[split] if row.number in (2, 3)]
            assert kept == [row.path for row in rows[split] if row.path in kept]
            assert all(
                row.path[1] in ("13", "02")[split == "gallery"] for row in halves[split] if row.number < 2
            )


@pytest.mark.parametrize("wrong", [-1, 11, 0.5, "1", None])
def test_another_number_is_refused(wrong):
    with pytest.raises(ValueError, match="class_split must be from 0 to 10, got"):
        load("digits", "train", class_split=wrong)
