"""What all live pictures promise: readable, still without scripts, no network, whole in the package."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

import check_book
from mdrbook.live import live
from mdrbook.live.hover_map import hover_map
from mdrbook.live.levels import levels_live
from mdrbook.live.training import training_live

ROOT = Path(__file__).resolve().parents[2]
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(params=["levels", "training", "map"])
def picture(request, trained, drawings):
    """The HTML of one of them."""
    distances = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    return {
        "levels": lambda: levels_live(distances, distances < -0.5),
        "training": lambda: training_live(trained),
        "map": lambda: hover_map(*drawings, most=40),
    }[request.param]().data


def test_readable_in_both_themes_and_on_a_phone(show, picture):
    page = show(picture)
    page.add_style_tag(path=ROOT / "book/_static/custom.css")
    for theme in ("light", "dark"):
        check_book.set_theme(page, theme)
        assert check_book.appearance_faults(page) == []
        assert page.locator(".mdr-live svg .live-mark, .mdr-live svg .live-bar").count()
        filters = "all => all.map(node => getComputedStyle(node).filter)"
        assert set(page.locator(".mdr-live svg").evaluate_all(filters)) == {"none"}
    assert check_book.look(page, "broken") == []
    page.set_viewport_size({"width": 320, "height": 700})
    page.evaluate(TWO_FRAMES)
    assert check_book.look(page, "wide") == []
    texts = "a => a.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.textContent)"
    assert page.locator("svg text").evaluate_all(texts) == []


def test_without_scripts_a_still_picture_remains(show, picture):
    page = show(picture, java_script_enabled=False)
    still = page.locator(".live-still img").first
    assert still.is_visible() and len(still.get_attribute("alt")) > 20
    assert not page.locator(".live-box").first.is_visible()


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        live("levels", [float("nan")], "", "")


def test_nothing_is_asked_of_a_network(drawings):
    page = hover_map(*drawings, most=40).data
    assert re.findall(r"(?:https?:)?//[a-z][^\s'\"]*\.[a-z]+/", page) in ([], ["http://www.w3.org/"])
    assert "class <0>" not in page and "class \\u003c0>" in page


def test_scripts_and_styles_are_in_the_package():
    folder = ROOT / "book/mdrbook"
    settings = tomllib.loads((ROOT / "book/pyproject.toml").read_text())["tool"]["setuptools"]
    ends = {pattern.removeprefix("*") for pattern in settings["package-data"]["mdrbook.live"]}
    others = [path for path in folder.rglob("*") if path.suffix in (".js", ".css", ".html", ".json")]
    assert len(others) == 5
    assert all(path.parent == folder / "live" and path.suffix in ends for path in others)
