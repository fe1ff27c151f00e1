"""ci/bench.py measures what it says, and the sections give rows that it can print and store."""

import json
import sys
import time
import types

import pytest
import torch

import bench
import bench_retrieval
import bench_triplets
from mdrlib.retrieval import evaluate

KEYS = {*bench.TIMES, "what", "size", "ratio_to", "memory_mb", "accuracy", "target", "met"}


def test_candidates_take_turns_and_each_is_called_as_often():
    called = []
    times = bench.side_by_side({name: lambda n=name: called.append(n) for name in "abc"}, 6, warmup=2)
    for start in range(0, len(called), 3):
        assert sorted(called[start : start + 3]) == list("abc")
    assert {called[start] for start in range(0, len(called), 3)} == set("abc"), "always the same one first"
    assert len(called) == 3 * 8 and {t["repetitions"] for t in times.values()} == {6}


def test_times_and_ratios_are_those_of_the_candidates():
    times = bench.side_by_side(
        {"short": lambda: time.sleep(0.004), "long": lambda: time.sleep(0.02)}, repetitions=5, warmup=0
    )
    assert 0.004 <= times["short"]["p10_s"] <= times["short"]["median_s"] <= times["short"]["p90_s"]
    row = bench.row("it", "1", times["short"], times)
    assert set(row) == KEYS and list(row["ratio_to"]) == ["long"]
    assert row["ratio_to"]["long"] == pytest.approx(times["long"]["median_s"] / row["median_s"], rel=0.01)
    assert row["ratio_to"]["long"] > 1.2


def test_peak_memory_sees_what_is_held_for_a_moment_and_not_what_was_there():
    made = bench.peak_memory("y = x + 1; del y", "x = torch.ones(10_000_000)")
    assert 38 < made < 60
    assert bench.peak_memory("z = x.sum()", "x = torch.ones(10_000_000) + 1") < 12
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        bench.peak_memory("1 / 0")


@pytest.mark.parametrize(
    "row, words",
    [
        (bench.row("it", "3 x 4", target="fast", met=True), "[fast: met]"),
        (bench.row("it", "3 x 4", target="fast", met=False), "[fast: NOT MET]"),
        (bench.row("it", "3 x 4", target="fast"), "[fast: not measured]"),
        (bench.row("it", "3 x 4", memory_mb=12.3, note="so"), "12 MB  note so"),
        ({"what": "foreign", "images_per_second": 7.5}, "images_per_second 7.5"),
        ({"median_s": 0.5, "p10_s": 0.4, "p90_s": 2.0}, "500.00 ms (400.00 ms .. 2.00 s)"),
    ],
)
def test_a_row_as_a_line(row, words):
    assert words in bench.line(row)


@pytest.fixture
def section(monkeypatch):
    """A section of the name "toy", and what it was asked."""
    asked = []

    def use(measure):
        monkeypatch.setitem(sys.modules, "bench_toy", types.SimpleNamespace(measure=measure))
        monkeypatch.setattr(bench, "sections", lambda folder, only: ["toy"])
        return asked

    def measure(device="cpu", quick=False, full=False):
        asked.append((device, quick, full))
        return [
            bench.row("toy", "1", target="it is", met=True),
            bench.row("toy", "2", target="no", met=False),
        ]

    use(measure)
    return types.SimpleNamespace(use=use, asked=asked)


def test_the_command_prints_and_stores(section, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench.main(["--out", str(out), "--full"]) == 0
    assert section.asked == [("cpu", False, True)]
    printed = capsys.readouterr().out
    assert "toy on cpu" in printed and "1 of 2 targets met" in printed
    stored = json.loads(out.read_text())
    assert set(stored) == {"environment", "git", "quick", "full", "sections"}
    assert stored["environment"]["threads"] == torch.get_num_threads()
    assert [row["size"] for row in stored["sections"]["toy"]["rows"]] == ["1", "2"]
    assert stored["sections"]["toy"]["seconds"] >= 0 and stored["full"] is True


def test_tiny_sizes_and_single_sections_are_not_stored(section, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    for words in (["--quick"], ["--only", "toy"]):
        assert bench.main(words) == 0
        assert not list((tmp_path / "data/results").iterdir())
    assert bench.main([]) == 0
    assert [path.name for path in (tmp_path / "data/results").iterdir()] == ["bench-cpu.json"]


def test_a_section_for_the_cpu_alone_is_asked_there_alone(section):
    section.use(lambda quick=False: [{"what": "it", "quick": quick}])
    assert bench.run("toy", "cpu", quick=True)["rows"] == [{"what": "it", "quick": True}]
    assert bench.run("toy", "cuda")["rows"] == []


def test_sections_are_found_by_their_files(tmp_path):
    for name in ("bench.py", "bench_b.py", "bench_a.py", "other.py"):
        (tmp_path / name).touch()
    assert bench.sections(tmp_path) == ["a", "b"]
    assert bench.sections(tmp_path, ["b"]) == ["b"]
    with pytest.raises(ValueError, match="no section c; there are a, b"):
        bench.sections(tmp_path, ["c"])


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--device", "cuda"]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_the_authors_loop_finds_what_evaluate_does():
    x, labels = bench_retrieval.clusters(120, 6, 0.3)
    got, want = bench_retrieval.loop(x, labels, (1, 4), 120), evaluate(x, labels, ks=(1, 4))
    assert 0.1 < want["recall@1"] < 1
    assert got == pytest.approx({key: want[key] for key in got})


def test_the_peers_metrics_are_those_of_evaluate():
    pytest.importorskip("pytorch_metric_learning")
    x, labels = bench_retrieval.clusters(120, 6, 0.3)
    got, want = bench_retrieval.calculator(x, labels), evaluate(x, labels, ks=(1,))
    assert got == pytest.approx(want, abs=1e-6)


def test_the_peers_loss_over_all_triplets_is_ours():
    pytest.importorskip("pytorch_metric_learning")
    x, labels = bench_triplets.batch(40)
    got, want = (f("all_triplets")(x, labels) for f in (bench_triplets.theirs, bench_triplets.ours))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("section", (bench_retrieval, bench_triplets))
@pytest.mark.parametrize("installed", (True, False))
def test_a_section_gives_rows(section, installed, monkeypatch):
    if installed:
        pytest.importorskip("pytorch_metric_learning")
    else:
        monkeypatch.setattr(bench, "peer", lambda name: False)
    monkeypatch.setattr(bench, "peak_memory", lambda code, setup="": 1.5)
    rows = section.measure(quick=True)
    assert all(set(row) >= KEYS for row in rows)
    assert any("not installed" in row.get("note", "") for row in rows) is not installed
    assert all((row["met"] is None) == (row["target"] is None) for row in rows)
    for row in rows:
        assert json.dumps(row) and bench.line(row)
        assert row["median_s"] is None or row["p10_s"] <= row["median_s"] <= row["p90_s"]


def test_the_code_whose_memory_is_measured_runs():
    assert bench_retrieval.memory({**bench_retrieval.SOP, "images": 1500}, "cpu", 500) > 3
    assert bench_triplets.memory("ours", "all_triplets", 64, "cpu") < 100
