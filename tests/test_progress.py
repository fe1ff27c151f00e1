"""What is shown of long work, in each style."""

import re

import pytest

from mdrlib import progress
from mdrlib.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def work(clock, seconds, total=4, done=0):
    """Iterations of some seconds each; returns how often the loss was read."""
    reads = []
    shown = Progress("glyphs triplet", total, done)
    for iteration in range(done + 1, total + 1):
        clock[0] += seconds
        shown.update(iteration, lambda at=iteration: reads.append(at) or at / 8)
    shown.close()
    return reads


def test_lines_have_name_iteration_loss_and_elapsed_time(clock, monkeypatch, capsys):
    monkeypatch.setenv("MDR_PROGRESS", "lines")
    assert work(clock, 11) == [1, 2, 3, 4]
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines() == [
        "glyphs triplet  iteration 1/4  loss 0.1250  11 s",
        "glyphs triplet  iteration 2/4  loss 0.2500  22 s",
        "glyphs triplet  iteration 3/4  loss 0.3750  33 s",
        "glyphs triplet  iteration 4/4  loss 0.5000  44 s",
    ]


def test_a_line_comes_every_ten_seconds_and_at_the_end(clock, monkeypatch, capsys):
    monkeypatch.setenv("MDR_PROGRESS", "lines")
    assert work(clock, 3, total=9) == [4, 8, 9]
    assert work(clock, 0.01, total=9, done=5) == [9]
    assert re.findall(r"iteration (\d)/9", capsys.readouterr().out) == ["4", "8", "9", "9"]


def test_off_shows_nothing_and_reads_no_loss(clock, monkeypatch, capfd):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    assert work(clock, 60) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["bar", None])
def test_a_bar_is_the_default_and_reads_the_loss_twice_a_second(clock, monkeypatch, capfd, given):
    monkeypatch.delenv("MDR_PROGRESS", raising=False)
    if given:
        monkeypatch.setenv("MDR_PROGRESS", given)
    assert work(clock, 0.2, total=10, done=2) == [5, 8, 10]
    said = capfd.readouterr()
    assert said.out == "" and "glyphs triplet" in said.err
    assert "2/10" in said.err, "a resumed run begins where it was"
    assert "10/10" in said.err and "loss=1.2500" in said.err and said.err.endswith("\n")
