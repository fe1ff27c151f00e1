"""`python -m mdrlib results`, as a function and once as a process: what is read, printed and refused."""

import csv
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mdrlib import __main__ as command
from mdrlib import comparison
from mdrlib.config import Config
from mdrlib.results import Result, load_committed, write, write_json

ROOT = Path(__file__).resolve().parents[2]
DATA = {"train": {"images": 3, "fingerprint": "0a"}, "test": {"images": 2, "fingerprint": "0b"}}
MINUS = "\N{MINUS SIGN}"


def result(recall, data=DATA, **config):
    stored = Config(**config).to_dict()
    return Result(stored, {"recall@1": recall, "map@r": recall / 2}, "last", 1.0, {}, None, data, [])


def method(name, values, first=0, **more):
    return [result(value, method=name, seed=seed, **more) for seed, value in enumerate(values, first)]


TRIPLET, L2, MDR = (
    [0.80, 0.81, 0.82, 0.79, 0.80],
    [0.81, 0.80, 0.82, 0.80, 0.79],
    [0.83, 0.84, 0.83, 0.82, 0.84],
)
RUNS = [*method("triplet", TRIPLET), *method("triplet+l2", L2), *method("triplet+mdr", MDR)]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """data/results of a clone: a list of runs, one seed of them in another, measurements of speed."""
    monkeypatch.setattr(comparison, "STORED", tmp_path / "results")
    store(tmp_path / "results/glyphs-seeds.json", RUNS)
    store(tmp_path / "results/glyphs-quick.json", [run for run in RUNS if run.config["seed"] == 0])
    write_json(tmp_path / "results/bench-cpu.json", {"sections": []})
    (tmp_path / "results/peers.yml").touch()
    return tmp_path / "results"


def store(path, runs):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [asdict(run) for run in runs])
    return path


def say(capsys, *words):
    """What the command prints when all is well."""
    status = command.main(["results", *map(str, words)])
    said = capsys.readouterr()
    assert status == 0 and said.err == "", said.err
    return said.out


def refuse(capsys, *words):
    """The one line of an error."""
    status = command.main(["results", *map(str, words)])
    said = capsys.readouterr()
    assert status == 1 and said.out == "" and said.err.startswith("mdrlib: ") and said.err.count("\n") == 1
    return said.err


# Intervals by hand: t of 4 degrees of freedom is 2.7764 at 95 %, over sqrt(5) that is 1.2416 times s.
# s: triplet and triplet+l2 1.14018, triplet+mdr 0.83666; l2 - triplet: 1 -1 0 1 -1 (mean 0, s 1);
# mdr - triplet: 3 3 1 3 4 (mean 2.8, s 1.09545).
TABLE = f"""\
glyphs, Recall@1 in percent
             seeds  Recall@1  95 % interval  minus triplet   95 % interval  verdict
triplet         5       80.4   79.0 to 81.8                                 the baseline
triplet+l2      5       80.4   79.0 to 81.8          +0.00  {MINUS}1.24 to +1.24  undecided
triplet+mdr     5       83.2   82.2 to 84.2          +2.80  +1.44 to +4.16  better

Intervals: 95 %, Student's t over seeds; differences are paired by seed.
"""


def test_a_table_worked_out_by_hand(tmp_path, capsys):
    assert say(capsys, store(tmp_path / "a.json", RUNS)) == TABLE


def test_the_lists_of_the_clone_are_shown_each_for_itself(stored, capsys):
    said, quick, seeds, _ = say(capsys).split("\n\n")
    assert said == f"No PATH is given: these are the book's stored runs, {stored}"
    assert quick.startswith("glyphs-quick.json: glyphs, Recall@1 in percent\n")
    assert re.search(r"^triplet\+mdr +1\* +83.0 +undecided: under 2 shared seeds$", quick, re.M)
    assert quick.endswith("* fewer than 5 seeds: too few for a table to show")
    assert seeds.splitlines()[1:] == TABLE.splitlines()[1:5]


def test_files_and_folders_given_together_are_one_table(tmp_path, capsys):
    one = store(tmp_path / "a/one.json", method("triplet", TRIPLET))
    store(tmp_path / "b/two.json", method("triplet+l2", L2))
    for run in method("triplet+mdr", MDR):
        write(run, tmp_path / "b" / f"mdr-{run.config['seed']}")
    assert say(capsys, one, tmp_path / "b") == TABLE
    third = [method("triplet+mdr", MDR)[2]]
    assert (
        comparison.read([tmp_path / "b/mdr-2/result.json"])
        == comparison.read([tmp_path / "b/mdr-2"])
        == third
    )


def test_data_sets_are_tables_of_their_own_and_so_is_other_data(tmp_path, capsys):
    other = DATA | {"test": {"images": 2, "fingerprint": "0c"}}
    runs = [*RUNS, *method("triplet", TRIPLET, dataset="digits"), *method("triplet+mdr", MDR, data=other)]
    blocks = say(capsys, store(tmp_path / "a.json", runs)).split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:-1]] == [
        "digits, Recall@1 in percent",
        "glyphs (train 0a, test 0b), Recall@1 in percent",
        "glyphs (train 0a, test 0c), Recall@1 in percent",
    ]


def test_another_metric_and_another_baseline(tmp_path, capsys):
    path = store(tmp_path / "a.json", RUNS)
    text = say(capsys, path, "--metric", "map@r", "--baseline", "triplet+mdr")
    assert "glyphs, MAP@R in percent" in text and "minus triplet+mdr" in text
    assert re.search(rf"^triplet +5 +40.2 .* {MINUS}1.40 +{MINUS}2.08 to {MINUS}0.72  worse$", text, re.M)
    assert re.search(r"^triplet\+mdr +5 +41.6 .*the baseline$", text, re.M)


def test_shared_seeds_are_told_where_they_are_fewer(tmp_path, capsys):
    runs = [*method("triplet", TRIPLET), *method("triplet+mdr", MDR, first=3)]
    assert "(2 shared seeds)" in say(capsys, store(tmp_path / "a.json", runs))


def test_compare_two_names_where_both_are(stored, tmp_path, capsys):
    (stored / "glyphs-quick.json").unlink()
    store(stored / "other.json", method("triplet", TRIPLET, dataset="digits"))
    title, header, triplet, _, mdr, *end = TABLE.splitlines()
    wanted = "\n".join([title, header, mdr, triplet, "they differ in: method", *end, ""])
    said = f"No PATH is given: these are the book's stored runs, {stored}\n\n"
    assert say(capsys, "compare", "triplet+mdr", "triplet") == f"{said}glyphs-seeds.json: {wanted}"
    path = store(tmp_path / "a.json", RUNS)
    assert say(capsys, path, "compare", "triplet+mdr", "triplet") == wanted
    text = say(capsys, path, "compare", "triplet", "triplet+mdr")
    assert re.search(rf"^triplet .* {MINUS}2.80  {MINUS}4.16 to {MINUS}1.44  worse$", text, re.M)
    text = say(capsys, path, "compare", "triplet+l2", "triplet", "--metric", "map@r")
    assert "MAP@R" in text and re.search(r"^triplet\+l2 .* undecided$", text, re.M)


def test_a_csv_has_a_row_per_run_and_one_per_evaluation(tmp_path, capsys):
    history = [
        {"iteration": 0, "loss": None, "recall@1": 0.1},
        {"iteration": 5, "loss": 0.5, "recall@1": 0.2},
    ]
    runs = [replace(run, history=history) for run in RUNS]
    assert say(capsys, store(tmp_path / "a.json", runs), "--csv", tmp_path / "out/all.csv") == TABLE
    with (tmp_path / "out/all.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["method"], int(row["seed"])): float(row["recall@1"]) for row in rows}
    assert found == {(run.config["method"], run.config["seed"]): run.metrics["recall@1"] for run in RUNS}
    assert rows[0]["levels"] == "[-3.0, 0.0, 3.0]" and [row["run"] for row in rows] == [*map(str, range(15))]
    with (tmp_path / "out/all-history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and [rows[-1][key] for key in ("run", "method", "seed")] == [
        "14",
        "triplet+mdr",
        "4",
    ]
    assert (rows[-2]["loss"], rows[-1]["loss"], rows[-1]["recall@1"]) == ("", "0.5", "0.2")
    refuse(capsys, store(tmp_path / "a.json", runs), "--csv", tmp_path / "a.json/b.csv")


def test_weights_of_the_same_name_and_other_content_are_groups_of_their_own(tmp_path, capsys):
    runs = [
        result(
            recall, data=DATA | {"weights": {"fingerprint": of}}, weights="a.pt", method="triplet", seed=seed
        )
        for of, recall in (("aa", 0.5), ("bb", 0.6))
        for seed in range(2)
    ]
    text = say(capsys, store(tmp_path / "a.json", runs), "--baseline", "triplet weights=a.pt aa")
    assert re.search(r"^triplet weights=a.pt bb +2\* +60.0", text, re.M)


def test_compare_says_where_seeds_are_few(tmp_path, capsys):
    folder = tmp_path / "runs"
    for run in [*method("triplet", TRIPLET), *method("triplet+mdr", MDR[:3])]:
        write(run, folder / f"{run.config['method']}-{run.config['seed']}")
    assert "* fewer than 5 seeds: too few" in say(capsys, folder, "compare", "triplet+mdr", "triplet")
    late = store(tmp_path / "late.json", [*RUNS[:5], *method("triplet+mdr", MDR, first=4)])
    assert "undecided: under 2 shared seeds" in say(capsys, late, "compare", "triplet+mdr", "triplet")


def test_compare_refuses_what_cannot_be_compared(tmp_path, capsys):
    path = store(tmp_path / "a.json", RUNS)
    error = refuse(capsys, path, "compare", "triplet", "tripled")
    assert "no runs have the group(s) ['triplet', 'tripled']; there are in glyphs ['triplet'" in error
    digits = store(tmp_path / "digits.json", method("triplet+mdr", MDR, dataset="digits"))
    one = store(tmp_path / "one.json", method("triplet", TRIPLET))
    error = refuse(capsys, one, digits, "compare", "triplet", "triplet+mdr")
    assert "there are in digits ['triplet+mdr']; in glyphs ['triplet']" in error


def test_tables_refuse_what_is_no_runs(stored, tmp_path, capsys):
    path = store(tmp_path / "a.json", RUNS)
    error = refuse(capsys, path, "--baseline", "foo")
    assert "no runs have the group(s) ['foo']; there are in glyphs ['triplet', 'triplet+l2'" in error
    assert "no metric 'recall@3'" in refuse(capsys, path, "--metric", "recall@3")
    assert "No such file or directory" in refuse(capsys, tmp_path / "nowhere.json")
    assert "bench-cpu.json is not" in refuse(capsys, stored / "bench-cpu.json")
    assert "seed 0" in refuse(capsys, stored), "in one table the run of both lists is there twice"
    (tmp_path / "empty").mkdir()
    assert "empty has no runs" in refuse(capsys, tmp_path / "empty")
    for file in stored.glob("glyphs-*"):
        file.unlink()
    assert "has no runs" in refuse(capsys)


def test_without_scipy_the_extra_is_named(stored, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    assert 'pip install "mdrlib[results]"' in refuse(capsys)


@pytest.mark.parametrize(
    "words", ["compare a", "compare", "runs compare", "runs compare a b c", "--metric", "--seeds 3"]
)
def test_wrong_usage_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["results", *words.split()])
    assert caught.value.code == 2 and "usage: mdrlib results" in capsys.readouterr().err


def test_the_stored_results(capsys):
    """Every list of the clone; its means are those that one computes by hand."""
    text = say(capsys)
    lists = [path for path in (ROOT / "data/results").glob("*.json") if not path.stem.startswith("bench-")]
    assert lists and all(f"{path.name}: " in text for path in lists)
    runs = load_committed(ROOT / "data/results/omniglot-seeds.json")
    values = [run.metrics["recall@1"] for run in runs if run.config["method"] == "triplet"]
    mean = 100 * sum(values) / len(values)
    assert re.search(rf"^triplet +{len(values)}.? +{mean:.1f} ", text, re.M)
