"""ci/by_cosine.py: stored networks that keep norms, searched without them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

import by_cosine
import studies
from mdrlib.results import Result, write

DATA = {"train": {"images": 1, "fingerprint": "1"}, "test": {"images": 1, "fingerprint": "2"}}
# Two classes on two rays: by cosine every neighbour is right, by distance the short ones are near each other.
X = np.array([[1.0, 0.1], [9.0, 1.0], [0.1, 1.0], [1.0, 9.0]], dtype=np.float32)


def result(config):
    classes = {"class": ["east", "north"], "recall@1": [0.0, 0.0]}
    history = [{"iteration": 0}, {"iteration": 4}]
    return Result(config.to_dict(), {}, "last", 1.0, {}, None, DATA, history, classes)


@pytest.fixture
def made(matrix_house):
    """One run behind each head, stored and in its folder."""
    path = matrix_house / "ci/ablations.yml"
    spec = yaml.safe_load(path.read_text())
    grid = {"method": ["triplet+mdr", "triplet+l2", "proxy-anchor"]}
    spec["studies"] = {"heads": {"title": "", "seeds": 1, "grid": grid}}
    path.write_text(yaml.safe_dump(spec))
    lines = []
    for cell in studies.matrix(matrix_house):
        run = result(cell.config)
        fingerprints = {split: part["fingerprint"] for split, part in DATA.items()}
        folder = studies.sweep_job(matrix_house, cell.config, fingerprints).folder
        folder.mkdir(parents=True)
        write(run, folder)
        np.savez(folder / "embeddings.npz", embeddings=X, labels=np.array([0, 0, 1, 1]))
        lines.append(json.loads((folder / "result.json").read_text()))
    (matrix_house / "data/results").mkdir(parents=True)
    (matrix_house / "data/results/ablations.json").write_text(json.dumps(lines))
    return matrix_house


def test_norms_are_discarded_where_the_head_keeps_them(made):
    (row,) = by_cosine.searched(made, "heads")
    assert row["config"]["method"] == "triplet+mdr" and row["iteration"] == 4
    assert row["class"] == ["east", "north"] and row["recall@1"] == row["map@r"] == [1.0, 1.0]


def test_queries_are_searched_in_their_gallery(made):
    (folder,) = (made / "_build/runs/sweep").glob("*triplet+mdr*")
    labels = np.array([0, 1])
    gallery = {"gallery_embeddings": X[[1, 3]], "gallery_labels": labels}
    np.savez(folder / "embeddings.npz", embeddings=X[[0, 2]], labels=labels, **gallery)
    (row,) = by_cosine.searched(made, "heads")
    assert row["recall@1"] == [1.0, 1.0], "among themselves no query has a match"


def test_embeddings_of_another_run_are_refused(made):
    (folder,) = (made / "_build/runs/sweep").glob("*triplet+mdr*")
    run = result(studies.matrix(made)[0].config)
    write(replace(run, git={"commit": "c" * 40, "dirty": False}), folder)
    with pytest.raises(FileNotFoundError, match="does not hold the stored run"):
        by_cosine.searched(made, "heads")
