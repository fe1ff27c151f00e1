"""The recipes of the benchmarks: their numbers are the authors', and each runs on a miniature of its set."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import execute
import runs
from mdrlib.__main__ import main
from mdrlib.config_file import read_config
from mdrlib.datasets import PKBatchSampler
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.experiment import Config, run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book/experiments/recipes"
RECIPES = runs.recipes(ROOT)
# The table of the authors' recipe, from README.md and run.py of github.com/kakaoenterprise/AAAI2021_MDR.
TABLE = {
    "cub": {"batch_size": 128, "per_class": 4, "lr": 5e-5, "recall_at": (1, 2, 4, 8)},
    "cars": {"batch_size": 128, "per_class": 4, "lr": 5e-5, "recall_at": (1, 2, 4, 8)},
    "sop": {"batch_size": 256, "per_class": 3, "lr": 1e-4, "recall_at": (1, 10, 100, 1000)},
    "inshop": {"batch_size": 256, "per_class": 3, "lr": 1e-4, "recall_at": (1, 10, 20, 30, 40)},
}
LAMBDA = {"cub": 0.6, "cars": 0.2, "sop": 0.1, "inshop": 0.1}
ALL = {
    "backbone": "bn_inception",
    "pretrained": True,
    "dim": 512,
    "pooling": "average",
    "image_size": 224,
    "freeze_batch_norm": True,
    "iterations": 100 * 100,
    "lr_steps": (4000, 6000, 8000),
    "lr_decay": 0.2,
    "weight_decay": 1e-5,
    "margin": 0.2,
    "augment": True,
    "evaluate_every": 100,
    "select_by_test": True,
    "validation": 0.0,
}
MDR = {
    "level_weight": 0.01,
    "levels": (-3.0, 0.0, 3.0),
    "learn_levels": True,
    "momentum": 0.9,
    "diagonal_in_stats": True,
}
METHODS = ("triplet", "triplet+l2", "triplet+mdr")
THEIRS = {f"{name}-{method.replace('+', '-')}": (name, method) for name in TABLE for method in METHODS}
OURS = {
    "resnet50-triplet": ("resnet50", "triplet"),
    "resnet50-triplet-mdr": ("resnet50", "triplet+mdr"),
    "vit-triplet-mdr": ("timm:vit_small_patch16_224.dino", "triplet+mdr"),
}
# What a miniature of 5 classes with 4 images and a machine without weights need.
SMALL = {
    "iterations": 2,
    "evaluate_every": 2,
    "batch_size": 8,
    "per_class": 4,
    "image_size": 64,
    "pretrained": False,
    "workers": 0,
    "cache_images": False,
    "device": "cpu",
}


def test_there_are_twelve_of_the_authors_and_three_of_ours_a_set():
    assert set(RECIPES) == set(THEIRS) | {f"{name}-{kind}" for name in TABLE for kind in OURS}


@pytest.mark.parametrize("name", THEIRS)
def test_a_recipe_of_the_authors_has_every_number_of_theirs_and_no_other(name):
    dataset, method = THEIRS[name]
    wanted = {"dataset": dataset, "method": method, "seed": 0} | ALL | TABLE[dataset]
    if method == "triplet+mdr":
        wanted |= MDR | {"mdr_weight": LAMBDA[dataset]}
    written = {k: tuple(v) if isinstance(v, list) else v for k, v in RECIPES[name].items()}
    assert written == wanted
    assert {key: type(value) for key, value in written.items()} == {k: type(v) for k, v in wanted.items()}
    head = (FOLDER / f"{name}.yml").read_text()
    assert "github.com/kakaoenterprise/AAAI2021_MDR" in head and f"ONLY={name}`" in head


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("dataset", TABLE)
def test_a_recipe_of_ours_says_so_and_agrees_with_its_set(dataset, kind):
    path = FOLDER / f"{dataset}-{kind}.yml"
    assert "OURS, NOT THE AUTHORS', AND NOT RUN YET" in path.read_text()
    config = read_config(str(path), [])
    assert (config.backbone, config.method) == OURS[kind]
    assert config.dataset == dataset and config.bf16
    batch = {key: value for key, value in TABLE[dataset].items() if key != "lr"}
    batch |= {key: ALL[key] for key in ("dim", "iterations", "lr_steps", "margin", "pretrained", "augment")}
    assert {key: getattr(config, key) for key in batch} == batch
    if config.method == "triplet+mdr":
        assert config.mdr_weight == LAMBDA[dataset]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_alike_from_a_shell_and_in_a_run(name):
    """A 1e-5 would be text to ci/runs.py, which reads with yaml alone, and a number to `python -m mdrlib`."""
    assert read_config(str(FOLDER / f"{name}.yml"), []) == Config.of(RECIPES[name])
    changed = read_config(str(FOLDER / f"{name}.yml"), ["select_by_test=false", "validation=0.5"])
    assert changed.validation == 0.5 and not changed.select_by_test
    assert read_config(str(FOLDER / f"{name}.yml"), ["mode=evaluate", "weights=x.pth"]).weights == "x.pth"


@pytest.mark.parametrize("dataset", TABLE)
def test_a_batch_of_the_recipe_can_be_drawn_from_its_set(dataset):
    images, classes = BENCHMARKS[dataset].sizes["train"]
    labels = [k % classes for k in range(images)]
    size, per_class = TABLE[dataset]["batch_size"], TABLE[dataset]["per_class"]
    assert len(PKBatchSampler(labels, size, per_class, 1).batch(0)) == size


@pytest.mark.parametrize("name", ["cub-triplet-mdr", "inshop-triplet-mdr"])
def test_it_runs_on_a_miniature_with_the_protocol_of_its_set(name, make_tree, tmp_path):
    dataset, _ = THEIRS[name]
    make_tree(dataset)
    result = run(Config.of(RECIPES[name] | SMALL), tmp_path / "run")
    assert [row["iteration"] for row in result.history] == [0, 2]
    recalls = {f"recall@{k}" for k in TABLE[dataset]["recall_at"]}
    found = {name for name in result.metrics if name.startswith("recall")}
    assert found == recalls and {"r_precision", "map@r"} <= set(result.metrics)
    assert result.selected_by == "test"
    splits = {"train", "query", "gallery"} if dataset == "inshop" else {"train", "test"}
    assert set(result.data) == splits
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.pt", "distances.npz", "embeddings.npz", "history.csv", "result.json"
    ]  # fmt: skip


@pytest.mark.parametrize("dataset", ["sop", "inshop"])
def test_batches_whose_last_class_is_cut_train_too(dataset, make_tree, tmp_path):
    make_tree(dataset)
    small = SMALL | {"per_class": 3, "batch_size": 7 if dataset == "sop" else 5, "backbone": "squeezenet1_1"}
    result = run(Config.of(RECIPES[f"{dataset}-triplet-mdr"] | small), tmp_path / "run")
    assert result.history[-1]["loss"] > 0


@pytest.mark.slow
def test_a_network_of_ours_runs_where_timm_is(make_tree, tmp_path):
    pytest.importorskip("timm")
    make_tree("cub")
    config = Config.of(RECIPES["cub-vit-triplet-mdr"] | SMALL | {"image_size": 224, "iterations": 1})
    assert run(config, tmp_path / "run").selected_by == "last"


@pytest.fixture
def house(make_tree, tmp_path, monkeypatch):
    """A root with a recipe for In-Shop, cut down, the template, and a miniature of the set."""
    make_tree("inshop")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    root = tmp_path / "house"
    for name in ("ci/experiments.yml", "requirements.txt", "book/experiments/train_on_photographs.ipynb"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "mdrlib").symlink_to(ROOT / "mdrlib")
    recipe = RECIPES["inshop-triplet-mdr"] | SMALL | {"backbone": "squeezenet1_1"}
    (root / "book/experiments/recipes").mkdir()
    (root / "book/experiments/recipes/inshop-triplet-mdr.yml").write_text(yaml.safe_dump(recipe))
    return root


@pytest.mark.slow
def test_the_template_runs_a_recipe_and_refuses_its_result_for_other_images(house, tmp_path):
    assert execute.execute(house, "full", dataset="inshop") == []
    folder = house / "_build/runs/full/inshop-triplet-mdr"
    assert json.loads((folder / "result.json").read_text())["config"]["method"] == "triplet+mdr"
    assert {"history.csv", "checkpoint.pt"} <= {path.name for path in folder.iterdir()}

    partition = tmp_path / "Inshop/list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("id_00000001", "id_00000004"))
    images = tmp_path / "Inshop/img/WOMEN/Dresses"
    (images / "id_00000001").rename(images / "id_00000004")
    (failure,) = execute.execute(house, "full", only="inshop-triplet-mdr")
    assert "holds a run on another inshop train" in failure.text
    assert (folder / "result.json").exists()


def test_a_recipe_runs_from_a_shell_and_its_checkpoint_is_evaluated(make_tree, tmp_path, capsys):
    make_tree("cub")
    changes = [
        f"{key}={str(value).lower()}" for key, value in (SMALL | {"backbone": "squeezenet1_1"}).items()
    ]
    recipe = str(FOLDER / "cub-triplet-mdr.yml")
    assert main(["run", recipe, "--out", str(tmp_path / "run"), *changes]) == 0
    trained = json.loads(capsys.readouterr().out.split("\n}")[0] + "}")
    weights = [f"weights={tmp_path / 'run/checkpoint.pt'}", "mode=evaluate"]
    assert main(["run", recipe, "--out", str(tmp_path / "evaluated"), *changes, *weights]) == 0
    assert json.loads(capsys.readouterr().out.split("\n}")[0] + "}") == trained
