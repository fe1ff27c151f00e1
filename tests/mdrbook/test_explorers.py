"""The widgets, by themselves and in a kernel with messages from their sliders."""

import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from mdrlib import explorers, live_levels, mdr_loss, pairwise_distances

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
        assert live_levels.regularizer((d - d.mean()) / d.std(), levels) == pytest.approx(expected, rel=1e-5)


def test_levels_figure(pairs):
    d, same, x = pairs
    fig = live_levels.levels_figure(d, same, (-1.0, 1.0), weight=0.5)
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
    value = live_levels.regularizer(live_levels.normalized(pairs[0]), (-1.2, 0.0, 0.9))
    assert f"lambda times L_MDR {0.7 * value:.3f}" in picture.value


def test_distances_through_training_redraws(trained):
    box = explorers.distances_through_training(trained)
    slider, picture = box.children[0].children[1], box.children[1]
    assert (slider.min, slider.max, slider.value) == (0, 3, 3)
    last = picture.value
    slider.value = 1
    assert picture.value != last and "Iteration 10." in picture.value
    assert "levels \N{MINUS SIGN}2.10, \N{MINUS SIGN}0.10, 2.40" in picture.value


@pytest.fixture
def drawings():
    """Thirty images of five unequal classes, two of them one image twice."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    x[29] = x[0]
    labels = torch.tensor([k % 5 if k < 25 else 0 for k in range(30)])
    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, images, labels, [f"class {k}" for k in range(5)]


def test_embedding_explorer_finds_neighbours(drawings):
    x, _, labels, _ = drawings
    box = explorers.embedding_explorer(*drawings)
    name, number, count, picture = box.children
    assert number.max == 9  # of class 0
    # Image 29 is image 0 again: nearest at distance 0, and neither of them its own neighbour.
    assert "image 0: " in picture.value and "Nearest 29 at distance 0.000" in picture.value
    number.value, count.value = 9, 3
    assert "image 29: " in picture.value and "Nearest 0 at distance 0.000" in picture.value
    name.value = 3
    assert number.max == number.value == 4  # class 3 has fewer
    query = 23
    order = (x - x[query]).norm(dim=1).argsort()
    near = order[order != query][:3]
    right, gap = int((labels[near] == 3).sum()), (x[near[0]] - x[query]).norm()
    assert f"class 3, image 23: {right} of the 3 nearest are of its class." in picture.value
    assert f"Nearest {near[0]} at distance {gap:.3f}." in picture.value


NOTEBOOK = """
import numpy as np, torch
from mdrlib import pairwise_distances
from mdrlib.explorers import distances_through_training, embedding_explorer, levels_and_lambda
x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
i, j = torch.triu_indices(20, 20, offset=1)
explorer = levels_and_lambda(pairwise_distances(x)[i, j], i % 4 == j % 4)
explorer
---
training = distances_through_training(FOLDERS)
training
---
near = embedding_explorer(x, torch.rand(20, 1, 8, 8), np.arange(20) % 4, list("abcd"))
near
---
for widget in (explorer, training, near):
    print(widget.children[-1].value.split("alt=")[1])
"""


def test_the_explorers_answer_a_front_end(trained, monkeypatch, tmp_path):
    """A kernel of its own; sliders move as a browser moves them, by a message to the widget."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    source = NOTEBOOK.replace("FOLDERS", repr({method: str(folder) for method, folder in trained.items()}))
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in source.split("---")]
    )
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    view = "application/vnd.jupyter.widget-view+json"

    def slider_of(box, kind):
        """The first model of a kind within a box, by the state that the kernel has sent."""
        below = [box]
        while client.widget_state[below[0]]["_model_name"] != kind:
            children = client.widget_state[below.pop(0)].get("children", [])
            below += [child.removeprefix("IPY_MODEL_") for child in children]
        return below[0]

    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        before = notebook.cells[3].outputs[0].text.splitlines()
        boxes = [cell.outputs[0].data[view]["model_id"] for cell in notebook.cells[:3]]
        kinds = [("FloatSliderModel", -0.7), ("IntSliderModel", 1), ("IntSliderModel", 2)]
        for box, (kind, value) in zip(boxes, kinds, strict=True):
            data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
            content = {"comm_id": slider_of(box, kind), "data": data}
            client.kc.shell_channel.send(client.kc.session.msg("comm_msg", content))
        client.execute_cell(notebook.cells[3], 3)  # comes after the messages
        after = notebook.cells[3].outputs[0].text.splitlines()
    shown = ("level \N{MINUS SIGN}0.7", "Iteration 10.", "a, image 8: ")
    for was, now, words in zip(before, after, shown, strict=True):
        assert words not in was and words in now


@pytest.mark.filterwarnings("error")
def test_no_pair_of_one_class_is_no_warning(pairs):
    none = np.zeros(len(pairs[0]), dtype=bool)
    assert "0% of those of one class" in live_levels.describe(
        live_levels.normalized(pairs[0]), none, [0.0], 0.1
    )


def test_refusals(pairs, monkeypatch):
    d, same, _ = pairs
    with pytest.raises(ValueError, match="lambda"):
        live_levels.levels_figure(d, same, weight=-1)
    with pytest.raises(ValueError, match="not all equal"):
        live_levels.levels_figure(torch.ones(5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="same length"):
        live_levels.levels_figure(d, same[1:])
    with pytest.raises(ValueError, match="within 5"):
        explorers.levels_and_lambda(d, same, levels=(-6.0,))
    with pytest.raises(ValueError, match="as many, 2 or more; got 3, 2 and 3"):
        explorers.embedding_explorer(torch.zeros(3, 2), torch.zeros(2, 1, 4, 4), torch.zeros(3).long(), ["a"])
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install mdrlib\[notebooks\]"):
        explorers.levels_and_lambda(d, same)
