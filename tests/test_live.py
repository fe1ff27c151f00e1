"""The live pictures in headless Chromium: they answer with mdrlib's numbers, to mouse, touch and keyboard."""

import base64
import io
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from mdrlib import (  # noqa: E402
    explorers,
    hover_map,
    live,
    live_levels,
    live_training,
    mdr_loss,
    pairwise_distances,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "ci"))
import check_book  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")

HEAD = """<!doctype html><html data-theme="light"><head><meta charset="utf8"><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
html { --back: #ffffff; --text: #222832; } html[data-theme=dark] { --back: #121212; --text: #ced6dd; }
body { margin: 16px; background: var(--back); color: var(--text); }
</style></head><body><article class="bd-content"><div class="cell_output">"""
SETTINGS = [(0,), (-3, 0, 3), (-2, 0.5), (-1.5, -0.35, 0.4, 5)]


@pytest.fixture(scope="module")
def pairs():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).double()
    x[:10] /= 9  # a few far smaller and, with the next, far larger distances
    x[59] *= 6
    i, j = torch.triu_indices(60, 60, offset=1)
    labels = torch.arange(60) // 5
    return pairwise_distances(x)[i, j], labels[i] == labels[j], x


@pytest.fixture(scope="module")
def drawings():
    """Eighty drawings of noise, in eight classes and three groups."""
    images = torch.rand(80, 1, 32, 32, generator=torch.Generator().manual_seed(0)).round()
    labels = torch.arange(80) // 10
    xy = {
        name: np.random.default_rng(seed).normal(size=(80, 2)) for seed, name in enumerate(("triplet", "mdr"))
    }
    return xy, images, labels, [f"class <{k}>" for k in range(8)], labels % 3, ["a", "b", "c"]


@pytest.fixture(scope="module")
def address(tmp_path_factory, pairs, trained, drawings):
    folder = tmp_path_factory.mktemp("live")
    pages = {
        "levels": live_levels.levels_live(*pairs[:2], (-3, 0, 3), SETTINGS, 0.1, "Levels"),
        "training": live_training.training_live(trained, "Training"),
        "map": hover_map.hover_map(*drawings, most=40, caption="Map"),
    }
    for name, page in pages.items():
        again = page.data if name == "levels" else ""  # two of a kind do not disturb each other
        (folder / f"{name}.html").write_text(
            f"{HEAD}{page.data}{again}</div></article></body></html>", "utf8"
        )
    with check_book.served(folder) as host:
        yield host


@pytest.fixture(scope="module")
def browser():
    with check_book.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(check_book.CHROMIUM_WORDS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """open_page(name, **context options); errors and whatever asks another host fail the test."""
    faults, contexts = [], []

    def opened(name, **options):
        contexts.append(browser.new_context(**({"viewport": check_book.DESKTOP} | options)))
        page = contexts[-1].new_page()
        check_book.watch(page, urlsplit(address).netloc, faults)
        page.goto(f"{address}/{name}.html", wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


# Levels and lambda


def said(page, name):
    return float(page.locator(f"[data-say={name}]").first.get_attribute("data-value"))


@in_browser
def test_levels_are_those_of_mdrlib(open_page, pairs):
    """To 1e-6: sums within bins are rounded to four digits."""
    d, same, x = pairs
    z = explorers.normalized(d)
    page = open_page("levels")
    buttons = page.locator(".mdr-live").first.locator("button")

    def agrees(levels, weight):
        wanted = mdr_loss(x, levels, d.mean(), d.std(), backend="eager").item()
        assert said(page, "mdr") == pytest.approx(wanted, abs=1e-6)
        assert said(page, "mdr") == pytest.approx(explorers.regularizer(z, levels), abs=1e-6)
        assert said(page, "weighted") == pytest.approx(weight * wanted, abs=1e-6)
        shares = page.locator(".mdr-live").first.locator(".live-share tspan:last-child").all_text_contents()
        owned = np.bincount(explorers.nearest_level(z, levels), minlength=len(levels)) / len(z)
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


@in_browser
def test_the_pull_is_minus_the_gradient(open_page):
    page = open_page("levels")
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


def test_levels_refuse(pairs):
    for levels in ((-3, 0.01), (-5.5,)):
        with pytest.raises(ValueError, match="multiples of 0.05 within 5"):
            live_levels.levels_live(*pairs[:2], levels)
    with pytest.raises(ValueError, match="JSON compliant"):
        live.live("live_levels", [float("nan")], "", "")


# Distances through training


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


@in_browser
def test_training_moves_by_slider_and_keys(open_page, trained):
    page = open_page("training")
    page.wait_for_timeout(100)
    slider = page.locator("input")
    assert slider.input_value() == "3" and page.locator("button").inner_text() == "Play"
    for key, at in (("Home", 0), ("ArrowRight", 1), ("End", 3)):
        slider.press(key)
        assert slider.get_attribute("aria-valuetext") == f"iteration {10 * at} of 30"
        assert spoken_overlaps(page) == pytest.approx(overlaps(trained, at))
        marks = page.locator(".live-mark").evaluate_all("a => a.map(n => +n.dataset.level)")
        assert marks == pytest.approx([-2.0 - 0.1 * at, -0.1 * at, 2.5 - 0.1 * at])


@in_browser
@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_training_plays_when_asked_only(open_page, motion):
    page = open_page("training", reduced_motion=motion)
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
    assert runs[2].levels[1].tolist() == pytest.approx([-2.1, -0.1, 2.4]) and runs[0].levels is None
    fig = live_training.training_figure(runs, 2)
    assert len(fig.axes) == 3 and "iteration 20" in fig.get_suptitle()
    assert f"overlap {overlaps(trained, 2)[0]:.0%}" in live_training.told(runs, 2)
    assert live_training.overlap([2, 2, 0], [0, 1, 1]) == 0.5 and live_training.overlap([1], [0]) == 0
    with pytest.raises(ValueError, match="one or more folders"):
        live_training.stored_distances({})


def test_training_refuses_other_evaluations(trained, tmp_path):
    shutil.copytree(trained["triplet"], tmp_path / "other")
    counts = dict(np.load(tmp_path / "other/distances.npz"))
    np.savez(tmp_path / "other/distances.npz", **counts | {"iterations": [0, 10, 20, 40]})
    with pytest.raises(ValueError, match="same iterations"):
        live_training.stored_distances({"triplet": trained["triplet"], "b": tmp_path / "other"})


# The map


def place(page, k):
    """The middle of mark k, in pixels of the window."""
    box = page.locator(".live-map svg > .live-mark").nth(k).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drawing_shown(page, images):
    """Index of the image that the picture shown beside the point looks like most."""
    from PIL import Image

    shot = Image.open(io.BytesIO(page.locator(".live-drawing").screenshot())).convert("L").resize((32, 32))
    seen = 1 - np.asarray(shot) / 255  # paper is light, strokes are 1 in `images` or the other way round
    likeness = [abs(np.corrcoef(seen.ravel(), image.numpy().ravel())[0, 1]) for image in images[:, 0]]
    assert max(likeness) > 0.9
    return int(np.argmax(likeness))


@in_browser
def test_the_map_shows_the_drawing_of_a_point(open_page, drawings):
    xy, images, labels, classes, *_ = drawings
    page = open_page("map")
    tip, chosen = page.locator(".live-tip"), hover_map.spread_over_classes(labels.numpy(), 40)
    assert not tip.is_visible() and page.locator(".live-map svg > .live-mark").count() == 40
    for k in (0, 17, 39):
        page.mouse.move(*place(page, k))
        index = int(tip.get_attribute("data-index"))
        near = [np.hypot(*np.subtract(place(page, k), place(page, other))) < 1 for other in range(40)]
        assert index in chosen[near]  # that point, or one at the same place
        assert drawing_shown(page, images) == index
        assert tip.inner_text() == classes[labels[index]]
        assert page.locator(".live-rings circle").count() == (labels[chosen] == labels[index]).sum()
    page.mouse.move(5, 5)
    assert not tip.is_visible()
    # A click keeps it, and the other method shows the same drawing at its own place.
    page.mouse.click(*place(page, 17))
    index, before = tip.get_attribute("data-index"), place(page, 17)
    page.locator("button", has_text="Triplet").first.click()
    assert tip.is_visible() and tip.get_attribute("data-index") == index and place(page, 17) != before
    box, frame = tip.bounding_box(), page.locator(".live-map").bounding_box()
    assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"]


@in_browser
def test_the_map_by_keyboard_and_touch(open_page, drawings):
    images = drawings[1]
    page = open_page("map", viewport=check_book.PHONE, has_touch=True)
    tip = page.locator(".live-tip")
    page.locator(".live-map svg").focus()
    seen = set()
    for key in ["ArrowRight"] * 4 + ["ArrowUp"] * 3 + ["ArrowLeft", "ArrowDown"]:
        page.keyboard.press(key)
        seen.add(int(tip.get_attribute("data-index")))
    assert len(seen) >= 5
    index = int(tip.get_attribute("data-index"))
    assert drawing_shown(page, images) == index
    assert page.locator(".live-unseen").text_content().endswith(f", image {index}")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.touchscreen.tap(*place(page, 3))
    assert tip.is_visible() and drawing_shown(page, images) == int(tip.get_attribute("data-index"))
    assert page.evaluate(check_book.WIDE) == []


def test_what_the_map_leaves_out():
    labels = np.repeat(np.arange(6), (10, 10, 10, 10, 10, 2))
    chosen = hover_map.spread_over_classes(labels, 24)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4, 4, 4, 2]
    assert chosen[:4].tolist() == [0, 2, 5, 7]
    assert hover_map.spread_over_classes(labels, 100).tolist() == list(range(52))
    few = hover_map.spread_over_classes(labels, 3)
    assert labels[few].tolist() == [0, 2, 5]
    with pytest.raises(ValueError, match="at least 1"):
        hover_map.spread_over_classes(labels, 0)


def test_the_sprite_holds_every_drawing():
    from PIL import Image

    pictures = np.random.default_rng(0).random((30, 40, 40, 3)).astype(np.float32)
    source, side = hover_map.sprite_of(pictures)
    sheet = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert side == hover_map.SIDE and sheet.size == (25 * side, 2 * side)
    assert hover_map.scaled(np.array([[0.0, 0.0], [2.0, 1.0]])).tolist() == [[0, 750], [1000, 250]]


def test_the_map_refuses(drawings):
    xy, images, labels, classes, *_ = drawings
    for maps, names, start in (({}, classes, None), (xy, classes[:3], None), (xy, classes, "other")):
        with pytest.raises(ValueError, match="hover_map needs maps"):
            hover_map.hover_map(maps, images, labels, names, start=start)
    with pytest.raises(ValueError, match="images must have shape"):
        hover_map.hover_map(xy, images[:5], labels, classes)


# All three


LOOKS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255); };
  const light = css => {
    const [r, g, b] = rgb(css).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const ratio = css => { const [low, high] = [back, light(css)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05); };
  const found = (selector, property) => [...document.querySelectorAll(selector)]
    .map(node => ratio(getComputedStyle(node)[property]));
  return { text: found(".mdr-live svg text", "fill"),
           marks: [...found(".live-bar, .live-mark", "fill"),
                   ...found(".live-pull, .live-curve, .live-line", "stroke")],
           filters: [...document.querySelectorAll(".mdr-live svg")].map(node =>
             getComputedStyle(node).filter) };
}"""


@in_browser
@pytest.mark.parametrize("name", ["levels", "training", "map"])
def test_readable_in_both_themes_and_on_a_phone(open_page, name):
    page = open_page(name)
    page.add_style_tag(path=ROOT / "book/_static/custom.css")
    for theme in ("light", "dark"):
        check_book.set_theme(page, theme)
        assert page.evaluate(check_book.CONTRAST, check_book.LEAST_CONTRAST) == []
        looks = page.evaluate(LOOKS)
        assert looks["marks"] and min(looks["marks"]) >= 3 and min(looks["text"], default=21) >= 4.5
        assert set(looks["filters"]) == {"none"}
    assert page.evaluate(check_book.FAULTS) == []
    page.set_viewport_size({"width": 320, "height": 700})
    page.wait_for_timeout(150)
    assert page.evaluate(check_book.WIDE) == []
    texts = "a => a.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.textContent)"
    assert page.locator("svg text").evaluate_all(texts) == []


@in_browser
@pytest.mark.parametrize("name", ["levels", "training", "map"])
def test_without_scripts_a_still_picture_remains(browser, address, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{name}.html")
    still = page.locator(".live-still img").first
    assert still.is_visible() and len(still.get_attribute("alt")) > 20
    assert not page.locator(".live-box").first.is_visible()
    context.close()


def test_nothing_is_asked_of_a_network_or_left_out_of_the_package(drawings):
    page = hover_map.hover_map(*drawings, most=40).data
    assert re.findall(r"(?:https?:)?//[a-z][^\s'\"]*\.[a-z]+/", page) in ([], ["http://www.w3.org/"])
    assert "class <0>" not in page and "class \\u003c0>" in page
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'mdrlib = ["*.js", "*.css"]' in settings
    assert {path.stem for path in (ROOT / "mdrlib").glob("*.js")} == {
        "live", "live_levels", "live_training", "hover_map"
    }  # fmt: skip
