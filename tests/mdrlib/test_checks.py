"""Numbers of any library and paths below home are taken, everything else is refused on one short line."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from mdrlib import checks


@pytest.mark.parametrize(
    "value", (3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3], dtype=torch.int32))
)
def test_whole_numbers_of_any_library(value):
    got = checks.whole(value, "k", 1)
    assert got == 3 and type(got) is int


@pytest.mark.parametrize("value", (True, np.True_, torch.tensor(True), 3.0, np.float32(3), "3", None, [3]))
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match="k must be a whole number of at least 1, got "):
        checks.whole(value, "k", 1)


@pytest.mark.parametrize(
    "value", (0.5, np.float64(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2))
)
def test_real_numbers_of_any_library(value):
    got = checks.real(value, "momentum", 0, 1)
    assert got == 0.5 and type(got) is float
    assert checks.real(np.int32(-2), "shift") == -2.0


@pytest.mark.parametrize("value", (True, np.True_, "0.5", None, [0.5], np.ones(2), torch.ones(2), 1j))
def test_what_is_no_real_number(value):
    with pytest.raises(TypeError, match="momentum must be a finite number at least 0 and below 1, got "):
        checks.real(value, "momentum", 0, 1)


@pytest.mark.parametrize("value", (1, -0.1, float("nan"), np.float32("inf"), 10**400, Fraction(10**400)))
def test_out_of_range(value):
    with pytest.raises(ValueError, match="momentum must be a finite number at least 0 and below 1, got "):
        checks.real(value, "momentum", 0, 1)


def test_values_are_shown_short_and_on_one_line():
    for value in (-(10**5000), "x" * 10**6, torch.zeros(50, 50), np.zeros((50, 50)), [[0] * 99] * 99):
        assert len(checks.shown(value)) < 200 and "\n" not in checks.shown(value)
        for call in (lambda v: checks.whole(v, "k", 1), lambda v: checks.real(v, "k", 0, 1)):
            with pytest.raises((TypeError, ValueError)) as error:
                call(value)
            assert len(str(error.value)) < 300


def bomb(depth=9):
    """Nine references to nine references to ...: small in memory, 387 million words long."""
    value = "lol"
    for _ in range(depth):
        value = [value] * 9
    return value


@pytest.mark.parametrize(
    "value, start",
    [
        (3, "3"),
        ("a\nb", "'a"),
        ("x" * 10**7, "'xxx"),
        (b"x" * 10**6, "b'xxx"),
        (10**5000, "int of too many digits"),
        ([10**5000], "list of too many digits"),
        ([1] * 10**6, "[1, 1"),
        ({k: k for k in range(10**5)}, "{0: 0"),
        (bomb(), "[[["),
        (torch.zeros(50, 50), "tensor([[0."),
        (np.zeros((50, 50)), "array([[0."),
        (object(), "<object object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_in_one_short_line(value, start):
    text = checks.shown(value)
    assert text.startswith(start) and len(text) <= checks.SHOWN and "\n" not in text


def test_a_path_starts_at_home_where_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checks.path("~/runs") == checks.path(Path("~/runs")) == tmp_path / "runs"
    assert checks.path("~") == tmp_path
    assert checks.path("a/~/b") == Path("a/~/b") and checks.path("/a") == Path("/a")


def test_what_is_no_path_is_refused():
    for wrong in (3, None, b"x", ["a"]):
        with pytest.raises(TypeError, match="out_dir must be a path, got "):
            checks.path(wrong, "out_dir")
