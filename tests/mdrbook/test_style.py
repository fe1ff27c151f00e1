"""Colours stand out and stay apart for every eye, themes are readable, runs have styles of their own."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgb

from mdrbook import style

ROOT = Path(__file__).resolve().parents[2]


def linear(color):
    c = np.asarray(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """WCAG 2 contrast ratio."""
    low, high = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def inverted(color):
    """invert(0.93) hue-rotate(180deg), the filter of book/_static/custom.css.

    The matrix is that of the CSS Filter Effects specification for 180 degrees.
    """
    c = 0.93 + np.asarray(to_rgb(color)) * (1 - 2 * 0.93)
    matrix = [[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]]
    return np.clip(np.array(matrix) @ c, 0, 1)


# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan":
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan":
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan":
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def seen(color, blindness):
    """CIE L*a*b* of a colour as it is seen."""
    rgb = np.clip(np.array(BLINDNESS[blindness]) @ linear(color), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.array([np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089]])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


PALETTE = {
    "pairs": [style.POSITIVE, style.NEGATIVE],
    "methods": [method[1] for method in style.METHODS.values()],
    "losses": list(style.LOSSES.values()),
    "groups": list(style.GROUPS),
    **{f"{count} levels": style.level_colors(count) for count in range(1, 10)},
}


@pytest.mark.parametrize("colors", PALETTE.values(), ids=PALETTE)
def test_colors_stand_out_from_every_background(colors):
    for color in colors:
        assert contrast(color, style.LIGHT) >= 3, to_hex(color)
        assert contrast(color, style.DARK) >= 3, to_hex(color)
        assert contrast(inverted(color), style.DARK) >= 3, to_hex(color)


def gaps(colors, blindness):
    """CIE76, the distance in CIE L*a*b*, of each two colours, in light and dark mode."""
    for view in (to_rgb, inverted):
        for i, a in enumerate(colors):
            for b in colors[:i]:
                gap = np.linalg.norm(seen(view(a), blindness) - seen(view(b), blindness))
                yield gap, to_hex(a), to_hex(b)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("kind", ["pairs", "methods", "3 levels", "losses"])
def test_colors_that_meet_differ_for_every_eye(kind, blindness):
    assert min(gaps(PALETTE[kind], blindness))[0] >= 20, min(gaps(PALETTE[kind], blindness))


@pytest.mark.parametrize("blindness", ["none", "protan", "deutan"])
def test_the_first_five_groups_differ(blindness):
    assert min(gaps(style.GROUPS[:5], blindness))[0] >= 20, min(gaps(style.GROUPS[:5], blindness))


def test_groups_have_shapes_too():
    looks = [style.group_style(k) for k in range(100)]
    assert len({tuple(look.values()) for look in looks}) == 100
    assert len({look["marker"] for look in looks[:10]}) == len({look["color"] for look in looks[:10]}) == 10
    script = (ROOT / "book/mdrbook/live/hover_map.js").read_text("utf8")
    for marker in style.MARKERS:
        shape = re.search(rf"[ {{,]\"?{re.escape(marker)}\"?: \"M", script)
        assert shape, f"no shape for {marker} in the live map"


def test_the_filter_is_the_books():
    css = (ROOT / "book/_static/custom.css").read_text()
    assert "filter: invert(0.93) hue-rotate(180deg)" in css
    assert to_hex(inverted(style.LIGHT)) == style.DARK


@pytest.mark.parametrize("width", [1280, 390])
def test_long_lines_of_code_wrap(show, width):
    cell = '<article class="bd-article"><div class="highlight"><pre>{}</pre></div></article>'
    code = "value = first_function(second, third)  " * 9
    page = show(cell.format(code), viewport={"width": width, "height": 700})
    page.add_style_tag(path=ROOT / "book/_static/custom.css")
    code = page.locator("pre")
    assert code.evaluate("pre => pre.scrollWidth <= pre.clientWidth")
    assert float(code.evaluate("pre => parseFloat(getComputedStyle(pre).fontSize)")) >= 12


@pytest.mark.parametrize("dark", [False, True])
def test_a_theme_is_readable(dark):
    with plt.rc_context():
        style.theme(dark)
        assert plt.rcParams["figure.facecolor"] == (style.DARK if dark else style.LIGHT)
        for muted in (False, True):
            assert contrast(style.text_color(muted), plt.rcParams["figure.facecolor"]) >= 7


def test_runs_of_one_method_share_its_colour_and_nothing_else():
    styles = style.method_styles(["triplet", "triplet+mdr", "glyphs-triplet-mdr", "proxy", "margin"])
    labels = [look["label"] for look in styles.values()]
    assert labels == ["Triplet", "Triplet+MDR", "glyphs-triplet-mdr", "proxy", "margin"]
    colors = [look["color"] for look in styles.values()]
    assert colors[1] == colors[2] and len(set(colors)) == 4
    for part in ("linestyle", "marker", "hatch"):
        assert styles["triplet+mdr"][part] != styles["glyphs-triplet-mdr"][part]


def test_pyplot_keeps_no_figure_and_the_same_drawing_has_the_same_bytes():
    images = []
    for _ in range(2):
        fig, ax = style.figure(2, 1)
        ax.plot([0, 1])
        images.append(style.image(fig, 'a "line"'))
    assert plt.get_fignums() == []
    assert images[0] == images[1] and 'alt="a &quot;line&quot;"' in images[0]


def test_a_legend_names_the_lines_of_all_panels_once():
    fig, axes = style.figure(4, 2, 1, 2)
    for ax, names in zip(axes, (("a", "b"), ("b", "c")), strict=True):
        for name in names:
            ax.plot([0, 1], label=name)
    style.legend(fig, 3)
    assert [text.get_text() for text in fig.legends[0].texts] == ["a", "b", "c"]
