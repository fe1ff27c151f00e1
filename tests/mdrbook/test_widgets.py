"""The widget finds neighbours, and answers messages of a front end in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
import torch

from mdrbook.widgets import embedding_explorer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pictures():
    """Thirty images of five unequal classes, two of them one image twice."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    x[29] = x[0]
    labels = torch.tensor([k % 5 if k < 25 else 0 for k in range(30)])
    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, images, labels, [f"class {k}" for k in range(5)]


def test_embedding_explorer_finds_neighbours(pictures):
    x, _, labels, _ = pictures
    name, number, count, picture = embedding_explorer(*pictures).children
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


CELLS = """
import numpy as np, torch
from mdrbook.widgets import embedding_explorer
x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
near = embedding_explorer(x, torch.rand(20, 1, 8, 8), np.arange(20) % 4, list("abcd"))
near
---
print(near.children[-1].value.split("alt=")[1])
"""


@pytest.mark.slow
def test_the_widget_answers_a_front_end(monkeypatch):
    """The slider moves as a browser moves it, by a message to the kernel, which starts in book/."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---")]
    client = NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=200,
        resources={"metadata": {"path": str(ROOT / "book")}},
    )
    with client.setup_kernel():
        client.execute_cell(cells[0], 0)
        client.execute_cell(cells[1], 1)
        before = cells[1].outputs[0].text
        box = cells[0].outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
        children = [name.removeprefix("IPY_MODEL_") for name in client.widget_state[box]["children"]]
        models = {client.widget_state[child].get("description"): child for child in children}
        data = {"method": "update", "state": {"value": 2}, "buffer_paths": []}
        content = {"comm_id": models["image"], "data": data}
        client.kc.shell_channel.send(client.kc.session.msg("comm_msg", content))
        client.execute_cell(cells[1], 1)  # comes after the message
    assert "a, image 8: " not in before and "a, image 8: " in cells[1].outputs[0].text
