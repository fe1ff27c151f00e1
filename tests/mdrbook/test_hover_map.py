"""The map that shows drawings, to mouse, touch and keyboard in headless Chromium, and what it is made of."""

import base64
import io

import numpy as np

import check_book
from mdrbook.live import hover_map

MIDDLES = """all => all.map(mark => {
  const box = mark.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""


def places(page):
    """The middles of all marks, in pixels of the window."""
    return np.array(page.locator(".live-map svg > .live-mark").evaluate_all(MIDDLES))


def drawing_shown(page, images):
    """Index of the image that the picture shown beside the point looks like most."""
    from PIL import Image

    shot = Image.open(io.BytesIO(page.locator(".live-drawing").screenshot())).convert("L").resize((32, 32))
    seen = 1 - np.asarray(shot) / 255  # paper is light, strokes are 1 in `images` or the other way round
    likeness = [abs(np.corrcoef(seen.ravel(), image.numpy().ravel())[0, 1]) for image in images[:, 0]]
    assert max(likeness) > 0.9
    return int(np.argmax(likeness))


def test_the_map_shows_the_drawing_of_a_point(show, drawings):
    xy, images, labels, classes, *_ = drawings
    page = show(hover_map.hover_map(*drawings, most=40).data)
    tip, chosen = page.locator(".live-tip"), hover_map.spread_over_classes(labels.numpy(), 40)
    assert not tip.is_visible() and page.locator(".live-map svg > .live-mark").count() == 40
    at = places(page)
    for k in (0, 17, 39):
        page.mouse.move(*at[k])
        index = int(tip.get_attribute("data-index"))
        assert index in chosen[np.linalg.norm(at - at[k], axis=1) < 1]  # it, or one at the same place
        assert drawing_shown(page, images) == index
        assert tip.inner_text() == classes[labels[index]]
        assert page.locator(".live-rings circle").count() == (labels[chosen] == labels[index]).sum()
    page.mouse.move(5, 5)
    assert not tip.is_visible()
    # A click keeps it, and the other method shows the same drawing at its own place.
    page.mouse.click(*at[17])
    index = tip.get_attribute("data-index")
    page.locator("button", has_text="Triplet").first.click()
    assert tip.is_visible() and tip.get_attribute("data-index") == index
    assert (places(page)[17] != at[17]).any()
    box, frame = tip.bounding_box(), page.locator(".live-map").bounding_box()
    assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"]


def test_the_map_by_keyboard_and_touch(show, drawings):
    images = drawings[1]
    page = show(hover_map.hover_map(*drawings, most=40).data, viewport=check_book.PHONE, has_touch=True)
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
    page.touchscreen.tap(*places(page)[3])
    assert tip.is_visible() and drawing_shown(page, images) == int(tip.get_attribute("data-index"))
    assert check_book.look(page, "wide") == []


def test_one_group_at_a_time_stands_out(show, drawings):
    page = show(hover_map.hover_map(*drawings, most=40).data)
    marks, dim = page.locator(".live-map svg > .live-mark"), page.locator(".live-map svg > .live-dim")
    buttons = page.locator(".live-key button")
    looks = buttons.locator("path").evaluate_all(
        "a => a.map(n => n.getAttribute('d') + n.getAttribute('fill'))"
    )
    assert len(set(looks)) == len(looks) > 1 and dim.count() == 0
    buttons.first.click()
    assert buttons.first.get_attribute("aria-pressed") == "true"
    shown = marks.evaluate_all("a => a.map(n => [n.getAttribute('fill'), n.classList.contains('live-dim')])")
    own = buttons.first.locator("path").get_attribute("fill")
    assert {dimmed for fill, dimmed in shown if fill == own} == {False}
    assert {dimmed for fill, dimmed in shown if fill != own} == {True}
    buttons.first.click()
    assert dim.count() == 0


def test_what_the_map_leaves_out():
    labels = np.repeat(np.arange(6), (10, 10, 10, 10, 10, 2))
    chosen = hover_map.spread_over_classes(labels, 24)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4, 4, 4, 2]
    assert chosen[:4].tolist() == [0, 2, 5, 7]
    assert hover_map.spread_over_classes(labels, 100).tolist() == list(range(52))
    few = hover_map.spread_over_classes(labels, 3)
    assert labels[few].tolist() == [0, 2, 5]


def test_the_sprite_holds_every_drawing():
    from PIL import Image

    pictures = np.random.default_rng(0).random((30, 40, 40, 3)).astype(np.float32)
    source, side = hover_map.sprite_of(pictures)
    sheet = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert side == hover_map.SIDE and sheet.size == (25 * side, 2 * side)
    assert hover_map.scaled(np.array([[0.0, 0.0], [2.0, 1.0]])).tolist() == [[0, 750], [1000, 250]]
