"""The listings of the chapters are the source as it is, with the lines' numbers in their file."""

import inspect
import sys

import pytest

from mdrbook import source
from mdrlib.mdr import eager
from mdrlib.mdr.module import MDR


def listing(*args):
    return source.listing(*args).data


def test_a_function_unchanged():
    caption, _, fence, *code = listing(eager.loss).splitlines()
    lines, start = inspect.getsourcelines(eager.loss)
    assert caption == f"`mdrlib/mdr/eager.py`, lines {start} to {start + len(lines) - 1}"
    assert (fence, code[-1]) == ("```python", "```")
    assert "\n".join(code[:-1]) == "".join(lines).rstrip()


def test_a_piece_of_a_method_loses_its_indentation():
    caption, *rest = listing(MDR.forward, "if self._calls", "self._watch").splitlines()
    code = rest[2:-1]
    assert code[0].startswith("if self._calls") and code[1] == "    self._watch_levels()" and len(code) == 2
    first = int(caption.split("lines ")[1].split(" to ")[0])
    file = inspect.getsource(sys.modules[MDR.__module__]).splitlines()
    assert file[first - 1].strip() == code[0]  # the number is the file's


def test_a_piece_of_a_module_is_numbered_from_1():
    assert listing(eager, "", '"""').startswith("`mdrlib/mdr/eager.py`, line 1\n")


def test_a_decorated_function_is_in_its_own_file():
    assert listing(MDR._update).startswith("`mdrlib/mdr/module.py`, lines ")


@pytest.mark.parametrize("texts", [("no such line",), ("lerp", "keep =")], ids=["first", "last before first"])
def test_a_piece_that_is_not_there_is_refused(texts):
    with pytest.raises(ValueError, match=r"No line of MDR\._update from line \d+ on contains"):
        listing(MDR._update, *texts)
