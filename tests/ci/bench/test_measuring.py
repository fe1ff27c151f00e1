"""Times, peak memory and rows are what ci/bench/measuring.py says."""


import pytest

from bench import measuring

KEYS = {*measuring.TIMES, "what", "size", "ratio_to", "memory_mb", "accuracy", "target", "met"}


def test_candidates_take_turns_and_each_is_called_as_often():
    called = []
    times = measuring.side_by_side({name: lambda n=name: called.append(n) for name in "abc"}, 6, warmup=2)
    for start in range(0, len(called), 3):
        assert sorted(called[start : start + 3]) == list("abc")
    assert {called[start] for start in range(0, len(called), 3)} == set("abc"), "always the same one first"
    assert len(called) == 3 * 8 and {t["repetitions"] for t in times.values()} == {6}


def test_times_and_ratios_are_those_of_the_candidates(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    lasting = {"short": iter([9, 2, 2, 2, 3, 4]), "long": iter([9, 8, 8, 8, 8, 8])}

    def spend(name):
        clock[0] += next(lasting[name])

    candidates = {name: lambda name=name: spend(name) for name in lasting}
    times = measuring.side_by_side(candidates, repetitions=5, warmup=1)
    assert times["short"] == {"median_s": 2, "p10_s": 2, "p90_s": 3.6, "repetitions": 5}
    row = measuring.row("it", "1", times["short"], times)
    assert set(row) == KEYS and row["ratio_to"] == {"long": 4}


@pytest.mark.slow
def test_peak_memory_sees_what_is_held_for_a_moment_and_not_what_was_there():
    made = measuring.peak_memory("y = x + 1; del y", "x = torch.ones(10_000_000)")
    assert 38 < made < 60
    assert measuring.peak_memory("z = x.sum()", "x = torch.ones(10_000_000) + 1") < 12
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        measuring.peak_memory("1 / 0")


@pytest.mark.parametrize(
    "row, words",
    [
        (measuring.row("it", "3 x 4", target="fast", met=True), "[fast: met]"),
        (measuring.row("it", "3 x 4", target="fast", met=False), "[fast: NOT MET]"),
        (measuring.row("it", "3 x 4", target="fast"), "[fast: not measured]"),
        (measuring.row("it", "3 x 4", memory_mb=12.3, note="so"), "12 MB  note so"),
        ({"what": "foreign", "images_per_second": 7.5}, "images_per_second 7.5"),
        ({"median_s": 0.5, "p10_s": 0.4, "p90_s": 2.0}, "500.00 ms (400.00 ms .. 2.00 s)"),
    ],
)
def test_a_row_as_a_line(row, words):
    assert words in measuring.line(row)
