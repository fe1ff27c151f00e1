"""Configs from files and changes: what YAML may say, several values of a key, and one line for the rest."""

import json
import re
import time

import pytest
import yaml

from mdrlib.config import Config
from mdrlib.config_file import read_config, read_configs


@pytest.fixture
def file(tmp_path):
    """file(text or bytes) -> the path of a config."""

    def write(content):
        path = tmp_path / "config.yml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_without_a_file_the_rest_is_the_default():
    assert read_config(None, []) == Config()
    assert read_configs(None, ["dim=3"]) == {"": Config(dim=3)}


def test_all_combinations_have_names_that_say_them(file):
    found = read_configs(file("dim: 8"), ["method=triplet,triplet+l2", "lr=1e-2", "seed=0,1,1"])
    assert list(found) == [
        "method=triplet-seed=0",
        "method=triplet-seed=1",
        "method=triplet+l2-seed=0",
        "method=triplet+l2-seed=1",
    ]
    assert found["method=triplet+l2-seed=1"] == Config(method="triplet+l2", seed=1, lr=0.01, dim=8)
    with pytest.raises(ValueError, match="expected one run, got 4"):
        read_config(None, ["seed=0,1", "dim=3,4"])


@pytest.mark.parametrize(
    "change, name, values",
    [
        ("levels=[-1,1]", "levels", [(-1.0, 1.0)]),
        ("levels=[-1,1],[0]", "levels", [(-1.0, 1.0), (0.0,)]),
        ("levels=[-1, 1] , [0]", "levels", [(-1.0, 1.0), (0.0,)]),
        ("data_root='a,b',c", "data_root", ["a,b", "c"]),
        ("data_root='a,b'", "data_root", ["a,b"]),
        ("backbone=timm:resnet18,timm:vit_tiny", "backbone", ["timm:resnet18", "timm:vit_tiny"]),
        ("weights=", "weights", [None]),
        ("level_lr=,1e-2", "level_lr", None),
        ("level_lr=~,1e-2", "level_lr", [None, 0.01]),
        ("bf16=true,false", "bf16", [True, False]),
    ],
)
def test_commas_in_brackets_and_quotes_belong_to_a_value(change, name, values):
    if values is None:
        with pytest.raises(ValueError, match=f"'{change}' cannot be read"):
            read_configs(None, [change])
    else:
        assert [getattr(config, name) for config in read_configs(None, [change]).values()] == values


def test_names_are_folders_whatever_the_values_are():
    paths = ["/a/b.pt", "a b.pt", "a_b.pt", "../" * 80 + "x", "../" * 80 + "y"]
    found = read_configs(None, ["weights=" + ",".join(f"'{path}'" for path in paths), "levels=[-1,0],[1]"])
    assert [config.weights for config in found.values()] == [path for path in paths for _ in range(2)]
    assert len({name.lower() for name in found}) == 10 and "weights=a_b.pt-levels=-1,0" in found
    assert all("/" not in name and 0 < len(name) < 120 for name in found)


REFUSED = {
    "seed: 010": "seed must be int, got '010'",
    "lr: 1:30": "lr must be float, got '1:30'",
    "dim: 0x10": "dim must be int, got '0x10'",
    "dim: 1_000": "dim must be int, got '1_000'",
    "seed: 4294967296": "seed must be at least 0 and below 4294967296",
    "lr_steps: [-1, 0]": r"lr_steps must be at least 1, got \(-1, 0\)",
    "dim: 4\nlr: 1\ndim: 8": """key 'dim' appears twice in ".*config.yml", line 3, column 1""",
    '{"dim": 4, "dim": 8}': "key 'dim' appears twice",
    "dim: &a 3\nseed: *a": "write the value instead of",
    "seed: " + "9" * 5000: "seed must be int, got '999",
    "levels: " + "[" * 5000: "too many lists in lists",
    "dim: " + "{a: " * 5000: "too many lists in lists",
    "dataset: caf\u00e9".encode("latin-1"): "config.yml is not text in UTF-8",
    b"dim: \x00": "config.yml is not text in UTF-8",
    b"dataset: " + b"x" * 20_000_000: "config.yml has 20000009 bytes, expected at most 1000000",
    b"mode: " + b"x" * 900_000: "mode must be one of .* got 'xxx",
    b"{" + b",".join(b"key%d: 1" % k for k in range(50_000)) + b"}": "unknown Config keys",
    "? [dim]\n: 3": "unhashable key",
    "dim: !!python/object/apply:os.getcwd []": "could not determine a constructor",
    "seed: 2020-01-01": "seed must be int, got datetime.date",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: content[:20])
def test_what_yaml_may_not_say_is_refused_shortly_by_file_or_field(file, content):
    path = file(content)
    with pytest.raises((ValueError, TypeError, yaml.YAMLError)) as caught:
        read_config(path)
    text = " ".join(str(caught.value).split())
    assert re.search(REFUSED[content], text) and len(text) < 1500, text


def test_a_bomb_of_aliases_is_refused_at_once(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    path, began = file("\n".join(lines)), time.process_time()
    with pytest.raises(yaml.YAMLError, match="write the value instead of"):
        read_config(path)
    assert time.process_time() - began < 10, "it took 45 s"


@pytest.mark.parametrize(
    "text, value", [("1e-3", 1e-3), ("5E-5", 5e-5), ("2", 2), (".5", 0.5), ("+1.5e2", 150)]
)
def test_numbers_are_decimal(file, text, value):
    assert read_config(file(f"lr: {text}")).lr == read_config(None, [f"lr={text}"]).lr == value
    assert json.loads(json.dumps(read_config(None, ["seed=0"]).to_dict()))["seed"] == 0


@pytest.mark.parametrize("change", ["dim=[1", "seed=0,,1", "lr={a", "dim=*x"])
def test_a_change_that_is_no_yaml_is_shown(change):
    with pytest.raises(ValueError, match=f"'{change[:3]}.* cannot be read"):
        read_configs(None, [change])
