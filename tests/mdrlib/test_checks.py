"""What errors and paths are made with: values shortened, "~" expanded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mdrlib import checks


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
    with pytest.raises(ValueError, match="out_dir '~no-such-user/x' is below no known home folder"):
        checks.path("~no-such-user/x", "out_dir")
    for wrong in (3, None, b"x", ["a"]):
        with pytest.raises(TypeError, match="out_dir must be a path, got "):
            checks.path(wrong, "out_dir")
