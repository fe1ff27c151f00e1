"""The command for a few minutes on a GPU: parts in processes of their own, with budgets, stored at once."""

import json
import os
import subprocess
import sys

import pytest
import torch

from bench import gpu_once


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """toy(name=(code, budget), ...) makes these the only parts; returns what main stored."""

    def run(**parts):
        script = tmp_path / "toy.py"
        branches = "\n".join(f"if name == {n!r}:\n    {code}" for n, (code, _) in parts.items())
        start = "import sys, json, time, os\nname = sys.argv[sys.argv.index('--part') + 1]\n"
        script.write_text(start + branches)
        monkeypatch.setattr(gpu_once, "__file__", str(script))
        monkeypatch.setattr(gpu_once, "PARTS", {name: (None, budget) for name, (_, budget) in parts.items()})
        out = tmp_path / "found.json"
        code = gpu_once.main(["--cpu", "--out", str(out), "--only", *parts])
        return code, json.loads(out.read_text())

    return run


def test_a_crash_and_a_hang_leave_the_other_parts_and_what_was_found(toy):
    code, stored = toy(
        dies=("print(json.dumps({'a': 1}), flush=True); os.abort()", 60),
        hangs=("print(json.dumps({'b': 2}), flush=True); time.sleep(100)", 3),
        works=("print('noise'); print(json.dumps({'c': float('nan')}))", 60),
    )
    assert code == 1 and set(stored) == {"environment", "git", "parts"}
    parts = stored["parts"]
    assert parts["dies"]["a"] == 1 and "stderr" in parts["dies"]
    assert parts["hangs"]["b"] == 2 and "budget of 3 s" in parts["hangs"]["stopped"]
    assert parts["works"]["c"] == "NaN" and "stopped" not in parts["works"]


def test_an_error_of_a_part_is_told_after_what_it_found(monkeypatch, capsys):
    def broken(device):
        yield "first", 1
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setitem(gpu_once.PARTS, "graph", (broken, 1))
    assert gpu_once.part("graph", "cpu") == 1
    first, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"first": 1} and error["error"] == "OutOfMemoryError: too much"


def test_the_budgets_are_eight_minutes():
    assert sum(budget for _, budget in gpu_once.PARTS.values()) <= 480


def test_without_a_gpu_it_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_once.main([]) == 1 and "--cpu" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_without_a_gpu_and_without_other_packages(tmp_path):
    """With torch, NumPy and triton alone, as on a rented machine: all parts but the tests."""
    blocked = "faiss papermill timm umap tqdm scipy sklearn matplotlib pandas torchvision PIL".split()
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n"
    )
    out = tmp_path / "found.json"
    names = [name for name in gpu_once.PARTS if name != "tests"]
    command = [sys.executable, gpu_once.__file__, "--cpu", "--scale", "10", "--out", str(out)]
    command += ["--only", *names]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == set(names) and parts["graph"]["skipped"] == "needs a GPU"
    assert all(len(found) > 1 for found in parts.values())
