"""Levels and lambda in a page, in headless Chromium, and their figure: the numbers are those of mdrlib."""

import re

import numpy as np
import pytest
import torch

from mdrbook.live import levels as live_levels
from mdrbook.plots import nearest_level
from mdrlib import mdr_loss, pairwise_distances

SETTINGS = [(0,), (-3, 0, 3), (-2, 0.5), (-1.5, -0.35, 0.4, 5)]


@pytest.fixture(scope="module")
def pairs():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).double()
    x[:10] /= 9  # a few far smaller and, with the next, far larger distances
    x[59] *= 6
    i, j = torch.triu_indices(60, 60, offset=1)
    labels = torch.arange(60) // 5
    return pairwise_distances(x)[i, j], labels[i] == labels[j], x


def said(page, name):
    return float(page.locator(f"[data-say={name}]").first.get_attribute("data-value"))


def test_levels_are_those_of_mdrlib(show, pairs):
    """To 1e-6: sums within bins are rounded to four digits."""
    d, same, x = pairs
    z = live_levels.normalized(d)
    one = live_levels.levels_live(*pairs[:2], (-3, 0, 3), SETTINGS).data
    page = show(one + one)  # two of a kind do not disturb each other
    buttons = page.locator(".mdr-live").first.locator("button")

    def agrees(levels, weight):
        wanted = mdr_loss(x, levels, d.mean(), d.std(), backend="eager").item()
        assert said(page, "mdr") == pytest.approx(wanted, abs=1e-6)
        assert said(page, "mdr") == pytest.approx(live_levels.regularizer(z, levels), abs=1e-6)
        assert said(page, "weighted") == pytest.approx(weight * wanted, abs=1e-6)
        shares = page.locator(".mdr-live").first.locator(".live-share tspan:last-child").all_text_contents()
        owned = np.bincount(nearest_level(z, levels), minlength=len(levels)) / len(z)
        assert [float(text.strip(" %")) for text in shares] == pytest.approx(100 * owned, abs=0.51)

    agrees((-3, 0, 3), 0.1)
    for button, setting in zip(buttons.all(), SETTINGS, strict=True):
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        agrees(setting, 0.1)
    buttons.nth(1).click()
    sliders = page.locator(".mdr-live").first.locator("input").all()
    before = page.locator(".live-bar").first.get_attribute("d")
    sliders[0].focus()
    for _ in range(13):
        page.keyboard.press("ArrowRight")
    sliders[1].fill("-4.1")  # past the other: levels may change order
    sliders[3].fill("0.7")
    agrees((-4.1, -2.35, 3), 0.7)
    assert sliders[0].get_attribute("aria-valuetext").startswith("\N{MINUS SIGN}2.35; L_MDR ")
    assert page.locator(".live-bar").first.get_attribute("d") != before
    second = page.locator(".mdr-live").nth(1).locator("input").first
    assert second.input_value() == "-3"


def test_the_pull_is_minus_the_gradient(show, pairs):
    page = show(live_levels.levels_live(*pairs[:2], settings=SETTINGS).data)
    page.locator(".mdr-live").first.locator("button").nth(3).click()
    page.locator(".mdr-live").first.locator("input").nth(4).fill("0.45")
    levels = torch.tensor(SETTINGS[3])
    steps = (
        page.locator(".mdr-live")
        .first.locator(".live-pull")
        .evaluate_all("all => all.map(node => ({ ...node.dataset, d: node.getAttribute('d') }))")
    )
    assert [float(step["level"]) for step in steps] == pytest.approx(levels.tolist())
    assert float(steps[0]["from"]) == -5 and float(steps[-1]["to"]) == 5
    for step in steps:
        low, level, high = (float(step[key]) for key in ("from", "level", "to"))
        heights = re.fullmatch(r"M\S+ (\S+)H\S+V(\S+)H\S+", step["d"]).groups()
        before, after = [(float(step["zero"]) - float(y)) / float(step["one"]) for y in heights]
        for drawn, at in ((before, (low + level) / 2), (after, (level + high) / 2)):
            if low < at < high and at != level:
                z = torch.tensor(at, requires_grad=True)
                (0.45 * (z - levels).abs().min()).backward()
                assert drawn == pytest.approx(-z.grad.item())


def test_the_figure_and_its_description_are_of_mdrlib_too(pairs):
    d, same, x = pairs
    z, same = live_levels.normalized(d), same.numpy()
    value = mdr_loss(x, (-1.0, 1.0), d.mean(), d.std(), backend="eager").item()
    fig = live_levels.levels_figure(z, same, (-1.0, 1.0), weight=0.5)
    assert f"= {value:.3f}" in fig.get_suptitle() and f"= {value / 2:.3f}" in fig.get_suptitle()
    _, pull = fig.axes
    for patch, level in zip(pull.patches, (-1.0, 1.0), strict=True):
        values, edges, _ = patch.get_data()
        assert values.tolist() == [0.5, -0.5] and edges[1] == level  # the pull changes sign at the level
    assert pull.patches[0].get_data().edges[2] == pull.patches[1].get_data().edges[0] == 0
    told = live_levels.describe(z, same, (-1.0, 1.0), 0.5)
    assert f"L_MDR {value:.3f}, lambda times L_MDR {value / 2:.3f}" in told
    assert "0% of pairs of one class" in live_levels.describe(z, np.zeros_like(same), (-1.0, 1.0), 0.5)


def test_levels_refuse(pairs):
    for levels in ((-3, 0.01), (-5.5,)):
        with pytest.raises(ValueError, match="multiples of 0.05 within 5"):
            live_levels.levels_live(*pairs[:2], levels)
