"""ci/sweep.py on this machine: what is made, found again, stopped and shared."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

import one_run
import studies
import sweep

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    "import sys, sweep; from pathlib import Path; sweep.ROOT = Path(sys.argv.pop(1)); sys.exit(sweep.main())"
)
ALL = sorted(f"{weight}-{seed}" for weight in (0.1, 0.2, 0.3) for seed in (0, 1))


def begin(house, *words):
    """The command as another process, in a group of its own as a terminal has it."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ci")])}
    words = [sys.executable, "-c", COMMAND, str(house), "--jobs", "2", *words]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(found, *processes):
    """What `found` returns, once it is something; the processes must not end before."""
    while not (value := found()):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    return value


def begun(house):
    """The runs that began, one for each time."""
    return sorted(path.name.rsplit("-", 2)[0] for path in (house / "log").glob("0.*"))


@pytest.mark.slow
@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["heard", "ignored"])
def test_stopped_at_any_time_it_goes_on_with_nothing_lost_and_two_share_the_work(matrix_house, inherited):
    """A shell starts what is in the background of a script with SIGINT ignored, and children inherit that."""
    hold = matrix_house / "log/hold"
    hold.touch()
    before = signal.signal(signal.SIGINT, inherited)
    first = begin(matrix_house)
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: len(begun(matrix_house)) == 2, first)
    children = psutil.Process(first.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(child.cmdline()) for child in children)
    os.killpg(first.pid, signal.SIGINT)
    assert "6 runs: 0 are done, 6 are left" in first.communicate()[0] and first.returncode == 130
    assert not psutil.wait_procs(children, timeout=60)[1], "its processes have ended too"
    folders = [path for path in (matrix_house / "_build/runs/sweep").iterdir()]
    assert len(folders) == 2
    (folders[0] / ".checkpoint.pt.half").touch()

    both = [begin(matrix_house) for _ in range(2)]
    wait_for(lambda: len(begun(matrix_house)) == 2 + 4, *both)  # two each, of four runs
    assert len(set(begun(matrix_house))) == 4
    hold.unlink()
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(set(begun(matrix_house))) == ALL and len(begun(matrix_house)) == 2 + 6
    assert sum(text.count(" done in ") for text in said) == 6
    for text in said:  # each saw all of them
        assert "[6/6]" in text and "made by another sweep" in text
    for folder in (matrix_house / "_build/runs/sweep").iterdir():
        kept = {"history.csv", "lock", "result.json", "run.ipynb"}
        assert {path.name for path in folder.iterdir()} == kept


def test_what_is_done_or_committed_is_not_made_again_and_failures_are_told(matrix_house, capfd):
    (matrix_house / "log/fail").touch()
    failures = sweep.run(matrix_house, "other", jobs=2)
    said = capfd.readouterr().out
    assert len(failures) == 2 and said.count("\nFAILED glyphs-triplet+mdr-s") == 2
    assert failures[0].notebook.exists() and "the lights went out" in failures[0].text
    (matrix_house / "log/fail").unlink()
    assert sweep.run(matrix_house, "other", jobs=1) == []
    assert "2 runs: 0 are done, 2 are left" in capfd.readouterr().out
    assert sweep.run(matrix_house, "other", jobs=1) == []
    assert "2 runs: 2 are done, 0 are left" in capfd.readouterr().out
    assert begun(matrix_house) == ["0.1-0", "0.1-0", "0.1-1", "0.1-1"]

    folder = matrix_house / "_build/runs/sweep"
    stored = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    (matrix_house / "data/results").mkdir(parents=True)
    (matrix_house / "data/results/ablations.json").write_text(json.dumps(stored[:1]))
    folder.rename(matrix_house / "away")
    wanted = studies.matrix(matrix_house, "other")
    here = one_run.what_is_here(["glyphs"])
    made = []

    def make(left):
        made.append(len(left))
        return iter(())

    sweep.sweep(matrix_house, wanted, here, make)
    sweep.sweep(matrix_house, wanted, here, make, again=True)
    here["data"]["glyphs"]["test"] = "other images"
    sweep.sweep(matrix_house, wanted, here, make)
    sweep.sweep(matrix_house, wanted, {"data": {}, "missing": {"glyphs": "no pens"}}, make)
    assert made == [1, 2, 2, 0]
    assert "glyphs is not available, its runs are left out: no pens" in capfd.readouterr().out


def test_odd_folders_and_a_dead_worker_fail_their_run_alone(matrix_house, capfd, monkeypatch):
    """Of six: one was opened in JupyterLab, the name of one is a file, the result of one is damaged, and
    the worker of one dies."""
    folder = matrix_house / "_build/runs/sweep"
    data = one_run.what_is_here(["glyphs"])["data"]["glyphs"]
    cells = studies.matrix(matrix_house)
    folders = [studies.sweep_job(matrix_house, cell.config, data).folder for cell in cells]
    opened, taken, damaged, dying, *_ = folders
    (opened / ".ipynb_checkpoints").mkdir(parents=True)
    (opened / ".ipynb_checkpoints/run-checkpoint.ipynb").touch()
    (opened / ".DS_Store").touch()
    (folder / ".ipynb_checkpoints").mkdir()
    taken.touch()
    damaged.mkdir()
    (damaged / "result.json").write_text('{"config": {')
    make_run = sweep.make_run

    def some_die(template, config, folder, *words):
        if folder == dying:
            raise BrokenProcessPool("A process in the process pool was terminated abruptly")
        return make_run(template, config, folder, *words)

    monkeypatch.setattr(sweep, "make_run", some_die)
    failures = sweep.run(matrix_house, jobs=2)
    assert {failure.name for failure in failures} == {taken.name, damaged.name, dying.name}
    said = capfd.readouterr().out
    assert said.count(" done in ") == 3 and "[6/6]" in said
    for words in ("FileExistsError", "result.json is not a result", "delete that file", "BrokenProcessPool"):
        assert words in said
    assert (opened / ".ipynb_checkpoints/run-checkpoint.ipynb").exists()


def test_a_run_whose_lock_is_held_is_left_and_one_of_a_dead_process_is_not(matrix_house):
    template = (matrix_house / "book/experiments/ablation.ipynb").read_text()
    config, folder = studies.matrix(matrix_house)[0].config.to_dict(), matrix_house / "run"
    folder.mkdir()
    lock = f"lock = FileLock({str(folder / 'lock')!r}); lock.acquire()"
    code = f"from filelock import FileLock; {lock}; print(1, flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    holder.stdout.readline()
    assert one_run.make_run(template, config, folder)["state"] == "elsewhere"
    holder.kill()
    holder.wait()
    assert one_run.make_run(template, config, folder)["state"] == "done"
    assert one_run.make_run(template, config, folder)["state"] == "there"
    assert begun(matrix_house) == ["0.1-0"]


def test_each_run_has_a_gpu_that_no_other_has(matrix_house, monkeypatch):
    """Of GPUs 4 and 7 another sweep has the first."""
    folder, jobs = matrix_house / "_build/runs/sweep", studies.matrix(matrix_house, "other")
    folder.mkdir(parents=True)
    data = one_run.what_is_here(["glyphs"])["data"]["glyphs"]
    left = {job.name: job for job in (studies.sweep_job(matrix_house, cell.config, data) for cell in jobs)}
    shown = []

    def make_run(template, config, folder, wait, variables):
        shown.append(variables["CUDA_VISIBLE_DEVICES"])
        return {"state": "done"}

    monkeypatch.setattr(sweep, "make_run", make_run)
    with FileLock(folder / ".gpu-4-0"):
        assert len(list(sweep.on_this_machine(matrix_house, "", 2, ["4", "7"], left))) == 2
    assert shown == ["7", "7"]
    assert len(list(sweep.on_this_machine(matrix_house, "", 2, ["4", "4"], left))) == 2
    assert shown[2:] == ["4", "4"]

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert sweep.gpus_here() == ["3", "GPU-5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert sweep.gpus_here() == ["0", "1"]


@pytest.mark.slow
def test_the_template_makes_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    template = (ROOT / "book/experiments/ablation.ipynb").read_text()
    config = {
        "dataset": "glyphs",
        "backbone": "tiny",
        "dim": 8,
        "batch_size": 16,
        "iterations": 2,
        "device": "cpu",
    }
    outcome = one_run.make_run(template, config, tmp_path / "run")
    assert outcome["state"] == "done" and outcome["peak_memory_gb"] > 0.1, outcome["failure"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert f"recall@1       {result['metrics']['recall@1']:.3f}" in (tmp_path / "run/run.ipynb").read_text()


@pytest.mark.parametrize(
    ("words", "said"), [(["--jobs", "0"], "at least 1"), (["--study", "x"], "no study 'x'")]
)
def test_wrong_words_are_refused(words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep.py", *words])
    try:
        status = sweep.main()
    except SystemExit as stopped:
        status = stopped.code
    assert status != 0 and said in capsys.readouterr().err
