"""The figures of means over seeds: what is drawn where, in whose colour, and what is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mdrlib import palette, plots
from mdrlib.statistics import interval, paired

A = {0: 0.80, 1: 0.81, 2: 0.82, 3: 0.79, 4: 0.80}
B = {0: 0.83, 1: 0.84, 2: 0.83, 3: 0.82, 4: 0.84}
C = {0: 0.81, 1: 0.80, 2: 0.82, 3: 0.80, 4: 0.79}
MEANS = {
    name: interval(list(x.values())) for name, x in (("triplet", A), ("triplet+mdr", B), ("triplet+l2", C))
}
COLORS = {name: style[1].lower() for name, style in palette.METHODS.items()}


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
    differences = {"triplet+mdr": paired(B, A), "triplet+l2": paired(C, A)}
    with plots.theme(dark):
        fig = plots.interval_rows(MEANS, differences, baseline="Triplet")
        fig.canvas.draw()
    assert not caplog.records
    means, beside = fig.axes
    rows = lines_and_marks(means)
    for row, (name, (mean, low, high)) in enumerate(MEANS.items()):
        assert rows[row]["mean"] == pytest.approx(100 * mean)
        assert rows[row]["ends"] == pytest.approx((100 * low, 100 * high))
        assert rows[row]["color"] == rows[row]["face"] == COLORS[name]
    assert [text.get_text() for text in means.get_yticklabels()] == [
        "Triplet",
        "Triplet+MDR",
        "Triplet+L2Norm",
    ]
    assert means.get_ylim()[0] > means.get_ylim()[1], "the first on top"
    assert means.get_xlabel() == "Recall@1" and beside.get_xlabel() == "points more than Triplet"

    rows = lines_and_marks(beside)
    assert set(rows) == {1, 2}
    assert rows[1]["mean"] == pytest.approx(2.8) and rows[1]["face"] == COLORS["triplet+mdr"]
    assert rows[2]["ends"][0] < 0 < rows[2]["ends"][1]
    assert rows[2]["face"] == to_hex(palette.DARK if dark else palette.LIGHT), "no winner: an open mark"
    assert any(list(line.get_xdata()) == [0, 0] for line in beside.lines), "a line at 0"
    assert {"0", "+2"} <= {text.get_text() for text in beside.get_xticklabels()}


def test_interval_rows_without_differences_is_one_panel():
    fig = plots.interval_rows({"dim=8": (0.5, 0.4, 0.6), "dim=16": (0.6, 0.6, 0.6)}, metric="map@r")
    (ax,) = fig.axes
    assert ax.get_xlabel() == "MAP@R"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["dim=8", "dim=16"]
    assert lines_and_marks(ax)[1]["ends"] == (60, 60)


@pytest.mark.parametrize(
    "means, differences, words",
    [
        ({}, None, "means is empty"),
        ({"a": (0.5, 0.4, 0.6)}, {"b": (0.1, 0, 0.2)}, r"groups \['b'\] that means has not; it has \['a'\]"),
        ({"a": (0.5, 0.6, 0.7)}, None, "a must be .* low <= mean <= high, got .0.5, 0.6, 0.7."),
        ({"a": (0.5, 0.4, float("nan"))}, None, "a must be finite"),
        ({"a": (0.5, 0.4, 0.6)}, {"a": (0.1, 0.2, 0.3)}, "a must be"),
        ({"a": (0.5, 0.4)}, None, r"a must be \(mean, low, high\)"),
        ({"a": 0.5}, None, "a must have 1 dimension"),
    ],
)
def test_interval_rows_refuses(means, differences, words):
    with pytest.raises(ValueError, match=words):
        plots.interval_rows(means, differences)


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
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "0.1", "0.2", "0.4"]
    assert [to_hex(part.get_color()) for part in (flat, line)] == [COLORS["triplet"], COLORS["triplet+mdr"]]
    band = ax.collections[1].get_paths()[0].vertices
    at = {x: sorted(set(np.round(band[np.isclose(band[:, 0], x), 1], 6))) for x in (1, 2, 3)}
    assert {x: (ends[0], ends[-1]) for x, ends in at.items()} == {1: (80, 83), 2: (82, 84), 3: (81, 83)}
    assert to_hex(ax.collections[1].get_facecolor()[0]) == COLORS["triplet+mdr"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight of MDR", "Recall@1")
    assert [text.get_text() for text in beside.get_xticklabels()] == ["wide", "narrow"], "as they come"
    assert to_hex(beside.lines[0].get_color()) == COLORS["triplet+mdr"]
    assert below.get_xlabel() == "learned" and not empty.get_visible()
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["Triplet", "Triplet+MDR", "Triplet+L2Norm"]


@pytest.mark.parametrize(
    "panels, words",
    [
        ({}, "panels must map to methods"),
        ({"x": {}}, r"got none of \['x'\]"),
        ({"x": {"a": {}}}, r"got none of \['x'\]"),
        ({"x": {"a": {0.1: (0.5, 0.6, 0.7)}}}, "a at 0.1 must be"),
    ],
)
def test_metric_over_refuses(panels, words):
    with pytest.raises(ValueError, match=words):
        plots.metric_over(panels)
