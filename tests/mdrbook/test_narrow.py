"""Figures on a phone: panels below each other, nothing cut off, labels of 11 pixels; the browser chooses."""

import subprocess
import sys

import nbformat
import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text
from nbformat import v4

import check_book
from mdrbook import narrow, pictures, plots, style

SHOWN = 342  # pixels of a figure in a window of 390


def curves():
    """Two panels that share an axis, a long name, a title that needs two lines, a legend of the figure."""
    fig, axes = style.figure(style.WIDTH, 3.4, 1, 2, sharey=True)
    for ax in axes:
        for k in range(4):
            ax.plot([0, 9], [k, 10 * k + 1], color=style.GROUPS[k], label=f"method {k}")
        ax.set(xlabel="iteration", title="mean distance of all pairs before normalization")
    axes[0].set_ylabel("distance")
    axes[1].annotate("at the end", (9, 31), (8, 0), textcoords="offset points", annotation_clip=False)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return fig


def rows():
    names = {"same character": (0.8, 0.7, 0.9), "the same alphabet, and another character": (0.7, 0.6, 0.8)}
    return plots.interval_rows(names, dict(list(names.items())[:1]), baseline="Triplet")


def square():
    fig, axes = style.figure(style.WIDTH, 4.2, 1, 2)
    return plots.pair_matrix(np.eye(6), "left", axes[0])


FIGURES = {"curves": curves, "rows": rows, "matrix": square}
FIGURES["points"] = lambda: plots.point_map(np.eye(3, 2), [0, 1, 2])
FIGURES["shares"] = lambda: plots.level_shares([0, 1, 1], {"a": [True] * 3}, 2)


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_panels_are_stacked_and_nothing_is_cut_off(make):
    wide = make()
    size, words = wide.get_size_inches().tolist(), [text.get_text() for text in wide.findobj(Text)]
    fig = narrow.narrowed(wide)
    assert wide.get_size_inches().tolist() == size
    assert [text.get_text() for text in wide.findobj(Text)] == words, "the wide figure stays as it is"
    assert fig.get_figwidth() == narrow.NARROW
    fig.draw_without_rendering()
    boxes = [ax.get_position() for ax in fig.axes]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    tight = fig.get_tightbbox()
    assert tight.x0 > -0.03 and tight.x1 < narrow.NARROW + 0.03, tight
    assert tight.y0 > -0.03 and tight.y1 < fig.get_figheight() + 0.03, tight
    pixels = [text.get_fontsize() * 96 / 72 * SHOWN / (96 * narrow.NARROW) for text in fig.findobj(Text)]
    assert min(pixels) >= 11


def test_names_of_methods_break_at_a_plus_and_rows_stay_apart():
    names = ["Triplet+L2Norm+MDR, units − Triplet+L2Norm", "Triplet+MDR − Triplet+L2Norm", "Triplet"]
    wide, axes = style.figure(style.WIDTH, 1.8, 1, 2, sharey=True)
    axes[0].set_yticks(range(3), names)
    fig = narrow.narrowed(wide)
    fig.draw_without_rendering()
    for ax in fig.axes:
        labels = sorted(ax.get_yticklabels(), key=lambda label: label.get_window_extent().y0)
        shown = [label.get_text() for label in labels]
        assert {name.replace("\n", " ").replace("+ ", "+") for name in shown} == set(names)
        assert all("L2\n" not in name and "M\n" not in name for name in shown)
        boxes = [label.get_window_extent() for label in labels]
        assert all(lower.y1 < upper.y0 for lower, upper in zip(boxes, boxes[1:], strict=False))


def test_what_panels_shared_each_has_on_its_own():
    fig = narrow.narrowed(curves())
    fig.draw_without_rendering()
    assert [ax.get_ylabel() for ax in fig.axes] == ["distance"] * 2
    for ax in fig.axes:
        assert any(label.get_visible() and label.get_text() for label in ax.get_yticklabels())
    (legend,) = fig.findobj(Legend)
    assert [text.get_text() for text in legend.get_texts()] == [f"method {k}" for k in range(4)]
    colors = [handle.get_color() for handle in legend.legend_handles]
    assert colors == list(style.GROUPS[:4])
    assert legend.get_window_extent().y0 > max(ax.bbox.y1 for ax in fig.axes)


def test_galleries_draw_themselves_in_more_lines():
    images = np.zeros((20, 1, 8, 8), dtype=np.uint8)
    neighbours = np.tile(np.arange(1, 7), (20, 1))
    wide = pictures.retrieval_gallery(images, np.arange(20) % 3, [0, 9], neighbours, k=6)
    (ax,) = narrow.narrowed(wide).axes
    corners = [image.get_extent()[:1] + image.get_extent()[3:] for image in ax.images]
    across, down = (np.unique(np.round(side, 6)) for side in zip(*corners, strict=True))
    assert len(corners) == 14 and (len(across), len(down)) == (4, 4)
    assert len({text.get_text() for text in ax.texts} & {"query", "the 6 nearest, line by line"}) == 2
    (ax,) = narrow.narrowed(pictures.image_grid(images, 2, ["one", "two"])).axes
    assert len(ax.images) == 20 and [text.get_text() for text in ax.texts] == ["one", "two"]
    assert len({image.get_extent()[3] for image in ax.images}) == 4


def test_a_png_carries_the_narrow_one_and_gives_it_back():
    wide, small = narrow.taken_apart(narrow.two_in_one(rows()))
    assert wide == narrow.png(rows())
    assert small == narrow.png(narrow.narrowed(rows()), narrow.NARROW_DPI)
    assert narrow.taken_apart(wide) == (wide, None)


@pytest.mark.slow
def test_a_page_shows_the_variant_that_fits(visit, tmp_path):
    """Through IPython's formatters, a notebook and Sphinx to Chromium."""
    source = "from mdrbook import plots, style\nstyle.theme()\nplots.level_shares([0, 1], {'a': [1, 1]}, 2)"
    cell = v4.new_code_cell(source, metadata={"mystnb": {"image": {"alt": "two bars"}}})
    book = v4.new_notebook(cells=[v4.new_markdown_cell("# A page"), cell])
    nbformat.write(book, tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(
        "extensions = ['myst_nb', 'mdrbook.page']\nnb_execution_mode = 'force'\nnb_execution_timeout = 300\n"
        "nb_execution_raise_on_error = True\nhtml_theme = 'basic'\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", tmp_path, tmp_path / "html"]
    subprocess.run(command, check=True)
    with check_book.served(tmp_path / "html") as address:
        for width, factor, name in ((1280, 1, ".png"), (390, 2, "-narrow.png")):
            page = visit(
                f"{address}/index.html", viewport={"width": width, "height": 800}, device_scale_factor=factor
            )
            image = page.locator("picture > img")
            assert image.evaluate("image => image.currentSrc").endswith(name)
            assert image.get_attribute("alt") == "two bars"
            if width == 390:  # 192 dots an inch are 96 pixels of the page
                assert image.evaluate("image => image.naturalWidth") == int(96 * narrow.NARROW)
    for path in (tmp_path / "html/_images").glob("*.png"):
        assert narrow.taken_apart(path.read_bytes())[1] is None
    assert len(list((tmp_path / "html/_images").glob("*.png"))) == 2
