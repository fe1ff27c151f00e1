"""The tables of book/environment.md say what the records say."""

import json
from pathlib import Path

import pytest
import torch

from environment_page import environment_page

ROOT = Path(__file__).resolve().parents[2]
AT = {"python": "3.11.1", "torch": "2.0.0", "device": "cpu", "threads": 3}


@pytest.fixture
def house(tmp_path):
    """Two runs, of which one is no more listed, a chapter, and a stored list of two commits."""
    for folder in ("book", "_build/executed/smoke", "_build/runs/smoke/a-run", "data/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book/_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: two\n- file: one\n"
    )
    kept = {name: {"seconds": 12.34, "peak_memory_gb": 1.26} for name in ("one", "gone", "two", "a-run")}
    (tmp_path / "_build/executed/smoke/durations.json").write_text(json.dumps(kept))
    run = {"seconds": 7.6, "environment": AT, "git": {"commit": "abcdef0123456789", "dirty": True}}
    (tmp_path / "_build/runs/smoke/a-run/result.json").write_text(json.dumps(run))
    clean = run | {"git": {"commit": "0123456789abcdef", "dirty": False}}
    (tmp_path / "data/results/list.json").write_text(json.dumps([run, clean, clean]))
    (tmp_path / "data/results/bench.json").write_text(json.dumps(run | {"git": None}))
    return tmp_path


def rows(text):
    """The rows of the first table, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_times_of_runs_then_chapters_in_the_order_of_the_book(house):
    found = rows(environment_page("% durations", house, "smoke"))
    assert found == [[f"`{name}`", "12", "1.3"] for name in ("a-run", "two", "one")]


def test_runs_and_stored_results_say_where_they_were_made(house):
    at = ["Python 3.11.1, torch 2.0.0", "cpu, 3"]
    (run,) = rows(environment_page("% runs", house, "smoke"))
    assert run == ["`a-run`", "8", *at, "abcdef01 and changes"]
    assert rows(environment_page("% stored", house, "smoke")) == [
        ["`bench.json`", "", *at, "unknown"],
        ["`list.json`", "1", *at, "abcdef01 and changes"],
        ["`list.json`", "2", *at, "01234567"],
    ]


def test_the_page_of_the_book_names_this_machine_and_keeps_its_prose(house):
    source = (ROOT / "book/environment.md").read_text()
    page = environment_page(source, house, "smoke")
    assert f"| torch | {torch.__version__.split('+')[0]}" in page
    assert "\n% " not in page and all(
        line in page for line in source.splitlines() if not line.startswith("% ")
    )


def test_no_records_and_an_unknown_table(house):
    assert environment_page("before\n\n% runs\n", house, "quick") == "before\n\n*None yet.*\n"
    with pytest.raises(ValueError, match="'engines'"):
        environment_page("% engines", house, "quick")
