"""What all live pictures promise: readable, still without scripts, no network, whole in the package."""

import re
from pathlib import Path

import pytest
import torch

import check_book
from mdrlib import hover_map, live, live_levels, live_training

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["levels", "training", "map"])
def picture(request, trained, drawings):
    """The HTML of one of them."""
    distances = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    return {
        "levels": lambda: live_levels.levels_live(distances, distances < -0.5),
        "training": lambda: live_training.training_live(trained),
        "map": lambda: hover_map.hover_map(*drawings, most=40),
    }[request.param]().data


def test_readable_in_both_themes_and_on_a_phone(show, picture):
    page = show(picture)
    page.add_style_tag(path=ROOT / "book/_static/custom.css")
    for theme in ("light", "dark"):
        check_book.set_theme(page, theme)
        assert page.evaluate(check_book.CONTRAST, check_book.LEAST_CONTRAST) == []
        marks = {"least": check_book.LEAST_OF_MARKS, "aside": ""}
        assert page.evaluate(check_book.MARKS, marks | {"aside": check_book.ASIDE}) == []
        assert page.locator(".mdr-live svg .live-mark, .mdr-live svg .live-bar").count()
        filters = "all => all.map(node => getComputedStyle(node).filter)"
        assert set(page.locator(".mdr-live svg").evaluate_all(filters)) == {"none"}
    assert page.evaluate(check_book.FAULTS) == []
    page.set_viewport_size({"width": 320, "height": 700})
    page.wait_for_timeout(150)
    assert page.evaluate(check_book.WIDE) == []
    texts = "a => a.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.textContent)"
    assert page.locator("svg text").evaluate_all(texts) == []


def test_without_scripts_a_still_picture_remains(show, picture):
    page = show(picture, java_script_enabled=False)
    still = page.locator(".live-still img").first
    assert still.is_visible() and len(still.get_attribute("alt")) > 20
    assert not page.locator(".live-box").first.is_visible()


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        live.live("live_levels", [float("nan")], "", "")


def test_nothing_is_asked_of_a_network_or_left_out_of_the_package(drawings):
    page = hover_map.hover_map(*drawings, most=40).data
    assert re.findall(r"(?:https?:)?//[a-z][^\s'\"]*\.[a-z]+/", page) in ([], ["http://www.w3.org/"])
    assert "class <0>" not in page and "class \\u003c0>" in page
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'mdrlib = ["*.js", "*.css"]' in settings
    assert {path.stem for path in (ROOT / "mdrlib").glob("*.js")} == {
        "live", "live_levels", "live_training", "hover_map"
    }  # fmt: skip
