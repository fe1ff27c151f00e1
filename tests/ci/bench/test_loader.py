"""The measurement of the loader: what it loads, and that every candidate loads it."""

import io
import os

import numpy as np

from bench import loader
from bench.loader import COLD, NONE, PLAIN, WARM


def test_a_generated_photograph_is_as_large_a_file_as_those_of_cub():
    sizes = []
    for seed in range(3):
        file = io.BytesIO()
        loader.photograph(seed).save(file, "JPEG", quality=loader.QUALITY)
        sizes.append(len(file.getvalue()))
    assert 90_000 < np.mean(sizes) < 102_000 and len(set(sizes)) == 3


def test_all_candidates_are_measured_and_load_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "BATCH", 8)
    monkeypatch.setattr(loader, "WIDTH", 60)
    monkeypatch.setattr(loader, "HEIGHT", 45)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    rows = loader._measure(tmp_path, 16, 2, [], 1)
    assert [(row["what"], row["loader"]) for row in rows] == [
        (what, name) for what in ("training", "evaluation") for name in (PLAIN, NONE, COLD, WARM)
    ]
    for row in rows:
        assert row["largest_pixel_difference"] == 0 and row["repetitions"] == 2 and row["workers"] == 0
        assert 0 < row["spread"][0] <= row["images_per_second"] <= row["spread"][1]
    assert rows[0]["ratio"] == rows[4]["ratio"] == 1
    assert os.environ["XDG_CACHE_HOME"] == "/nowhere"


def test_candidates_take_turns_and_ratios_are_of_one_repetition():
    calls = []
    speed = {PLAIN: (10, 20, 40), WARM: (30, 40, 200)}
    candidates = {name: lambda r, n=name: calls.append((r, n)) or speed[n][r] for name in speed}
    rates = loader.compare(candidates, 3)
    assert calls == [(0, PLAIN), (0, WARM), (1, WARM), (1, PLAIN), (2, PLAIN), (2, WARM)]
    row = loader.rows("training", 3, rates, 0)[1]
    assert (row["ratio"], row["images_per_second"], row["workers"]) == (3, 40, 3)
