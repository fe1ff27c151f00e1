"""The figures: their contents, the contrast of their colours, and the errors for wrong shapes."""

import html.parser
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from mdrlib import mdr_loss, palette, plots

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (-3.0, 0.0, 3.0)


# Colours


def luminance(color):
    c = np.asarray(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    """WCAG 2 contrast ratio."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def turned(color):
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
    c = np.asarray(to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.array([np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089]])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


PALETTE = {
    "pairs": [palette.POSITIVE, palette.NEGATIVE],
    "methods": [style[1] for style in palette.METHODS.values()],
    "groups": list(palette.GROUPS),
    **{f"{count} levels": palette.level_colors(count) for count in range(1, 10)},
}


@pytest.mark.parametrize("colors", PALETTE.values(), ids=PALETTE)
def test_colors_stand_out_from_every_background(colors):
    for color in colors:
        assert contrast(color, palette.LIGHT) >= 3, to_hex(color)
        assert contrast(color, palette.DARK) >= 3, to_hex(color)
        assert contrast(turned(color), palette.DARK) >= 3, to_hex(color)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colors", [PALETTE[k] for k in ("pairs", "methods", "3 levels")], ids=str)
def test_colors_that_meet_differ_for_every_eye(colors, blindness):
    for view in (to_rgb, turned):
        for i, a in enumerate(colors):
            for b in colors[:i]:
                gap = np.linalg.norm(seen(view(a), blindness) - seen(view(b), blindness))
                assert gap > 20, (to_hex(a), to_hex(b))


def test_the_filter_is_the_books():
    css = (ROOT / "book/_static/custom.css").read_text()
    assert "filter: invert(0.93) hue-rotate(180deg)" in css
    assert to_hex(turned(palette.LIGHT)) == palette.DARK


@pytest.mark.parametrize("dark", [False, True])
def test_theme_sets_and_restores(dark):
    before = dict(plt.rcParams)
    with plots.theme(dark):
        assert plt.rcParams["figure.facecolor"] == (palette.DARK if dark else palette.LIGHT)
        for key in ("text.color", "xtick.color"):
            assert contrast(plt.rcParams[key], plt.rcParams["figure.facecolor"]) >= 7
    assert dict(plt.rcParams) == before


def test_method_styles():
    styles = plots.method_styles(["triplet", "triplet+mdr", "glyphs-triplet-mdr", "proxy", "margin"])
    assert [style["label"] for style in styles.values()][:3] == [
        "Triplet",
        "Triplet+MDR",
        "glyphs-triplet-mdr",
    ]
    colors = [style["color"] for style in styles.values()]
    assert colors[1] == colors[2] and len(set(colors)) == 4
    assert styles["triplet+mdr"]["linestyle"] != styles["glyphs-triplet-mdr"]["linestyle"]
    assert styles["triplet+mdr"]["hatch"] != styles["glyphs-triplet-mdr"]["hatch"]


# Distances


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    same = rng.random(2000) < 0.2
    return torch.from_numpy(np.where(same, -1.5, 0.4) + rng.normal(0, 0.9, 2000)), torch.from_numpy(same)


def test_nearest_level():
    assert plots.nearest_level([-9.0, -1.6, -1.4, 0.0, 1.4, 1.6, 9.0], LEVELS).tolist() == [
        0,
        0,
        1,
        1,
        1,
        2,
        2,
    ]
    assert plots.nearest_level([0.4, 0.6], (1.0, 0.0)).tolist() == [0, 1]  # sorted from near to far


def areas(patch):
    data = patch.get_data()
    return data.values * np.diff(data.edges)


@pytest.mark.parametrize("levels", [LEVELS, (3.0, -3.0, 0.0), (0.2,), (-2.0, -1.0, -0.9, 1.0, 2.5)])
def test_distance_histogram_counts_every_pair_once_in_its_levels_color(pairs, levels):
    z, same = pairs
    fig = plots.distance_histogram(z, same, levels)
    assert isinstance(fig, Figure)
    ax = fig.axes[0]
    patches = [p for p in ax.patches if isinstance(p, StepPatch)]
    ordered, colors = np.sort(levels), [to_hex(c) for c in plots.level_colors(len(levels))]
    assert [to_hex(p.get_facecolor()) for p in patches] == colors * 2
    for kind, part, sign in ((same, patches[: len(levels)], 1), (~same, patches[len(levels) :], -1)):
        width = np.diff(part[0].get_data().edges).max()
        total = sum(areas(p).sum() for p in part)
        assert total == pytest.approx(sign * 100 * width, rel=1e-6)
        for k, patch in enumerate(part):
            centres = (patch.get_data().edges[1:] + patch.get_data().edges[:-1]) / 2
            assert set(plots.nearest_level(centres, ordered)) == {k}
            share = (plots.nearest_level(z[kind], ordered) == k).mean()
            assert areas(patch).sum() / total == pytest.approx(share, abs=0.04)  # a border may split a bin
    texts = [text.get_text() for text in ax.texts]
    assert f"{int(same.sum())} pairs of one class" in texts
    for k, level in enumerate(ordered):
        share = 100 * (plots.nearest_level(z, ordered) == k).mean()
        assert f"{palette.signed(level)}\n{share:.0f} %" in texts
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == list(ordered)


def test_distance_histogram_draws_into_given_axes_and_bears_one_kind_of_pairs(pairs):
    _, ax = plt.subplots()
    plt.close()
    assert plots.distance_histogram(pairs[0], np.ones(2000, bool), LEVELS, bins=20, ax=ax) is ax.figure
    assert "0 pairs of two classes" in [text.get_text() for text in ax.texts]
    plots.distance_histogram([0.5, 0.5], [True, False], (0.5,))  # no spread at all


@pytest.mark.parametrize(
    "z, same, levels, words",
    [
        ([[0.0]], [True], LEVELS, "z must have 1 dimension"),
        ([0.0, 1.0], [True], LEVELS, "same length"),
        ([], np.zeros(0, bool), LEVELS, "same length"),
        ([0.0], [1], LEVELS, "same_class must be bool"),
        ([0.0], [True], (), "levels must be one or more"),
        ([0.0], [True], (np.nan,), "levels must be finite"),
        ([np.inf], [True], LEVELS, "z must be finite"),
        (["a"], [True], LEVELS, "z must be float"),
    ],
)
def test_distance_histogram_refuses(z, same, levels, words):
    with pytest.raises(ValueError, match=words):
        plots.distance_histogram(z, same, levels)


def counts(evaluations=5, bins=30):
    rng = np.random.default_rng(1)
    return rng.integers(0, 50, (evaluations, bins))


@pytest.mark.parametrize("evaluations, ridges", [(1, 1), (5, 5), (40, 12)])
def test_distance_strip(evaluations, ridges):
    edges, iterations = np.linspace(-4, 4, 31), 10 * np.arange(evaluations)
    moving = np.linspace((-3, 0, 3), (-2, 0, 2), evaluations)
    fig = plots.distance_strip(edges, iterations, counts(evaluations), counts(evaluations), moving)
    for ax, color in zip(fig.axes, (plots.POSITIVE, plots.NEGATIVE), strict=True):
        filled = [p for p in ax.patches if p.get_fill()]
        assert len(filled) == ridges and {to_hex(p.get_facecolor()) for p in filled} == {color.lower()}
        marks = ax.collections
        assert len(marks) == ridges
        assert marks[-1].get_offsets()[:, 0].tolist() == pytest.approx(moving[-1].tolist())
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("0", str(10 * (evaluations - 1)))
    assert len(labels) == ridges


def test_distance_strip_without_levels_or_pairs():
    edges, none = np.linspace(-4, 4, 31), np.zeros((2, 30))
    assert plots.distance_strip(edges, [0, 10], none, none).axes[0].get_xlim() == (-4, 4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"positive": counts(4)}, r"\(5, 30\), got \(4, 30\)"),
        ({"negative": counts(5, 29)}, r"\(5, 30\), got \(5, 29\)"),
        ({"positive": counts()[0]}, "positive must have 2 dimension"),
        ({"levels": np.zeros((4, 3))}, "levels must have shape"),
        ({"levels": np.zeros((5, 3, 1))}, "levels must have 2 dimension"),
        ({"edges": [0.0]}, "B"),
    ],
)
def test_distance_strip_refuses(change, words):
    good = {"edges": np.arange(31), "iterations": range(5), "positive": counts(), "negative": counts()}
    with pytest.raises(ValueError, match=words):
        plots.distance_strip(**good | change)


# Training


def history(mdr=True, rows=6):
    """As the trainer writes it: the first row has no loss, no statistics, no occupancy."""
    made = []
    for t in range(rows):
        row = {"iteration": 10 * t, "loss": 1 / t if t else None, "recall@1": 0.5 + 0.05 * t}
        if mdr:
            row["regularizer"] = 0.7 / t if t else None
            row |= {f"level_{k}": level * (1 - 0.05 * t) for k, level in enumerate(LEVELS)}
            row |= {f"occupancy_{k}": share for k, share in enumerate((0.1, 0.7, 0.2))} if t else {}
        made.append(row)
    return made


def test_loss_curves():
    fig = plots.loss_curves({"triplet": history(mdr=False), "triplet+mdr": history()})
    assert [ax.get_title(loc=plt.rcParams["axes.titlelocation"]) for ax in fig.axes] == [
        "metric-learning loss",
        "mean |z \N{MINUS SIGN} nearest level|",
    ]
    loss, regularizer = fig.axes
    assert [to_hex(line.get_color()) for line in loss.lines] == ["#808080", "#cc0044"]
    assert [len(ax.lines) for ax in fig.axes] == [2, 1]
    assert loss.lines[0].get_xdata().tolist() == [10, 20, 30, 40, 50]
    assert regularizer.lines[0].get_ydata().tolist() == pytest.approx([0.7 / t for t in range(1, 6)])
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["Triplet", "Triplet+MDR"]
    assert len(plots.loss_curves({"triplet": history(mdr=False)}).axes) == 1


def test_recall_curves_leave_out_what_is_missing():
    rows = history()
    rows[2]["recall@1"] = float("nan")
    del rows[3]["recall@1"]
    (line,) = plots.recall_curves({"triplet+mdr": rows}).axes[0].lines
    assert line.get_xdata().tolist() == [0, 10, 40, 50]
    assert line.get_ydata().tolist() == pytest.approx([50, 55, 70, 75])


def test_curves_refuse():
    with pytest.raises(ValueError, match="histories is empty"):
        plots.loss_curves({})
    with pytest.raises(ValueError, match="no history has a value of 'map@r'"):
        plots.recall_curves({"triplet": history()}, "map@r")


def test_level_trajectories():
    ax = plots.level_trajectories(history()).axes[0]
    assert [to_hex(line.get_color()) for line in ax.lines] == [to_hex(c) for c in plots.level_colors(3)]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([-3 * (1 - 0.05 * t) for t in range(6)])
    assert [text.get_text() for text in ax.texts] == ["\N{MINUS SIGN}2.25", "0.00", "2.25"]


def test_level_occupancy():
    ax = plots.level_occupancy(history()).axes[0]
    assert len(ax.collections) == 3
    assert [text.get_text() for text in ax.texts] == ["level 0\n10 %", "level 1\n70 %", "level 2\n20 %"]
    top = ax.collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(100) and ax.get_xlim() == (10, 50)


def test_levels_refuse_a_history_without_them():
    for plot in (plots.level_trajectories, plots.level_occupancy):
        for rows in (history(mdr=False), history(rows=0)):
            with pytest.raises(ValueError, match="only runs with MDR have levels"):
                plot(rows)


def test_metric_bars():
    metrics = {"triplet": {"recall@1": 0.8, "map@r": 0.41}, "triplet+mdr": {"recall@1": 0.83, "map@r": 0.5}}
    fig = plots.metric_bars(metrics, ["recall@1", "map@r"])
    ax = fig.axes[0]
    bars = [bar.get_height() for container in ax.containers for bar in container]
    assert bars == pytest.approx([80, 41, 83, 50]) and ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.texts] == ["80.0", "41.0", "83.0", "50.0"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Recall@1", "MAP@R"]
    with pytest.raises(ValueError, match="missing .'recall@9 of triplet'"):
        plots.metric_bars({"triplet": metrics["triplet"]}, ["recall@9"])
    with pytest.raises(ValueError):
        plots.metric_bars({}, ["recall@1"])


# Embeddings and images


def drawings(count, height=8, width=8, channels=1):
    """Light strokes on dark, as the small sets store them."""
    images = torch.zeros(count, channels, height, width, dtype=torch.uint8)
    images[:, :, 2] = 255
    return images


def test_embedding_map():
    xy = np.random.default_rng(0).normal(size=(60, 2))
    groups = torch.arange(60) % 12
    fig = plots.embedding_map(xy, groups, [f"alphabet {k}" for k in range(12)], title="map")
    ax = fig.axes[0]
    assert sum(len(part.get_offsets()) for part in ax.collections) == 60
    looks = {
        (to_hex(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes()) for part in ax.collections
    }
    assert len(looks) == len(ax.collections) == 12
    assert [text.get_text() for text in fig.legends[0].get_texts()][:2] == ["alphabet 0", "alphabet 1"]
    many = plots.embedding_map(xy, np.arange(60), images=drawings(60), thumbnails=7)
    assert not many.legends and len(many.axes[0].artists) == 7


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.zeros((5, 3)), np.zeros(5, int)), r"xy must have shape \(N, 2\)"),
        ((np.zeros((5, 2)), np.zeros(4, int)), r"groups \(N,\)"),
        ((np.zeros((5, 2)), np.zeros(5)), "groups must be int"),
        ((np.zeros((5, 2)), np.full(5, 2), ["a", "b"]), "got 2 names"),
        ((np.zeros((5, 2)), np.zeros(5, int), None, drawings(4)), "images must have shape"),
        ((np.zeros((0, 2)), np.zeros(0, int)), "N >= 1"),
    ],
)
def test_embedding_map_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        plots.embedding_map(*arguments)


def test_retrieval_gallery_frames_right_and_wrong():
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    neighbours = np.array([[1, 2, 3], [0, 2, 5], [3, 4, 0], [2, 4, 1], [2, 3, 5], [0, 1, 2]])
    ax = plots.retrieval_gallery(drawings(6, 8, 6), labels, [0, 2], neighbours, k=3).axes[0]
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    looks = [(to_hex(f.get_edgecolor()), f.get_linestyle() == "solid") for f in frames]
    right, wrong = (plots.POSITIVE.lower(), True), (plots.NEGATIVE.lower(), False)
    assert looks[1:4] == [right, wrong, wrong] and looks[5:8] == [right, right, wrong]
    signs = [text.get_text() for text in ax.texts]
    assert signs.count("\N{CHECK MARK}") == 3 and signs.count("\N{BALLOT X}") == 3
    assert len(ax.images) == 8
    assert signs[-4:] == ["query", "1", "2", "3"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": torch.zeros(5, dtype=torch.long)}, r"labels must be \(6,\)"),
        ({"neighbours": np.zeros((5, 3), int)}, r"neighbours \(6, K\)"),
        ({"k": 4}, "K >= k = 4"),
        ({"k": 0}, "K >= k = 0"),
        ({"queries": []}, "queries not empty"),
        ({"queries": [6]}, "indices from 0 to 5"),
        ({"queries": [-1]}, "indices from 0 to 5"),
        ({"neighbours": np.full((6, 3), 6)}, "indices from 0 to 5"),
        ({"images": drawings(6)[:, 0]}, "images must have shape"),
        ({"images": drawings(6).float()}, "float in 0..1"),
    ],
)
def test_retrieval_gallery_refuses(change, words):
    good = {"images": drawings(6), "labels": torch.zeros(6, dtype=torch.long), "queries": [0], "k": 3}
    good |= {"neighbours": np.zeros((6, 3), int)}
    with pytest.raises(ValueError, match=words):
        plots.retrieval_gallery(**good | change)


def test_photograph_gallery_opens_what_it_shows(tmp_path):
    """Query and gallery are two splits, numbered alike; each picture is of the colour of its file."""
    from PIL import Image

    from mdrlib.datasets import ImageFiles

    def split(name, colors, labels):
        files = [f"{name}{k}.png" for k in range(len(colors))]
        for file, color in zip(files, colors, strict=True):
            Image.new("RGB", (12, 9), color).save(tmp_path / file)
        return ImageFiles("inshop", name, tmp_path, files, torch.tensor(labels), ["a", "b"])

    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    queries, gallery = split("query", [red, green, blue], [0, 1, 1]), split("gallery", [blue, green], [1, 0])
    fig = plots.photograph_gallery(queries, gallery, [2], [[0, 0], [0, 0], [1, 0]], k=2, size=8)
    shown = [np.asarray(image.get_array()) for image in fig.axes[0].images]
    assert [image.shape for image in shown] == [(8, 8, 3)] * 3
    assert [int(image[0, 0].argmax()) for image in shown] == [2, 1, 2]  # the query, then its nearest
    assert [text.get_text() for text in fig.axes[0].texts][:2] == ["\N{BALLOT X}", "\N{CHECK MARK}"]


def test_image_grid_shows_dark_strokes_on_light_paper():
    for images in (drawings(6), drawings(6) / 255, 255 - drawings(6)):
        ax = plots.image_grid(images, rows=2, titles=["first row", "second row"]).axes[0]
        assert len(ax.images) == 6
        shown = np.asarray(ax.images[0].get_array())
        assert shown[2].max() == 0 and shown[3:].min() == 1
        assert [text.get_text() for text in ax.texts] == ["first row", "second row"]
    photo = torch.rand(3, 3, 8, 8)
    shown = plots.image_grid(photo, 1, list("abc")).axes[0].images[0].get_array()
    assert np.allclose(shown, photo[0].permute(1, 2, 0))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((drawings(6), 0), "rows must be 1 to"),
        ((drawings(6), 7), "rows must be 1 to"),
        ((drawings(6), 2, ["a"]), "titles must be 6"),
        ((drawings(6, channels=2), 2), "C 1 or 3"),
    ],
)
def test_image_grid_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        plots.image_grid(*arguments)


@pytest.mark.timeout(600)
def test_umap_coordinates_depend_on_the_seed_alone():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    first, again, other = (plots.umap_coordinates(x, seed, n_epochs=20) for seed in (0, 0, 1))
    assert first.shape == (40, 2) and first.dtype == np.float32
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_umap_coordinates_refuse(monkeypatch):
    with pytest.raises(ValueError, match="5 or more"):
        plots.umap_coordinates(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 dimension"):
        plots.umap_coordinates(torch.zeros(10))
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install mdrlib\[plots\]"):
        plots.umap_coordinates(torch.zeros(10, 2))


# All of them


def test_pyplot_keeps_no_figure(pairs):
    plots.distance_histogram(*pairs, LEVELS)
    plots.loss_curves({"triplet": history()})
    assert plt.get_fignums() == []


def test_matplotlib_is_loaded_when_drawing_and_not_before(monkeypatch):
    unwanted = {"matplotlib", "umap", "ipywidgets", "IPython"}
    code = f"import sys, mdrlib.plots, mdrlib.explorers; assert not {unwanted} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install mdrlib\[plots\]"):
        plots.level_trajectories(history())


# The player


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


LABELS = ['a <b> & "c"', "second", "third"]


@pytest.fixture
def player():
    figures = []
    for k in range(3):
        fig, ax = palette.figure(2, 1)
        ax.plot([0, k])
        figures.append(fig)
    return plots.frames(figures, LABELS, "a line", caption="Some lines", start=1).data


def test_frames_stand_on_their_own(player):
    tags = Tags(player)
    images, (slider,) = tags.all("img"), tags.all("input")
    assert [image["alt"] for image in images] == [f"a line: {label}" for label in LABELS]
    assert [image["data-label"] for image in images] == LABELS
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert len({image["src"] for image in images}) == 3
    assert ["display:block" in image["style"] for image in images] == [False, True, False]
    assert slider["type"] == "range" and (slider["min"], slider["max"], slider["value"]) == ("0", "2", "1")
    assert "data-lm-suppress-shortcuts" in slider  # JupyterLab leaves it its arrow keys
    assert slider["aria-label"] == "Some lines" and slider["aria-valuetext"] == "second"
    assert tags.text == "secondSome lines"
    assert "http" not in player and not tags.all("script") and not tags.all("link")
    assert not any("id" in attributes for _, attributes in tags.found)  # nothing that could meet its like


def test_frames_refuse():
    fig, _ = palette.figure(1, 1)
    for figures, labels, alt in (([], [], []), ([fig], [], ["a"]), ([fig], ["a"], ["b", "c"])):
        with pytest.raises(ValueError, match="as many labels and alt texts"):
            plots.frames(figures, labels, alt)
    with pytest.raises(ValueError, match="start must be from 0 to 0"):
        plots.frames([fig], ["a"], ["b"], start=1)


def test_frames_follow_the_slider_in_a_browser(player):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(
            f"<html><body>{player}{player}</body></html>"
        )  # two of them do not disturb each other
        first, second = page.locator(".mdr-player").all()
        first.locator("input").focus()
        page.keyboard.press("ArrowLeft")
        assert first.locator("img:visible").get_attribute("data-label") == LABELS[0]
        assert first.locator(".mdr-player-label").inner_text() == LABELS[0]
        assert first.locator("input").get_attribute("aria-valuetext") == LABELS[0]
        assert second.locator("img:visible").get_attribute("data-label") == LABELS[1]
        browser.close()


# The picture of the welcome page


def test_the_picture_is_computed():
    path = ROOT / "book/images/make_mdr_picture.py"
    spec = importlib.util.spec_from_file_location("make_mdr_picture", path)
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    points = picture.random_points()
    after = picture.regularize(points)

    def loss(x):
        d = torch.pdist(x)
        return mdr_loss(x, picture.LEVELS, d.mean(), d.std())

    assert loss(after) < loss(points) / 2
    assert len(picture.draw(points, after).axes) == 3
    assert path.with_name("mdr.png").exists() and path.with_name("mdr-dark.png").exists()
