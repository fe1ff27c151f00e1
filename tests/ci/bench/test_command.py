"""`python ci/bench` runs its sections, prints their rows and stores them."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench.measuring import row

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def toy(monkeypatch):
    """use(measure) makes a section "toy" the only one; `asked` has what it was called with."""
    asked = []

    def use(measure):
        monkeypatch.setitem(sys.modules, "bench.toy", types.SimpleNamespace(measure=measure))
        monkeypatch.setattr(command, "SECTIONS", ("toy",))

    def measure(device="cpu", quick=False, full=False):
        asked.append((device, quick, full))
        return [row("toy", "1", target="it is", met=True), row("toy", "2", target="no", met=False)]

    use(measure)
    return types.SimpleNamespace(use=use, asked=asked)


def test_it_prints_and_stores(toy, tmp_path, capsys, monkeypatch):
    out = tmp_path / "bench.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main(["--out=~/bench.json", "--full"]) == 0
    assert toy.asked == [("cpu", False, True)]
    printed = capsys.readouterr().out
    assert "toy on cpu" in printed and "1 of 2 targets met" in printed
    stored = json.loads(out.read_text())
    assert set(stored) == {"environment", "git", "quick", "full", "sections"}
    assert stored["environment"]["threads"] == torch.get_num_threads()
    assert [row["size"] for row in stored["sections"]["toy"]["rows"]] == ["1", "2"]
    assert stored["sections"]["toy"]["seconds"] >= 0 and stored["full"] is True


def test_tiny_sizes_and_single_sections_are_not_stored(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    for words in (["--quick"], ["--only", "toy"]):
        assert command.main(words) == 0
        assert not list((tmp_path / "data/results").iterdir())
    assert command.main([]) == 0
    assert [path.name for path in (tmp_path / "data/results").iterdir()] == ["bench-cpu.json"]


def test_a_section_for_the_cpu_alone_is_asked_there_alone(toy):
    toy.use(lambda quick=False: [{"what": "it", "quick": quick}])
    assert command.section("toy", "cpu", quick=True)["rows"] == [{"what": "it", "quick": True}]
    assert command.section("toy", "cuda")["rows"] == []


@pytest.mark.parametrize("name", command.APART)
def test_sections_apart_store_their_own_file_and_only_committed_code(name, tmp_path, monkeypatch, capsys):
    made = types.SimpleNamespace(record=lambda quick: {"rows": [1], "environment": {"more": quick}})
    monkeypatch.setitem(sys.modules, f"bench.{name}", made)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    monkeypatch.setattr(command, "git", lambda: {"commit": "0", "dirty": True})
    assert command.main(["--only", name, "--store"]) == 1
    assert "commit, then measure" in capsys.readouterr().err
    assert command.main(["--only", name]) == 0 and not list((tmp_path / "data/results").iterdir())
    monkeypatch.setattr(command, "git", lambda: {"commit": "0", "dirty": False})
    assert command.main(["--only", name, "--store", "--quick"]) == 0
    stored = json.loads((tmp_path / f"data/results/bench-{name}.json").read_text())
    assert set(stored) == {"rows", "environment", "git"}
    assert stored["environment"]["more"] is True and "torch" in stored["environment"]


def test_on_a_gpu_each_section_is_stored_at_once(toy, tmp_path, monkeypatch):
    def broken(device="cpu"):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "environment", lambda device: {"device": str(device)})
    monkeypatch.setattr(command, "SECTIONS", ("toy", "broken"))
    monkeypatch.setitem(sys.modules, "bench.broken", types.SimpleNamespace(measure=broken))
    out = tmp_path / "bench.json"
    with pytest.raises(RuntimeError, match="illegal"):
        command.main(["--device", "cuda", "--out", str(out)])
    assert list(json.loads(out.read_text())["sections"]) == ["toy"]


def test_an_unknown_section_and_no_gpu(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
    assert "regularizer" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--device", "cuda"]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_the_folder_is_a_command_from_anywhere(tmp_path):
    words = [sys.executable, str(ROOT / "ci/bench"), "--help"]
    environment = {**os.environ, "PYTHONPATH": ""}
    said = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "python ci/bench" in said.stdout and "ann" in said.stdout
