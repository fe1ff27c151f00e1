"""Distances through training, as a figure and in a page in headless Chromium, against the stored counts."""

import shutil

import numpy as np
import pytest

from mdrbook.live import training as live_training


def overlaps(folders, at):
    """By sorting the drawn numbers' bins one by one: an oracle of its own."""
    found = []
    for folder in folders.values():
        counts = np.load(folder / "distances.npz")
        one, two = (counts[f"test_{kind}"][at].astype(float) for kind in ("positive", "negative"))
        found.append(sum(min(a / one.sum(), b / two.sum()) for a, b in zip(one, two, strict=True)))
    return found


def spoken_overlaps(page):
    return [
        float(value)
        for value in page.locator("[data-value]").evaluate_all("a => a.map(n => n.dataset.value)")
    ]


def test_training_moves_by_slider_and_keys(show, trained):
    page = show(live_training.training_live(trained).data)
    slider = page.locator("input")
    assert slider.input_value() == "3" and page.locator("button").inner_text() == "Play"
    for key, at in (("Home", 0), ("ArrowRight", 1), ("End", 3)):
        slider.press(key)
        assert slider.get_attribute("aria-valuetext") == f"iteration {10 * at} of 30"
        assert spoken_overlaps(page) == pytest.approx(overlaps(trained, at))
        marks = page.locator(".live-mark").evaluate_all("a => a.map(n => +n.dataset.level)")
        assert marks == pytest.approx([-2.0 - 0.1 * at, -0.1 * at, 2.5 - 0.1 * at])


def test_training_has_its_numbers_as_a_table(show, trained):
    page = show(live_training.training_live(trained).data)
    page.locator("summary").click()
    heads = page.locator("th").all_inner_texts()
    assert heads == [
        "iteration",
        *(f"overlap, {name}" for name in ("Triplet", "Triplet+L2Norm", "Triplet+MDR")),
    ]
    cells = [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]
    for at, (iteration, *found) in enumerate(cells):
        assert iteration == str(10 * at)
        assert [float(text.strip("%")) / 100 for text in found] == pytest.approx(
            overlaps(trained, at), abs=6e-4
        )


def test_training_plays_when_asked_only(show, trained):
    page = show(live_training.training_live(trained).data)
    slider, button = page.locator("input"), page.locator("button")
    slider.fill("0")
    page.wait_for_timeout(900)
    assert slider.input_value() == "0"
    button.click()
    assert button.inner_text() == "Pause"
    # The page itself presses again, at once: this process may be late by more than a step.
    page.wait_for_function("""() => {
      if (document.querySelector("input").value === "0") return false;
      document.querySelector("button").click();
      return true;
    }""")
    stopped = slider.input_value()
    page.wait_for_timeout(900)
    assert slider.input_value() == stopped in "12" and button.inner_text() == "Play"


def test_training_is_drawn_and_told(trained):
    runs = live_training.stored_distances(trained)
    assert [run.name for run in runs] == ["Triplet", "Triplet+L2Norm", "Triplet+MDR"]
    assert runs[2].levels[1].tolist() == pytest.approx([-2.1, -0.1, 2.4]) and runs[0].levels.shape == (4, 0)
    fig = live_training.training_figure(runs, 2)
    assert len(fig.axes) == 3 and "iteration 20" in fig.get_suptitle()
    assert f"overlap {overlaps(trained, 2)[0]:.0%}" in live_training.describe(runs, 2)
    assert live_training.overlap([2, 2, 0], [0, 1, 1]) == 0.5 and live_training.overlap([1], [0]) == 0


def test_training_refuses_other_evaluations(trained, tmp_path):
    shutil.copytree(trained["triplet"], tmp_path / "other")
    counts = dict(np.load(tmp_path / "other/distances.npz"))
    np.savez(tmp_path / "other/distances.npz", **counts | {"iterations": [0, 10, 20, 40]})
    with pytest.raises(ValueError, match="same iterations"):
        live_training.stored_distances({"triplet": trained["triplet"], "b": tmp_path / "other"})
