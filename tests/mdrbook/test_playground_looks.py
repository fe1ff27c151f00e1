"""The looks of the playground: contrast, phones, buttons, and the page without scripts."""

import re

import pytest
import yaml

import check_book
from tests.mdrbook.playground_page import ROOT, chosen, markup, press

# Contrast of drawn text and marks with the page behind them, faded bands included.
DRAWN = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255); };
  const light = c => { const [r, g, b] = c.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = rgb(getComputedStyle(document.body).backgroundColor), backs = [back];
  for (const band of document.querySelectorAll(".pg-band")) {
    const share = Number(getComputedStyle(band).opacity), tint = rgb(getComputedStyle(band).fill);
    backs.push(tint.map((v, c) => share * v + (1 - share) * back[c]));
  }
  const least = (css, list) => Math.min(...list.map(under => {
    const [low, high] = [light(under), light(rgb(css))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05); }));
  const found = (selector, property, list) => [...document.querySelectorAll(selector)]
    .map(node => [least(getComputedStyle(node)[property], list), node.outerHTML.slice(0, 90)]);
  return {
    text: [...found(".pg-strip text", "fill", backs), ...found("svg:not(.pg-strip) text", "fill", [back])],
    marks: [...found(".pg-plane .pg-mark, .pg-plane .pg-head, .pg-dot", "fill", [back]),
            ...found(".pg-plane .pg-shaft, .pg-loss, .pg-stem, .pg-pill, .pg-rug, .pg-lines path",
                     "stroke", [back])],
  };
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_readable_in_both_themes(open_page, theme):
    page = open_page()
    fill = "getComputedStyle(document.querySelector('.pg-pill')).fill"
    page.check("[data-setting=compare]")
    page.select_option("[data-setting=spread]", "5")
    for _ in range(3):
        press(page, "step")
    page.locator(".pg-point").nth(3).focus()
    light = page.evaluate(fill)
    check_book.set_theme(page, theme)
    assert (page.evaluate(fill) != light) == (theme == "dark")
    assert check_book.axe_faults(page) == []
    drawn = page.evaluate(DRAWN)
    assert len(drawn["text"]) > 20 and len(drawn["marks"]) > 30
    assert [told for told in drawn["text"] if told[0] < 4.5] == []
    assert [told for told in drawn["marks"] if told[0] < 3] == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_fits_a_phone(open_page, width):
    page = open_page(viewport={"width": width, "height": 800}, device_scale_factor=2)
    for layout in ("mixed", "line"):
        page.click(f"[data-layout={layout}]")
        page.set_checked("[data-setting=compare]", layout == "line")
        assert check_book.look(page, "wide") == []
        texts = page.evaluate("""() => [...document.querySelectorAll(".mdr-playground svg text")]
          .filter(node => node.getBoundingClientRect().left < -1
            || node.getBoundingClientRect().right > innerWidth + 1)
          .map(node => node.textContent)""")
        assert texts == []


HEADER = 64  # pixels that the book's header takes of the window


@pytest.mark.parametrize("compare", [False, True], ids=["one plane", "two planes"])
def test_plane_strip_and_losses_fit_the_screen_of_a_phone(open_page, compare):
    """Also that of a phone whose browser shows its bars, while no prediction is on trial."""
    page = open_page(viewport=check_book.PHONE, is_mobile=True, has_touch=True)
    page.set_checked("[data-setting=compare]", compare)
    for _ in range(3):
        press(page, "step")
    span = """() => document.querySelector('.pg-chart').getBoundingClientRect().bottom
      - document.querySelector('.pg-planes').getBoundingClientRect().top"""
    assert page.evaluate(span) < 725 - HEADER
    chosen(page, "tug" if compare else "line")
    assert page.evaluate(span) < check_book.PHONE["height"] - HEADER
    sizes = page.evaluate("""() => {
      const written = [...document.querySelectorAll(".mdr-playground :is(text, label, span, button)")];
      return written.filter(node => node.getClientRects().length)
        .map(node => parseFloat(getComputedStyle(node).fontSize));
    }""")
    assert min(sizes) >= 11


def one_of_each_look(page):
    """The first button of each place and colours at rest: all of these have the same rules."""
    look = """node => [node.parentElement.className, getComputedStyle(node).color,
      getComputedStyle(node).backgroundColor].join()"""
    found = {}
    for button in page.locator("article button").all():
        found.setdefault(button.evaluate(look), button)
    assert len(found) >= 5, "layouts, the chosen one, Play, the other buttons, predictions"
    return found.values()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_buttons_stay_readable_under_the_pointer_and_after_a_tap(open_page, theme):
    contrast = """node => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255); };
      const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [v, share]) =>
        sum + share * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4), 0);
      const under = rgb(getComputedStyle(document.body).backgroundColor);
      const [r, g, b, a] = rgb(getComputedStyle(node).backgroundColor);
      const back = [r, g, b].map((v, c) => a * v + (1 - a) * under[c]);
      const [low, high] = [light(back), light(rgb(getComputedStyle(node).color))].sort((p, q) => p - q);
      return (high + 0.05) / (low + 0.05);
    }"""
    for touch in (False, True):
        page = open_page(
            has_touch=touch, **({"is_mobile": True, "viewport": check_book.PHONE} if touch else {})
        )
        check_book.set_theme(page, theme)
        for button in one_of_each_look(page):
            if touch:
                button.tap()
            else:
                button.hover()
            assert button.evaluate("node => node.matches(':hover')")
            assert button.evaluate(contrast) >= 4.5, button.inner_text()
            if not touch:
                page.mouse.down()
                assert button.evaluate(contrast) >= 4.5, button.inner_text()
                page.mouse.up()


def test_without_scripts_a_picture_and_a_sentence_remain(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator("#mdr-playground").is_visible()
    assert page.locator("button:visible").count() == 0
    context.close()
    source = (ROOT / "book/playground.md").read_text(encoding="utf8")
    still = source.split("{div} playground-still")[1].split(":::::")[0]
    assert "needs JavaScript" in still and ":alt: The playground." in still
    assert (ROOT / "book/images/playground.png").exists()


def test_loads_on_its_own_page_only():
    names = {path.name for path in (ROOT / "book/_static").glob("**/*.js")}
    assert names == set(), "every script in _static loads on every page"
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert "extra" in config["sphinx"]["config"]["html_extra_path"]
    for source in re.findall(r'(?:src|href)="(playground-parts/[^"]+)"', markup()):
        assert (ROOT / "book/extra" / source).exists()
    scripts = "".join(path.read_text() for path in (ROOT / "book/extra").glob("**/*.js"))
    assert "eval(" not in scripts and "Function(" not in scripts
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", scripts) == []
