"""The command line, as a process and as a function."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdrlib import __main__ as command
from mdrlib.config_file import read_config
from mdrlib.experiment import Config
from mdrlib.results import load_run, load_runs

ROOT = Path(__file__).resolve().parents[2]
YAML = """
dataset: digits  # a comment
method: triplet
dim: 8
batch_size: 16
iterations: 5
evaluate_every: 5
levels: [-1, 1]
device: cpu
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(YAML)
    return path


def call(*arguments):
    words = [sys.executable, "-m", "mdrlib", *map(str, arguments)]
    return subprocess.run(
        words, cwd=ROOT, env=os.environ | {"MDR_PROGRESS": "lines"}, capture_output=True, text=True
    )


def test_a_run_from_the_shell_and_what_it_prints(config, tmp_path, capsys):
    words = ("run", config, "--out", tmp_path / "out", "iterations=1", "lr=1e-3", "lr_steps=[1]")
    done = call(*words)
    assert done.returncode == 0 and done.stderr == ""
    result = load_run(tmp_path / "out")
    assert result.config["iterations"] == 1 and result.config["lr"] == 1e-3
    assert result.config["lr_steps"] == [1] and result.config["levels"] == [-1.0, 1.0]
    progress, metrics = done.stdout.split("\n", 1)
    assert progress.startswith("digits triplet  iteration 1/1  loss 0.")
    assert json.loads(metrics[: metrics.index("}") + 1]) == result.metrics
    assert str(tmp_path / "out" / "result.json") in metrics.splitlines()[-1]

    assert command.main([str(word) for word in words]) == 0, "the same again returns at once"
    assert capsys.readouterr().out == metrics
    assert command.main([*map(str, words), "margin=0.3"]) == 1
    assert "margin: 0.2 there, 0.3 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, changes, words",
    [
        (None, [], "No such file or directory: '.*config.yml'"),
        ("- a\n- list", [], "config.yml must hold a mapping of Config fields, got list"),
        ("just words", [], "config.yml must hold a mapping of Config fields, got str"),
        ("dim: [8", [], 'parsing a flow sequence in .*config.yml", line 1'),
        ("dim: 8", ["dim"], "a change must be key=value, got 'dim'"),
        ("dim: 8", ["dim=[1"], "parsing a flow sequence"),
        ("dim: 8", ["dim=-1"], "dim must be at least 0 and below 65536, got -1"),
        ("dim: 8", ["dim=eight"], "dim must be int, got 'eight'"),
        ("dim: 8\nwidth: 3\ntrue: 1", [], r"unknown Config keys \[True, 'width'\]"),
        ("dataset: mnist", [], "unknown data set 'mnist'"),
        ("device: gpu", [], "device must be"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_exit_1(tmp_path, capsys, text, changes, words):
    path = tmp_path / "config.yml"
    if text is not None:
        path.write_text(text)
    assert command.main(["run", str(path), "--out", str(tmp_path / "out"), *changes]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("mdrlib: ") and said.err.count("\n") == 1
    assert re.search(words, said.err), said.err
    assert not (tmp_path / "out").exists()


def test_a_diverging_run_is_one_line_too(config, tmp_path, capsys, monkeypatch):
    def diverge(config, out):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(command, "run", diverge)
    assert command.main(["run", str(config), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "mdrlib: the loss is nan\n"


def test_values_are_yaml_and_later_ones_win(config):
    changes = ["levels=[-2, 0, 2]", "augment=false", "data_root=~", "dim=4", "dim=6"]
    found = read_config(str(config), changes)
    assert found == Config.of(
        {
            "dataset": "digits",
            "method": "triplet",
            "dim": 6,
            "batch_size": 16,
            "iterations": 5,
            "evaluate_every": 5,
            "levels": (-2.0, 0.0, 2.0),
            "augment": False,
            "device": "cpu",
        }
    )
    assert read_config(str(config), ["data_root='1e3'"]).data_root == "1e3"
    assert read_config(str(config), ["data_root=a=b"]).data_root == "a=b"


def test_numbers_may_have_an_exponent_without_a_point(config):
    for text, value in (("1e-3", 1e-3), ("5E-5", 5e-5), ("2", 2.0), ("1.0e-4", 1e-4), ("+1e2", 100.0)):
        assert read_config(str(config), [f"lr={text}"]).lr == value
        assert read_config(str(config), [f"levels=[{text}]"]).levels == (value,)


def test_an_empty_file_is_the_default_and_json_will_do(tmp_path):
    path = tmp_path / "config"
    path.write_text("# nothing\n")
    assert read_config(str(path), []) == Config()
    path.write_text(json.dumps({"dim": 7, "lr_steps": [3]}))
    assert read_config(str(path), []) == Config(dim=7, lr_steps=(3,))


def test_the_file_may_be_left_out(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "run", lambda config, out: seen.append((config, out)) or load_run(out))
    assert command.main(["run", "dim=8", "--out", str(tmp_path / "out"), "seed=2"]) == 1
    assert seen == [(Config(dim=8, seed=2), tmp_path / "out")] and "no result" in capsys.readouterr().err


def test_many_runs_are_made_and_one_that_fails_ends_no_other(config, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(config), "--out", str(out), "iterations=1", "backbone=tiny", "seed=0,1"]
    assert command.main([*words, "dataset=digits,mnist", "--jobs", "2"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"4 runs, 2 at a time, in {out}\n")
    assert said.out.count("FAILED: unknown data set 'mnist'") == 2
    for seed in (0, 1):
        result = load_run(out / f"seed={seed}-dataset=digits")
        assert (result.config["seed"], result.environment["threads"]) == (seed, 1)
        recall = f"{100 * result.metrics['recall@1']:.1f}"
        assert re.search(rf"\[./4\] seed={seed}-dataset=digits  Recall@1 {recall} %, ", said.out)
    assert re.search(r"^triplet +2\* .* the baseline$", said.out, re.M), "with the interval of the mean"
    assert said.err.startswith("mdrlib: 2 of 4 runs failed: ") and said.err.count("\n") == 1
    assert sorted(path.name for path in out.iterdir()) == ["seed=0-dataset=digits", "seed=1-dataset=digits"]

    times = [path.stat().st_mtime_ns for path in sorted(out.glob("*/*"))]
    assert command.main([*words, "dataset=digits,mnist"]) == 1
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*/*"))] == times, "they are not made again"


def test_a_value_that_is_wrong_starts_no_run(config, tmp_path, capsys):
    assert command.main(["run", str(config), "--out", str(tmp_path / "out"), "dim=8,16,-1"]) == 1
    assert "dim must be at least" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_reader_that_leaves_does_not_end_a_run(config, tmp_path):
    words = f"{sys.executable} -m mdrlib run {config} --out {tmp_path / 'out'} iterations=1 backbone=tiny"
    bash = ["bash", "-o", "pipefail", "-c", f"{words} 2>&1 | true"]
    done = subprocess.run(bash, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert load_run(tmp_path / "out").config["iterations"] == 1


def states_of_group(number):
    """The states of the processes of a group, as Linux tells them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            found += [state] if int(group) == number else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["0", "0,1"])
def test_ctrl_c_ends_all_in_one_line_and_the_same_call_goes_on(config, tmp_path, seeds):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "mdrlib", "run", config, "--out", out, f"seed={seeds}", "backbone=tiny"]
    words = [*map(str, words), "iterations=60", "evaluate_every=5"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = os.environ | {"MDR_PROGRESS": "off"}

    def hear() -> None:  # what a shell starts in the background ignores Ctrl-C, and so would this
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    shell = subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True, preexec_fn=hear, **pipes)
    while len(list(out.rglob("checkpoint.pt"))) < len(seeds.split(",")):
        assert shell.poll() is None
        time.sleep(0.05)
    os.killpg(shell.pid, signal.SIGINT)
    _, said = shell.communicate(timeout=60)
    assert shell.returncode == 130 and said == "\nmdrlib: stopped; the same call continues\n"
    deadline = time.monotonic() + 60
    while any(
        state != "Z" for state in states_of_group(shell.pid)
    ):  # nobody may have read a dead one's status
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list(out.rglob("result.json"))
    done = subprocess.run([*words, "--jobs", "2"], cwd=ROOT, env=env, **pipes)
    assert done.returncode == 0 and done.stderr == ""
    assert len(list(out.rglob("result.json"))) == len(seeds.split(","))


@pytest.mark.parametrize(
    "words",
    ["", "walk c.yml --out d", "run c.yml --out d --jobs 0", "run c.yml", "run --out d", "run c.yml --out"],
)
def test_wrong_usage_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(words.split())
    assert caught.value.code == 2 and "usage: mdrlib" in capsys.readouterr().err


def test_home_is_expanded_wherever_a_path_is_given(config, tmp_path, monkeypatch, capsys):
    """`--out=~/runs` reaches the command as it is, and so do paths in YAML and in quoted variables."""
    home, here = config.parent, tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MDR_PROGRESS", "off")
    monkeypatch.setenv("MDR_DATA_ROOT", "~/sets")
    assert command.main(["run", "~/config.yml", "--out=~/runs/a", "iterations=1"]) == 0
    assert str(home / "runs/a/result.json") in capsys.readouterr().out
    evaluation = ["mode=evaluate", "weights=~/runs/a/checkpoint.pt", "data_root=~/sets"]
    assert command.main(["run", "~/config.yml", "--out=~/runs/b", *evaluation]) == 0
    metrics = [load_run(f"~/runs/{name}").metrics for name in "ab"]
    assert metrics[0] == metrics[1] and list(load_runs("~/runs")) == ["a", "b"]
    assert command.main(["results", "~/runs/a", "~/runs/b/result.json"]) == 0
    assert command.main(["data", "check", "--root=~/sets"]) == command.main(["data", "check"]) == 0
    assert str(home / "sets" / "omniglot") in capsys.readouterr().out
    assert command.main(["run", "~/config.yml", "--out=~no-such-user/runs"]) == 1
    assert "~no-such-user/runs' is below no known home folder" in capsys.readouterr().err
    assert list(here.iterdir()) == []
