"""The explorer of levels and lambda, by itself and in a kernel, and its stand-in for pages without one."""

import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from mdrlib import explorers, mdr_loss, pairwise_distances  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def pairs():
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    i, j = torch.triu_indices(30, 30, offset=1)
    labels = torch.arange(30) // 5
    return pairwise_distances(x)[i, j], labels[i] == labels[j], x


def test_regularizer_is_mdr_loss(pairs):
    d, _, x = pairs
    for levels in ((-3.0, 0.0, 3.0), (-1.0, 0.5), (0.2,)):
        expected = mdr_loss(x, levels, d.mean(), d.std()).item()
        assert explorers.regularizer((d - d.mean()) / d.std(), levels) == pytest.approx(expected, rel=1e-5)


def test_levels_figure(pairs):
    d, same, x = pairs
    fig = explorers.levels_figure(d, same, (-1.0, 1.0), weight=0.5)
    value = mdr_loss(x, (-1.0, 1.0), d.mean(), d.std()).item()
    assert f"= {value:.3f}" in fig.get_suptitle() and f"= {value / 2:.3f}" in fig.get_suptitle()
    _, pull = fig.axes
    for patch, level in zip(pull.patches, (-1.0, 1.0), strict=True):
        values, edges, _ = patch.get_data()
        assert values.tolist() == [0.5, -0.5] and edges[1] == level  # the pull turns round at the level
    assert pull.patches[0].get_data().edges[2] == pull.patches[1].get_data().edges[0] == 0


def test_levels_and_lambda_redraws(pairs):
    box = explorers.levels_and_lambda(*pairs[:2], levels=(3.0, -3.0, 0.0))
    *levels, weight = box.children[0].children
    picture = box.children[1]
    assert [slider.value for slider in levels] == [-3.0, 0.0, 3.0]
    seen = {picture.value}
    for slider, value in ((levels[0], -1.2), (levels[2], 0.9), (weight, 0.7)):
        slider.value = value
        seen.add(picture.value)
    assert len(seen) == 4
    assert "at level \N{MINUS SIGN}1.2" in picture.value
    value = explorers.regularizer(explorers._normalized(pairs[0]), (-1.2, 0.0, 0.9))
    assert f"lambda times L_MDR {0.7 * value:.3f}" in picture.value


NOTEBOOK = """
import torch
from mdrlib import pairwise_distances
from mdrlib.explorers import levels_and_lambda
x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
i, j = torch.triu_indices(20, 20, offset=1)
explorer = levels_and_lambda(pairwise_distances(x)[i, j], i % 4 == j % 4)
explorer
---
before = explorer.children[1].value
explorer.children[0].children[0].value = -0.7
after = explorer.children[1].value
assert before != after and "level \\N{MINUS SIGN}0.7" in after and "level \\N{MINUS SIGN}3.0" in before
print("moved")
"""


def test_the_explorer_works_in_a_kernel(monkeypatch, tmp_path):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in NOTEBOOK.split("---")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    view = "application/vnd.jupyter.widget-view+json"
    assert view in notebook.cells[0].outputs[0].data
    assert notebook.cells[1].outputs[0].text == "moved\n"
    state = client.widget_state.values()
    assert any("level \N{MINUS SIGN}0.7" in str(model.get("value")) for model in state)


def test_levels_frames(pairs):
    page = explorers.levels_frames(*pairs[:2], [(-3, 0, 3), (-1, 1)], weight=0.2, caption="Levels").data
    assert page.count("<img ") == 2 and "http" not in page
    assert 'data-label="levels \N{MINUS SIGN}3.0, 0.0, 3.0"' in page
    value = explorers.regularizer(explorers._normalized(pairs[0]), (-1, 1))
    assert f"L_MDR {value:.3f}, lambda times L_MDR {0.2 * value:.3f}." in page


@pytest.mark.filterwarnings("error")
def test_no_pair_of_one_class_is_no_warning(pairs):
    none = np.zeros(len(pairs[0]), dtype=bool)
    assert "0% of those of one class" in explorers.levels_frames(pairs[0], none, [(0.0,)]).data


def test_refusals(pairs, monkeypatch):
    d, same, _ = pairs
    with pytest.raises(ValueError, match="lambda"):
        explorers.levels_figure(d, same, weight=-1)
    with pytest.raises(ValueError, match="not all equal"):
        explorers.levels_figure(torch.ones(5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="same length"):
        explorers.levels_figure(d, same[1:])
    with pytest.raises(ValueError, match="within 5"):
        explorers.levels_and_lambda(d, same, levels=(-6.0,))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install mdrlib\[notebooks\]"):
        explorers.levels_and_lambda(d, same)
