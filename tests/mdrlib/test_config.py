"""Config: types, limits, what is stored of it, and that all stored runs still have one."""

import json
from dataclasses import FrozenInstanceError, fields
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mdrlib.config import LATER, PLACE, Config
from mdrlib.results import load_committed

ROOT = Path(__file__).resolve().parents[2]
FIRST = "d68393b436133634c613fe24ca79ecd14a995eb604b59749b0b64bde8d454c2d"  # of Config()
LISTS = [path for path in (ROOT / "data/results").glob("*.json") if not path.stem.startswith("bench-")]


def test_config_is_frozen_and_takes_lists_and_whole_numbers():
    config = Config(lr_steps=[10, 20], levels=[-1, 2], lr=1, data_root=Path("sets"))
    assert config.lr_steps == (10, 20) and config.levels == (-1.0, 2.0) and config.lr == 1.0
    assert type(config.lr) is float and type(config.levels[0]) is float and config.data_root == "sets"
    assert config == Config.of(config.to_dict()) and hash(config) == hash(Config.of(config.to_dict()))
    with pytest.raises(FrozenInstanceError):
        config.lr = 2.0


def test_fields_have_the_names_and_values_that_the_recipes_use():
    names = """
    dataset method backbone dim seed iterations batch_size per_class lr lr_steps weight_decay margin
    mdr_weight level_weight levels momentum learn_levels freeze_batch_norm validation device data_root
    """
    assert set(names.split()) <= {field.name for field in fields(Config)}
    config = Config()
    assert config.levels == (-3.0, 0.0, 3.0) and config.level_weight == 0.01 and config.momentum == 0.9
    assert config.margin == 0.2 and config.weight_decay == 1e-5 and config.per_class == 4


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_stored_run_has_a_config_and_the_identity_of_what_it_was(path):
    runs = load_committed(path)
    assert runs
    for run in runs:
        config = Config.of(run.config)
        complete = config.to_dict()
        assert {k: complete[k] for k in run.config} == run.config, "what is stored keeps its meaning"
        missing = complete.keys() - run.config.keys()
        assert {k: complete[k] for k in missing} == {k: Config().to_dict()[k] for k in missing}
        assert Config.of(complete).identity() == config.identity()


def test_identity_is_all_but_the_place():
    config = Config(weights="here/model.pt", seed=3)
    assert json.loads(config.identity()).keys() == config.to_dict().keys() - {*PLACE, *LATER}
    moved = Config(
        weights="there/model.pt", seed=3, device="cpu", data_root="x", workers=2, cache_images=False
    )
    assert moved.identity() == config.identity() != Config(weights="here/model.pt", seed=4).identity()
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_a_later_field_counts_only_where_it_is_not_the_default():
    plain = Config()
    assert sha256(plain.identity().encode()).hexdigest() == FIRST, "as when the first runs were stored"
    assert Config(level_lr=1e-3).identity() != plain.identity()
    assert Config.of(plain.to_dict()) == plain and Config.of(Config(level_lr=1).to_dict()).level_lr == 1.0


def test_scalars_and_arrays_of_numpy_are_numbers():
    given = {
        "dim": np.int64(8),
        "lr": np.float64(0.5),
        "augment": np.bool_(False),
        "level_lr": np.float32(0.5),
    }
    config = Config(levels=np.array([-1, 2]), lr_steps=[np.int32(3)], **given)
    assert config == Config(dim=8, lr=0.5, augment=False, level_lr=0.5, levels=(-1, 2), lr_steps=(3,))
    assert {type(config.dim), type(config.lr_steps[0])} == {int} and json.dumps(config.to_dict())
    with pytest.raises(TypeError, match="dim must be int"):
        Config(dim=np.float64(8))
    with pytest.raises(TypeError, match="lr must be float"):
        Config(lr=np.bool_(True))


@pytest.mark.parametrize("values", ["x", None, [("dim", 3)], 3])
def test_a_config_is_made_of_a_mapping(values):
    with pytest.raises(TypeError, match="a Config needs a mapping of its fields, got"):
        Config.of(values)


@pytest.mark.parametrize(
    "field", ["method", "lr", "level_lr", "lr_steps", "seed", "mode", "device", "augment"]
)
def test_a_huge_value_makes_a_short_error(field):
    for value in (10**5000, [[0] * 10**5] * 10**3, dict.fromkeys(range(10**5)), "x" * 10**6):
        if (field, type(value)) != ("device", str):  # a text is looked at where the device is chosen
            with pytest.raises((TypeError, ValueError), match=f"{field} must be ") as caught:
                Config(**{field: value})
            assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="unknown Config keys") as caught:
        Config.of({"x" * 10**6: 1} | dict.fromkeys(range(10**5)))
    assert len(str(caught.value)) < 1500


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"keys \[1, 'learning_rate'\]; known are \['dataset', 'method', "):
        Config.of({"learning_rate": 1, "dim": 8, 1: 2})
    with pytest.raises(TypeError, match="learning_rate"):
        Config(learning_rate=1)


@pytest.mark.parametrize(
    "method, parts",
    [
        ("triplet", ("triplet", "mean-distance", False)),
        ("triplet+l2", ("triplet", "l2", False)),
        ("proxy-nca+mdr", ("proxy-nca", "l2", True)),
        ("margin+l2+mdr", ("margin", "l2", True)),
    ],
)
def test_the_method_says_loss_head_and_regularizer(method, parts):
    config = Config(method=method)
    assert (config.loss, config.normalize, config.with_mdr) == parts
    assert Config(method=method, head="none").normalize == "none"


WRONG_TYPES = {
    "dim seed iterations batch_size image_size workers train_classes": (1.0, "4", None, True),
    "lr proxy_lr margin pair_margin momentum validation label_noise": ("0.1", None, False),
    "learn_levels augment freeze_batch_norm pretrained compile bf16 channels_last": (1, "yes", None),
    "dataset method backbone device head miner mdr_backend": (1, None, ["a"]),
    "weights data_root": (1, True, ["a"]),
    "lr_steps recall_at": (10, [1.5], ["1"], [True], None, "12"),
    "level_lr": ("0.1", True, [1.0]),
    "levels": (1.0, ["a"], [None], [False], None, "12"),
}
OUT_OF_RANGE = {
    "iterations batch_size per_class evaluate_every": (0, -1),
    "dim": (-1,),
    "image_size": (31,),
    "workers held_out_group": (-2,),
    "memory_bank train_classes": (-1,),
    "recall_at": ([], [0, 1], [2, 4]),
    "mode pooling head miner": ("no such",),
    "per_class": (1,),
    "batch_size": (3,),
    "seed": (-1, 2**32),
    "dim image_size": (10**9,),
    "lr_steps": ([-1, 0], [5, 0]),
    "lr lr_decay level_lr proxy_lr weight_decay margin pair_margin mdr_weight level_weight": (
        -1e-9,
        float("nan"),
        float("inf"),
        10**400,
    ),
    "momentum validation label_noise": (1, -0.1, float("nan")),
    "levels": ([], [float("nan")], [float("inf"), 0]),
    "method": ("mdr", "triplet+mdr+l2"),
}


@pytest.mark.parametrize("cases, error", [(WRONG_TYPES, TypeError), (OUT_OF_RANGE, ValueError)])
def test_other_types_and_values_out_of_range_are_refused_by_name(cases, error):
    for names, values in cases.items():
        for name in names.split():
            for value in values:
                with pytest.raises(error, match=f"{name} must be "):
                    Config(**{name: value})


def test_fields_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="may select the result, got validation and select_by_test"):
        Config(select_by_test=True, validation=0.5)
    with pytest.raises(ValueError, match="may select the result, got validation and held_out_group"):
        Config(held_out_group=0, validation=0.5)
    with pytest.raises(ValueError, match="cub has photographs, which the backbone"):
        Config(dataset="cub")
