"""The package from outside: what it imports, and the names that are fixed."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import mdrlib
from mdrlib import datasets, losses, miners, models, retrieval

PACKAGE = Path(mdrlib.__file__).parent
OPTIONAL = "triton torchvision timm pytorch_metric_learning faiss matplotlib IPython sklearn scipy PIL pandas"


def test_importing_needs_torch_numpy_tqdm_and_pyyaml_alone():
    names = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    names = [".".join(parts).removesuffix(".__init__") for parts in names]
    for name in ("mdrlib.differences", "mdrlib.mdr.triton_kernels", "mdrlib.mdr.triton_small"):
        names.remove(name)  # loaded when it is launched
    code = (
        f"import importlib, sys; sys.modules.update(dict.fromkeys({OPTIONAL.split()}))\n"
        f"for name in {sorted(names)}: importlib.import_module(name)\n"
    )
    assert {"mdrlib", "mdrlib.trainer", "mdrlib.comparison"} <= set(names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_in_mdrlib_draws():
    for path in PACKAGE.rglob("*"):
        assert path.suffix not in (".js", ".css", ".html")
        assert path.suffix != ".py" or "import matplotlib" not in path.read_text(), path


def parameters(function):
    signature = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in signature if p.name != "self"}


REQUIRED = inspect.Parameter.empty
MINER = {"embeddings": REQUIRED, "labels": REQUIRED, "generator": None}


@pytest.mark.parametrize(
    "function, wanted",
    [
        (mdrlib.pairwise_distances, {"x": REQUIRED, "y": None, "squared": False}),
        (mdrlib.normalize_by_mean_distance, {"x": REQUIRED}),
        (
            mdrlib.mdr_loss,
            {"x": REQUIRED, "levels": REQUIRED, "mean": REQUIRED, "std": REQUIRED, "backend": "auto"},
        ),
        (
            mdrlib.MDR,
            {
                "levels": (-3.0, 0.0, 3.0),
                "momentum": 0.9,
                "learn_levels": True,
                "diagonal_in_stats": False,
                "backend": "auto",
            },
        ),
        (mdrlib.MDR.assign, {"x": REQUIRED}),
        (mdrlib.MDR.level_penalty, {}),
        (miners.all_triplets, MINER),
        (miners.random_negatives, MINER),
        (miners.hard_negatives, MINER),
        (miners.semihard_negatives, MINER),
        (miners.distance_weighted, MINER),
        (losses.TripletLoss, {"margin": 0.2, "miner": miners.distance_weighted}),
        (losses.TripletLoss.forward, {"embeddings": REQUIRED, "labels": REQUIRED}),
        (datasets.load, {"name": REQUIRED, "split": REQUIRED, "root": None}),
        (
            datasets.PKBatchSampler,
            {
                "labels": REQUIRED,
                "batch_size": REQUIRED,
                "per_class": REQUIRED,
                "iterations": None,
                "seed": 0,
                "rank": None,
                "world_size": None,
            },
        ),
        (
            models.build_embedder,
            {"backbone": "small", "dim": 128, "normalize": "none", "pretrained": False, "weights": None},
        ),
        (retrieval.search, {"query": REQUIRED, "gallery": None, "k": 1}),
        (
            retrieval.evaluate,
            {
                "query": REQUIRED,
                "query_labels": REQUIRED,
                "gallery": None,
                "gallery_labels": None,
                "ks": (1, 2, 4, 8),
            },
        ),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_public_names_keep_their_parameters(function, wanted):
    """In this order and with these defaults; more may follow, if they have one."""
    got = parameters(function)
    assert list(got.items())[: len(wanted)] == list(wanted.items())
    assert REQUIRED not in list(got.values())[len(wanted) :]


def test_mdr_keeps_its_state():
    mdr = mdrlib.MDR()
    assert isinstance(mdr, torch.nn.Module)
    assert set(mdr.state_dict()) == {"levels", "running_mean", "running_std", "initialized"}
    assert mdr.initialized == 0 and mdr.initialized.is_floating_point()  # so that it can be averaged


def test_config_has_its_fields():
    from mdrlib.experiment import Config, run

    fixed = (
        "dataset method backbone dim seed iterations batch_size per_class lr lr_steps weight_decay margin "
        "mdr_weight level_weight levels momentum learn_levels freeze_batch_norm validation device data_root"
    ).split()
    assert set(fixed) <= {field.name for field in fields(Config)}
    assert Config.__dataclass_params__.frozen
    with pytest.raises(TypeError, match="lambda_"):
        Config(lambda_=0.1)
    assert list(parameters(run)) == ["config", "out_dir"]
    for method in ("triplet", "triplet+l2", "triplet+mdr"):
        assert Config(method=method).method == method


def test_what_a_package_exports_is_there():
    for module in (mdrlib, datasets, models):
        assert module.__all__ == sorted(module.__all__, key=lambda name: (not name[0].isupper(), name))
        assert all(hasattr(module, name) for name in module.__all__)
