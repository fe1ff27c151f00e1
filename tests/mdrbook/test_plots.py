"""Charts show the numbers they are given, in the colours of levels, kinds of pairs and methods."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch
from matplotlib.quiver import Quiver

from mdrbook import plots, style

LEVELS = (-3.0, 0.0, 3.0)
COLORS = {name: method[1].lower() for name, method in style.METHODS.items()}


def texts(found):
    return [text.get_text() for text in found]


# Distances and levels


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    same = rng.random(2000) < 0.2
    return torch.from_numpy(np.where(same, -1.5, 0.4) + rng.normal(0, 0.9, 2000)), torch.from_numpy(same)


def test_nearest_level():
    z = [-9.0, -1.6, -1.4, 0.0, 1.4, 1.6, 9.0]
    assert plots.nearest_level(z, LEVELS).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert plots.nearest_level([0.4, 0.6], (1.0, 0.0)).tolist() == [0, 1]  # sorted from near to far


def areas(patch):
    data = patch.get_data()
    return data.values * np.diff(data.edges)


@pytest.mark.parametrize("levels", [LEVELS, (3.0, -3.0, 0.0), (0.2,), (-2.0, -1.0, -0.9, 1.0, 2.5)])
def test_distance_histogram_counts_every_pair_once_in_its_levels_color(pairs, levels):
    z, same = pairs
    ax = plots.distance_histogram(z, same, levels).axes[0]
    patches = [p for p in ax.patches if isinstance(p, StepPatch)]
    ordered, colors = np.sort(levels), [to_hex(c) for c in style.level_colors(len(levels))]
    assert [to_hex(p.get_facecolor()) for p in patches] == colors * 2
    for kind, part, sign in ((same, patches[: len(levels)], 1), (~same, patches[len(levels) :], -1)):
        width = np.diff(part[0].get_data().edges).max()
        total = sum(areas(p).sum() for p in part)
        assert total == pytest.approx(sign * 100 * width, rel=1e-6)
        for k, patch in enumerate(part):
            share = (plots.nearest_level(z[kind], ordered) == k).mean()
            assert areas(patch).sum() / total == pytest.approx(share, abs=0.04)  # a border may split a bin
    assert f"{int(same.sum())} pairs of one class" in texts(ax.texts)
    for k, level in enumerate(ordered):
        share = 100 * (plots.nearest_level(z, ordered) == k).mean()
        assert f"{style.signed(level)}\n{share:.0f} %" in texts(ax.texts)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == list(ordered)


def test_distance_histogram_draws_into_given_axes_and_one_kind_of_pairs(pairs):
    _, ax = style.figure(4, 3)
    assert plots.distance_histogram(pairs[0], np.ones(2000, bool), LEVELS, bins=20, ax=ax) is ax.figure
    assert "0 pairs of two classes" in texts(ax.texts)
    plots.distance_histogram([0.5, 0.5], [True, False], (0.5,))  # no spread at all


@pytest.mark.parametrize("evaluations, ridges", [(1, 1), (5, 5), (40, 12)])
def test_distance_strip(evaluations, ridges):
    counts = np.random.default_rng(1).integers(0, 50, (evaluations, 30))
    edges, iterations = np.linspace(-4, 4, 31), 10 * np.arange(evaluations)
    moving = np.linspace((-3, 0, 3), (-2, 0, 2), evaluations)
    fig = plots.distance_strip(edges, iterations, counts, counts, moving)
    for ax, color in zip(fig.axes, (style.POSITIVE, style.NEGATIVE), strict=True):
        filled = [p for p in ax.patches if p.get_fill()]
        assert len(filled) == ridges and {to_hex(p.get_facecolor()) for p in filled} == {color.lower()}
        marks = ax.collections
        assert len(marks) == ridges
        assert marks[-1].get_offsets()[:, 0].tolist() == pytest.approx(moving[-1].tolist())
    labels = texts(fig.axes[0].get_yticklabels())
    assert (labels[0], labels[-1], len(labels)) == ("0", str(10 * (evaluations - 1)), ridges)


def test_distance_strip_without_levels_or_pairs():
    edges, none = np.linspace(-4, 4, 31), np.zeros((2, 30))
    assert plots.distance_strip(edges, [0, 10], none, none).axes[0].get_xlim() == (-4, 4)


def test_distances_to_levels_joins_each_to_the_nearest():
    z, levels = [0.9, -2.0, 0.2, 3.0], (2.0, -1.0, 0.0)
    (ax,) = plots.distances_to_levels(z, levels).axes
    segments = [segment for lines in ax.collections for segment in lines.get_segments()]
    joined = sorted((start[0], end[0]) for start, end in segments)
    assert joined == [(-2.0, -1.0), (0.2, 0.0), (0.9, 0.0), (3.0, 2.0)]


def test_outlined_histograms_are_shares_of_each_sample():
    bins = np.array([0.0, 1.0, 2.0])
    (ax,) = plots.outlined_histograms({"a": [0.5, 1.5, 1.5, 1.5], "b": [0.5]}, bins).axes
    outlines = [part.get_data().values.tolist() for part in ax.patches if isinstance(part, StepPatch)]
    assert outlines == [[25.0, 75.0], [100.0, 0.0]]
    assert texts(ax.get_legend().get_texts()) == ["a", "b"]


def test_level_shares():
    nearest, kinds = [0, 0, 1, 2], {"some": [True, True, True, False], "rest": [False, False, False, True]}
    (ax,) = plots.level_shares(nearest, kinds, 3).axes
    widths = [round(bar.get_width(), 3) for bar in ax.patches]
    assert widths == [66.667, 33.333, 0.0, 0.0, 0.0, 100.0]
    assert [bar.get_x() for bar in ax.patches[3:]] == [0, 0, 0]
    assert texts(ax.texts) == ["67 %", "33 %", "100 %"]


# Points and pairs


def test_point_map_numbers_points_or_draws_forces(caplog):
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    fig = plots.point_map(points, [0, 0, 5])
    fig.canvas.draw()
    assert not caplog.records  # matplotlib's complaints would be on the page
    (ax,) = fig.axes
    assert ax.get_xlim()[0] <= -0.4 and ax.get_xlim()[1] >= 2.4 and ax.get_ylim()[1] >= 1.4
    assert texts(ax.texts) == ["0", "1", "2"]
    assert sorted(len(points.get_offsets()) for points in ax.collections) == [1, 2]

    forces, color = [[0, 0], [0, -3], [1, 0]], style.LOSSES["mdr"]
    (ax,) = plots.point_map(points, [0, 0, 5], forces=forces, color=color).axes
    assert not ax.texts
    (arrows,) = [part for part in ax.collections if isinstance(part, Quiver)]
    assert to_hex(arrows.get_facecolor()[0]) == color.lower()
    np.testing.assert_allclose([arrows.U, arrows.V], 0.2 * 2 / 3 * np.array([[0, 0, 1], [0, -3, 0]]))


def test_pair_matrix_shows_every_number_but_the_diagonals():
    values = np.arange(9.0).reshape(3, 3) - 4
    (ax,) = plots.pair_matrix(values, "d").axes
    shown = {
        text.get_position()[::-1]: float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts
    }
    assert shown == {(i, j): values[i, j] for i in range(3) for j in range(3) if i != j}
    assert np.isnan(np.diag(ax.images[0].get_array().filled(np.nan))).all()


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
    titles = [ax.get_title(loc=plt.rcParams["axes.titlelocation"]) for ax in fig.axes]
    assert titles == ["metric-learning loss", "mean |z \N{MINUS SIGN} nearest level|"]
    loss, regularizer = fig.axes
    assert [to_hex(line.get_color()) for line in loss.lines] == [COLORS["triplet"], COLORS["triplet+mdr"]]
    assert [len(ax.lines) for ax in fig.axes] == [2, 1]
    assert loss.lines[0].get_xdata().tolist() == [10, 20, 30, 40, 50]
    assert regularizer.lines[0].get_ydata().tolist() == pytest.approx([0.7 / t for t in range(1, 6)])
    assert [texts(ax.texts) for ax in fig.axes] == [["Triplet", "Triplet+MDR"], ["Triplet+MDR"]]
    assert not fig.legends
    assert len(plots.loss_curves({"triplet": history(mdr=False)}).axes) == 1


def test_recall_curves_leave_out_what_is_missing():
    rows = history()
    rows[2]["recall@1"] = float("nan")
    del rows[3]["recall@1"]
    (line,) = plots.recall_curves({"triplet+mdr": rows}).axes[0].lines
    assert line.get_xdata().tolist() == [0, 10, 40, 50]
    assert line.get_ydata().tolist() == pytest.approx([50, 55, 70, 75])
    with pytest.raises(ValueError, match="No history has a value of 'map@r'"):
        plots.recall_curves({"triplet": history()}, "map@r")


def test_level_trajectories():
    ax = plots.level_trajectories(history()).axes[0]
    assert [to_hex(line.get_color()) for line in ax.lines] == [to_hex(c) for c in style.level_colors(3)]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([-3 * (1 - 0.05 * t) for t in range(6)])
    assert texts(ax.texts) == ["\N{MINUS SIGN}2.25", "0.00", "2.25"]


def test_level_occupancy():
    ax = plots.level_occupancy(history()).axes[0]
    assert len(ax.collections) == 3
    assert texts(ax.texts) == ["near\n10 %", "middle\n70 %", "far\n20 %"]
    top = ax.collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(100) and ax.get_xlim() == (10, 50)


def test_levels_need_a_run_with_mdr():
    for plot in (plots.level_trajectories, plots.level_occupancy):
        with pytest.raises(ValueError, match="draw a run with MDR"):
            plot(history(mdr=False))


# Results


def test_labels_at_the_ends_of_lines_do_not_cover_each_other():
    fig, ax = style.figure(6, 3)
    for k, end in enumerate((0.5, 0.51, 0.9, 0.52)):
        ax.plot([0, 1], [k, end], color=style.GROUPS[k], label=f"line {k}")
    ax.plot([0, 1], [0, 0])  # without a label
    plots.label_ends(ax)
    fig.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert texts(ax.texts) == [f"line {k}" for k in range(4)]
    assert all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:], strict=False))
    assert [to_hex(text.get_color()) for text in ax.texts] == [color.lower() for color in style.GROUPS[:4]]
    assert min(box.x0 for box in boxes) > ax.transData.transform((1, 0))[0]
    order = sorted(range(4), key=lambda k: ax.texts[k].get_window_extent().y0)
    assert order == [0, 1, 3, 2], "in the order of the lines' ends"


def test_binned_medians():
    x = np.arange(60.0)[::-1].copy()
    _, ax = style.figure(4, 3)
    plots.binned_medians(ax, torch.from_numpy(x), x**2, bins=3, color=style.POSITIVE, label="squares")
    (line,) = ax.lines
    assert line.get_xdata() == pytest.approx([9.5, 29.5, 49.5])
    assert line.get_ydata() == pytest.approx([np.median(np.arange(k, k + 20) ** 2) for k in (0, 20, 40)])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    quartiles = np.percentile(np.arange(20) ** 2, 25), np.percentile(np.arange(40, 60) ** 2, 75)
    assert (band.min(), band.max()) == pytest.approx(quartiles)


def test_metric_bars():
    metrics = {"triplet": {"recall@1": 0.8, "map@r": 0.41}, "triplet+mdr": {"recall@1": 0.83, "map@r": 0.5}}
    ends = {name: {key: (v - 0.02, v + 0.03) for key, v in row.items()} for name, row in metrics.items()}
    fig = plots.metric_bars(metrics, ["recall@1", "map@r"], ends)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == ["Recall@1", "MAP@R"]
    for ax, key in zip(fig.axes, ("recall@1", "map@r"), strict=True):
        dots = [line.get_xdata()[0] for line in ax.lines]
        assert dots == pytest.approx([100 * row[key] for row in metrics.values()])
        assert [to_hex(line.get_color()) for line in ax.lines] == list(COLORS.values())[::2]
        spans = [part.get_segments()[0][:, 0].tolist() for part in ax.collections]
        assert spans == [pytest.approx([100 * v for v in ends[name][key]]) for name in metrics]
        assert texts(ax.texts) == [f"{value:.1f}" for value in dots]
    assert texts(fig.axes[0].get_yticklabels()) == ["Triplet", "Triplet+MDR"]
    left, right = (np.diff(ax.get_xlim())[0] for ax in fig.axes)
    assert left == pytest.approx(right), "equally many points"
    (ax,) = plots.metric_bars({"pixels": {"recall@1": 0.997}}, ["recall@1"]).axes
    assert ax.get_xlim()[1] <= 101


MEANS = {
    "triplet": (0.804, 0.79, 0.818),
    "triplet+mdr": (0.832, 0.822, 0.842),
    "triplet+l2": (0.804, 0.79, 0.817),
}
DIFFERENCES = {"triplet+mdr": (0.028, 0.01, 0.046, 5), "triplet+l2": (0.0, -0.01, 0.01, 5)}


def lines_and_marks(ax):
    """Of each row of the panel its ends, its mark and colours."""
    drawn = [line for line in ax.lines if len(set(line.get_ydata())) == 1]  # without the line at 0
    found = {}
    for line in drawn:
        row = found.setdefault(line.get_ydata()[0], {"color": to_hex(line.get_color())})
        if len(line.get_xdata()) == 2:
            row["ends"] = tuple(line.get_xdata())
        else:
            row |= {"mean": line.get_xdata()[0], "face": to_hex(line.get_markerfacecolor())}
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_interval_rows_draws_means_and_differences(dark, caplog):
    with plt.rc_context():
        style.theme(dark)
        fig = plots.interval_rows(MEANS, DIFFERENCES, baseline="Triplet")
        fig.canvas.draw()
    assert not caplog.records
    means, beside = fig.axes
    rows = lines_and_marks(means)
    for row, (name, (mean, low, high)) in enumerate(MEANS.items()):
        assert rows[row]["mean"] == pytest.approx(100 * mean)
        assert rows[row]["ends"] == pytest.approx((100 * low, 100 * high))
        assert rows[row]["color"] == rows[row]["face"] == COLORS[name]
    assert texts(means.get_yticklabels()) == ["Triplet", "Triplet+MDR", "Triplet+L2Norm"]
    assert means.get_ylim()[0] > means.get_ylim()[1], "the first at the top"
    assert means.get_xlabel() == "Recall@1" and beside.get_xlabel() == "points more than Triplet"

    rows = lines_and_marks(beside)
    assert set(rows) == {1, 2}
    assert rows[1]["mean"] == pytest.approx(2.8) and rows[1]["face"] == COLORS["triplet+mdr"]
    assert rows[2]["ends"][0] < 0 < rows[2]["ends"][1]
    assert rows[2]["face"] == to_hex(style.DARK if dark else style.LIGHT), "undecided: an open mark"
    assert any(list(line.get_xdata()) == [0, 0] for line in beside.lines), "a line at 0"
    assert {"0", "+2"} <= set(texts(beside.get_xticklabels()))


def test_interval_rows_without_differences_is_one_panel():
    (ax,) = plots.interval_rows({"dim=8": (0.5, 0.4, 0.6), "dim=16": (0.6, 0.6, 0.6)}, metric="map@r").axes
    assert ax.get_xlabel() == "MAP@R" and texts(ax.get_yticklabels()) == ["dim=8", "dim=16"]
    assert lines_and_marks(ax)[1]["ends"] == (60, 60)


@pytest.mark.parametrize("triple", [(0.5, 0.6, 0.7), (0.5, 0.4, float("nan"))])
def test_an_interval_contains_its_mean(triple):
    with pytest.raises(ValueError, match="low <= mean <= high, got"):
        plots.interval_rows({"a": triple})
    with pytest.raises(ValueError, match="low <= mean <= high, got"):
        plots.metric_over({"x": {"a": {0.1: triple}}})


def test_metric_over_draws_a_panel_a_line_and_a_band_for_each(caplog):
    weights = {
        "triplet": {0.0: (0.80, 0.79, 0.81)},
        "triplet+mdr": {0.4: (0.82, 0.81, 0.83), 0.1: (0.81, 0.80, 0.83), 0.2: (0.83, 0.82, 0.84)},
    }
    starts = {"triplet+mdr": {"wide": (0.7, 0.7, 0.7), "narrow": (0.6, 0.5, 0.7)}}
    third = {"triplet+l2": {True: (0.5, 0.5, 0.5), False: (0.4, 0.4, 0.4)}}
    fig = plots.metric_over({"weight of MDR": weights, "start": starts, "learned": third})
    fig.canvas.draw()
    assert not caplog.records
    ax, beside, below, empty = fig.axes
    flat, line = ax.lines
    assert flat.get_xdata().tolist() == [0, 3] and flat.get_ydata() == pytest.approx([80, 80])
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata() == pytest.approx([81, 83, 82])
    assert texts(ax.get_xticklabels()) == ["0", "0.1", "0.2", "0.4"]
    assert [to_hex(part.get_color()) for part in (flat, line)] == [COLORS["triplet"], COLORS["triplet+mdr"]]
    band = ax.collections[1].get_paths()[0].vertices
    at = {x: sorted(set(np.round(band[np.isclose(band[:, 0], x), 1], 6))) for x in (1, 2, 3)}
    assert {x: (ends[0], ends[-1]) for x, ends in at.items()} == {1: (80, 83), 2: (82, 84), 3: (81, 83)}
    assert to_hex(ax.collections[1].get_facecolor()[0]) == COLORS["triplet+mdr"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight of MDR", "Recall@1")
    assert texts(beside.get_xticklabels()) == ["wide", "narrow"], "texts in the order given"
    assert to_hex(beside.lines[0].get_color()) == COLORS["triplet+mdr"]
    assert below.get_xlabel() == "learned" and not empty.get_visible()
    assert texts(fig.legends[0].get_texts()) == ["Triplet", "Triplet+MDR", "Triplet+L2Norm"]
