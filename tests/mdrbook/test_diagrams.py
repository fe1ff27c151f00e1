"""The small drawings of the chapters: what is drawn, and the errors for wrong shapes."""

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from matplotlib.quiver import Quiver

from mdrlib import plots

POINTS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])


def test_point_map_numbers_points_or_draws_forces(caplog):
    fig = plots.point_map(POINTS, [0, 0, 5])
    fig.canvas.draw()
    assert not caplog.records  # matplotlib's complaints would stand on the page
    (ax,) = fig.axes
    assert ax.get_xlim()[0] <= -0.4 and ax.get_xlim()[1] >= 2.4 and ax.get_ylim()[1] >= 1.4
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    assert sorted(len(points.get_offsets()) for points in ax.collections) == [1, 2]

    (ax,) = plots.point_map(POINTS, [0, 0, 5], forces=[[0, 0], [0, -3], [1, 0]]).axes
    assert not ax.texts
    (arrows,) = [part for part in ax.collections if isinstance(part, Quiver)]
    np.testing.assert_allclose([arrows.U, arrows.V], 0.2 * 2 / 3 * np.array([[0, 0, 1], [0, -3, 0]]))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((POINTS, [0, 1]), "labels"),
        ((POINTS[:, :1], [0, 1, 2]), r"\(N, 2\)"),
        ((POINTS, [0, 1, 2], POINTS[:2]), "forces"),
    ],
)
def test_point_map_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        plots.point_map(*arguments)


def test_pair_matrix_shows_every_number_but_the_diagonals():
    values = np.arange(9.0).reshape(3, 3) - 4
    (ax,) = plots.pair_matrix(values, "d").axes
    shown = {
        text.get_position()[::-1]: float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts
    }
    assert shown == {(i, j): values[i, j] for i in range(3) for j in range(3) if i != j}
    assert np.isnan(np.diag(ax.images[0].get_array().filled(np.nan))).all()
    with pytest.raises(ValueError, match="N, N"):
        plots.pair_matrix(values[:2])


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
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="1 to 4"):
        plots.outlined_histograms({}, bins)


def test_level_shares():
    nearest, kinds = [0, 0, 1, 2], {"some": [True, True, True, False], "rest": [False, False, False, True]}
    (ax,) = plots.level_shares(nearest, kinds, 3).axes
    widths = [round(bar.get_width(), 3) for bar in ax.patches]
    assert widths == [66.667, 33.333, 0.0, 0.0, 0.0, 100.0]
    assert [bar.get_x() for bar in ax.patches[3:]] == [0, 0, 0]
    assert [text.get_text() for text in ax.texts] == ["67 %", "33 %", "100 %"]
    with pytest.raises(ValueError, match="nobody must be a mask of the 4 pairs"):
        plots.level_shares(nearest, {"nobody": [False] * 4}, 3)
