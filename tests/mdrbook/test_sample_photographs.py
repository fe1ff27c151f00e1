"""The small folder of photographs is one that mdrlib takes; its bursts are alike and its visits are not."""

import numpy as np
import pytest
from PIL import Image

from mdrbook import sample_photographs
from mdrlib.datasets import load
from mdrlib.datasets.preprocessing import open_image

TRAIN = sample_photographs.TRAIN[:2]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "places"
    sample_photographs.cut(folder, TRAIN)
    return folder


def test_mdrlib_takes_it_and_no_picture_is_on_both_sides(places):
    sets = {split: load("folder", split, places) for split in ("train", "query", "gallery")}
    pictures = {split: {name.split("/")[0] for name in found.classes} for split, found in sets.items()}
    assert pictures["train"] == {"flower", "astronaut"}
    assert pictures["query"] == pictures["gallery"] == {"china", "chelsea", "motorcycle_left"}
    assert sets["query"].classes == sets["gallery"].classes
    counts = {split: set(found.labels.bincount().tolist()) for split, found in sets.items()}
    assert counts == {"train": {10}, "query": {4}, "gallery": {6}}


def test_shots_of_a_visit_are_alike_and_visits_are_not(places):
    home = places / "train/astronaut/b2"
    grey = {p.stem: np.asarray(open_image(p).convert("L"), dtype=float) for p in home.iterdir()}
    burst = [np.abs(grey[f"visit-{v}-shot-0"] - grey[f"visit-{v}-shot-1"]).mean() for v in range(5)]
    days = [np.abs(grey["visit-0-shot-0"] - grey[f"visit-{v}-shot-0"]).mean() for v in range(1, 5)]
    assert np.mean(burst) < 0.6 * np.mean(days)


def test_one_photograph_of_a_picture_lies_on_its_side(places):
    path = places / "train/astronaut/b2/visit-1-shot-1.JPG"
    stored, other = np.asarray(Image.open(path)), np.asarray(open_image(path.with_stem("visit-1-shot-0")))
    upright = np.asarray(open_image(path))
    assert (np.rot90(upright) == stored).all()
    assert np.abs(upright - other.astype(float)).mean() < np.abs(stored - other.astype(float)).mean()


def test_the_same_seed_cuts_the_same_files(places, tmp_path):
    sample_photographs.cut(tmp_path / "again", TRAIN)
    files = sorted(path.relative_to(places) for path in places.rglob("*.*"))
    assert len(files) == len([*(tmp_path / "again").rglob("*.*")])
    for file in files[::50]:
        assert (places / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
