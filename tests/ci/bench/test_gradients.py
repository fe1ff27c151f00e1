"""The measurement of the angle: that it leaves the training alone, and what it stores."""

import json

import torch

from bench import gradients
from mdrlib.datasets import load

SMALL = gradients.SETTINGS["quick"]


def test_rows_and_metrics_do_not_depend_on_how_often_it_was_measured():
    train, test = (load("glyphs", split) for split in ("train", "test"))
    for arm in ("triplet", "triplet+l2+mdr"):
        once, twice = (
            gradients.one_run(arm, 0, SMALL | {"points": points}, train, test) for points in ([2], [1, 2])
        )
        assert [row["iteration"] for row in twice] == [1, 2]
        for key in ("running_mean", "running_std", "metrics"):
            assert once[-1][key] == twice[-1][key]
        json.dumps(once, allow_nan=False)
        assert {"recall@1", "map@r", "train_recall@1", "spectral_decay"} <= set(once[-1]["metrics"])


def test_statistics_and_levels_are_held_still():
    mdr = gradients.MDR()
    mdr.initialized.fill_(1)
    held = gradients.still(mdr)
    held(torch.randn(8, 4), None)
    assert mdr.running_std.item() == 1 and mdr.training


def test_an_interrupted_measurement_keeps_whole_seeds(monkeypatch, capsys):
    def one_run(arm, seed, *rest):
        if seed == 1 and arm == "triplet+l2":
            raise KeyboardInterrupt
        return [{"arm": arm, "seed": seed, "cosine": 0.5}]

    monkeypatch.setattr(gradients, "one_run", one_run)
    monkeypatch.setitem(gradients.SETTINGS, "full", SMALL | {"seeds": 3})
    found = gradients.record()
    assert [row["seed"] for row in found["rows"]] == [0] * len(gradients.ARMS)
    assert "interrupted" in capsys.readouterr().out
    assert set(found["data"]) == {"train", "test"}
