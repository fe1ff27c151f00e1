"""Read Configs from a YAML or JSON file, with changes such as seed=0,1,2 from the command line."""

import os
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import yaml

from mdrlib import checks
from mdrlib.config import Config

LARGEST = 1_000_000  # bytes of a config file
NAME = 100  # characters of a run's name
INT = r"[-+]?(0|[1-9]\d{0,17})$"
FLOAT = r"([-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are decimal, without aliases, and with each key once.

    YAML 1.1 takes 010 for 8, 1:30 for 90 and 1e-3 for text. Here 010 and 1:30 are text, 1e-3 is a number.
    """

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if not tag.endswith((":int", ":float"))]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):  # nine lines of them can stand for gigabytes
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(problem="write the value instead of *", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"the key {checks.shown(key.value)} appears twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(INT), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(FLOAT), list("-+.0123456789"))


def read_config(path: str | None, changes: Sequence[str] = ()) -> Config:
    """Read one Config, as `read_configs` does; ValueError if the changes give several."""
    found = read_configs(path, changes)
    if len(found) > 1:
        raise ValueError(f"expected one run, got {len(found)} from {list(changes)}: give each key one value")
    return found.popitem()[1]


def read_configs(path: str | None, changes: Sequence[str] = ()) -> dict[str, Config]:
    """Read a Config for each combination of the changed values, without duplicates.

    Args:
        path: A YAML or JSON file of Config fields; None for the defaults.
        changes: "key=value" or "key=value,value", with values in YAML: "[1,2]" is one value, and a text with
            a comma needs quotes. A later change of the same key wins.

    Returns:
        Name -> Config. A name lists the values of the keys that have several; one Config alone is "".

    Raises:
        TypeError, ValueError: The file or a change cannot be read, or is not a valid Config.
    """
    values = _read(path) if path else {}
    choices = dict(_choices(change) for change in changes)
    several = [key for key in choices if len(choices[key]) > 1]
    found: dict[str, Config] = {}
    for combination in product(*choices.values()):
        changed = dict(zip(choices, combination, strict=True))
        config = Config.of(values | changed)
        text = "-".join(f"{key}={changed[key]}" for key in several)
        name = re.sub(r"[^\w.,+=-]+", "_", re.sub(r"[\[\] ]", "", text))[:NAME]
        if config not in found.values():
            found[f"{name}-{len(found)}" if name in found else name] = config
    return found


def _read(path: str) -> dict[Any, Any]:
    with open(checks.path(path), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise ValueError(f"{path} has {size} bytes, expected at most {LARGEST}: give a config file")
        try:
            values = yaml.load(file, _Loader) or {}
        except yaml.reader.ReaderError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}): save it as UTF-8") from error
        except RecursionError as error:
            raise ValueError(f"{path} has too many lists in lists: a field takes one") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of Config fields, got {type(values).__name__}")
    return values


def _choices(change: str) -> tuple[str, list[Any]]:
    key, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"a change must be key=value, got {checks.shown(change)}")
    try:
        return key, yaml.load(f"[{text}]", _Loader) if "," in text else [yaml.load(text, _Loader)]
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{checks.shown(change)} cannot be read: {error}") from error
