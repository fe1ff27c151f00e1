"""Runs on miniatures of the benchmarks: trained, interrupted, evaluated with each set's protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib import checkpoint, experiment
from mdrlib.datasets import load
from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.preprocessing import Preprocessing
from mdrlib.evaluation import embed
from mdrlib.experiment import Config, run
from mdrlib.models import build_embedder
from mdrlib.results import load_run
from mdrlib.retrieval import evaluate

CONFIG = Config(
    dataset="cub",
    backbone="squeezenet1_1",
    dim=8,
    image_size=32,
    batch_size=8,
    iterations=4,
    evaluate_every=2,
    device="cpu",
    workers=0,
    cache_images=False,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays(folder):
    with np.load(folder / "embeddings.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def in_order(files):
    return Photographs(files, torch.arange(len(files)), Preprocessing(32), 0, False, torch.device("cpu"), 3)


def timeless(result):
    timed = ("seconds", "images_per_second", "loader_images_per_second")
    return [{key: value for key, value in row.items() if key not in timed} for row in result.history]


def retrieval(result):
    """The metrics of retrieval on test classes."""
    return {k: v for k, v in result.metrics.items() if k.startswith(("recall@", "r_precision", "map@"))}


@pytest.mark.parametrize("layout", ["cub", "cars", "sop"])
def test_a_run_trains_and_its_metrics_are_of_its_embeddings(make_tree, tmp_path, layout):
    make_tree(layout)
    result = run(replace(CONFIG, dataset=layout, recall_at=[1, 3]), tmp_path / "run")
    assert [row["iteration"] for row in result.history] == [0, 2, 4]
    for row in result.history[1:]:
        assert row["loss"] > 0 and 0 < row["images_per_second"] < row["loader_images_per_second"]
    found, test = arrays(tmp_path / "run"), load(layout, "test")
    model = build_embedder("squeezenet1_1", 8, weights=tmp_path / "run" / "checkpoint.pt")
    expected = embed(model, in_order(test))
    torch.testing.assert_close(found["embeddings"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["labels"], test.labels)
    assert retrieval(result) == evaluate(found["embeddings"], test.labels, ks=(1, 3))
    assert result.data["test"] == {"images": len(test), "fingerprint": test.fingerprint}


@pytest.mark.parametrize("layout", ["inshop", "inshop apart"])
def test_in_shop_is_searched_from_query_to_gallery(make_tree, tmp_path, layout):
    make_tree(layout)
    result = run(replace(CONFIG, dataset="inshop", recall_at=[1, 10, 20]), tmp_path / "run")
    found = arrays(tmp_path / "run")
    query, gallery = (load("inshop", split) for split in ("query", "gallery"))
    assert torch.equal(found["labels"], query.labels)
    assert torch.equal(found["gallery_labels"], gallery.labels)
    given = (found["embeddings"], query.labels, found["gallery_embeddings"], gallery.labels)
    assert retrieval(result) == evaluate(*given, ks=(1, 10, 20))
    assert result.metrics["recall@10"] == 1, "there are 6 images in the gallery"
    d = torch.cdist(given[0].double(), given[2].double())
    assert torch.equal(found["neighbours"], d.argsort(1)[:, :10])
    assert set(result.data) == {"train", "query", "gallery"}


def test_an_interrupted_run_goes_on_with_the_same_bits_whatever_the_workers(make_tree, tmp_path, monkeypatch):
    make_tree("cub")
    expected = run(CONFIG, tmp_path / "whole")
    monkeypatch.setattr(experiment, "SAVE_SECONDS", -1)
    save = checkpoint.save

    def save_and_stop(path, state):
        save(path, state)
        if state["iteration"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_and_stop)
        run(CONFIG, tmp_path / "cut")
    assert checkpoint.load(tmp_path / "cut" / "checkpoint.pt")["iteration"] == 2
    found = run(replace(CONFIG, workers=2, cache_images=True), tmp_path / "cut")
    assert timeless(found) == timeless(expected) and found.metrics == expected.metrics
    assert torch.equal(arrays(tmp_path / "cut")["embeddings"], arrays(tmp_path / "whole")["embeddings"])


def test_augmentation_is_of_photographs_too(make_tree, tmp_path):
    folder = make_tree("cub")
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):  # with something to crop
        noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    runs = [
        run(replace(CONFIG, augment=a, seed=s), tmp_path / f"{a}{s}") for a in (True, False) for s in (0, 1)
    ]
    losses = [result.history[-1]["loss"] for result in runs]
    assert len(set(losses)) == 4
    same = run(replace(CONFIG, augment=False), tmp_path / "again")
    assert same.history[-1]["loss"] == losses[2]


def test_stored_size_aspect_and_crops_are_those_of_the_config(make_tree, tmp_path):
    folder = make_tree("cub")
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        noise = np.random.default_rng(number).integers(0, 256, (18, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    whole = {"crop_scale": [1, 1], "crop_ratio": [1, 1]}
    losses = {}
    for name, changes in {
        "recipe": {},
        "said": {"stored_size": 37, "crop_scale": (0.16, 1), "crop_ratio": (0.75, 1.33)},
        "whole": whole,
        "aspect": whole | {"keep_aspect": True},
        "size": whole | {"stored_size": 64},
        "ratio": {"crop_ratio": [0.5, 0.6]},
    }.items():
        result = run(replace(CONFIG, iterations=1, **changes), tmp_path / name)
        losses[name] = result.history[-1]["loss"]
    assert losses.pop("said") == losses["recipe"], "37 is 32 of 256 / 224"
    assert len(set(losses.values())) == 5


def test_validation_classes_of_photographs_are_held_out(make_tree, tmp_path):
    make_tree("cub")
    with pytest.raises(ValueError, match="validation=0.5 holds out . of 3 classes"):
        run(replace(CONFIG, validation=0.5), tmp_path / "run")
    make_tree("cub", train=(1, 2, 3, 4))
    result = run(replace(CONFIG, validation=0.5), tmp_path / "run")
    assert result.selected_by == "validation"
    scores = [row["validation_recall@1"] for row in result.history]
    assert result.metrics["recall@1"] == result.history[scores.index(max(scores))]["recall@1"]


def test_evaluate_measures_weights_and_trains_nothing(make_tree, tmp_path):
    make_tree("cub")
    trained = run(CONFIG, tmp_path / "trained")
    config = replace(CONFIG, mode="evaluate", weights=tmp_path / "trained" / "checkpoint.pt")
    result = run(config, tmp_path / "evaluated")
    assert result.metrics == trained.metrics and len(result.history) == 1
    names = sorted(path.name for path in (tmp_path / "evaluated").iterdir())
    assert names == ["distances.npz", "embeddings.npz", "history.csv", "result.json"]
    assert result.config["weights"] == "checkpoint.pt" and len(result.data["weights"]["fingerprint"]) == 16
    assert str(tmp_path) not in (tmp_path / "evaluated" / "result.json").read_text()
    assert run(config, tmp_path / "evaluated") == load_run(tmp_path / "evaluated") == result


def test_a_checkpoint_in_the_authors_form_is_evaluated(make_tree, tmp_path):
    make_tree("inshop")
    model = build_embedder("bn_inception", 4)
    state = {k.replace("backbone.network.", "base.model."): v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "authors.pth")
    config = replace(CONFIG, dataset="inshop", backbone="bn_inception", dim=4, mode="evaluate")
    result = run(replace(config, weights=tmp_path / "authors.pth"), tmp_path / "run")
    query = load("inshop", "query")
    x = embed(model, in_order(query))
    torch.testing.assert_close(arrays(tmp_path / "run")["embeddings"], x, rtol=1e-4, atol=1e-4)
    assert 0 <= result.metrics["recall@1"] <= 1


def test_a_missing_set_or_image_ends_a_run_with_what_to_do(make_tree, tmp_path):
    folder = make_tree("cub")
    with pytest.raises(FileNotFoundError, match="Stanford_Online_Products.*python -m mdrlib data sop"):
        run(replace(CONFIG, dataset="sop"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path = next(folder.rglob("Bird_101_0002.jpg"))
    path.write_bytes(path.read_bytes()[:100])
    for workers in (0, 1):
        with pytest.raises(OSError, match="Bird_101_0002.jpg cannot be read as an image"):
            run(replace(CONFIG, workers=workers), tmp_path / "run")


def test_the_small_network_does_not_take_photographs():
    with pytest.raises(ValueError, match='cub has photographs, which the backbone "small" does not take'):
        Config(dataset="cub")


@pytest.mark.parametrize("layout, mode", [("cub", "train"), ("inshop", "evaluate")])
def test_a_run_starts_with_its_features_and_keeps_them_out_of_its_metrics(make_tree, tmp_path, layout, mode):
    make_tree(layout)
    torch.manual_seed(1)
    model = build_embedder("squeezenet1_1", 8)
    torch.save(model.state_dict(), tmp_path / "first.pt")
    given = {"dataset": layout, "mode": mode, "weights": str(tmp_path / "first.pt"), "select_by_test": True}
    result = run(replace(CONFIG, recall_at=[1], **given), tmp_path / "run")
    first, *later = result.history
    names = {
        f"{kind}_{m}" for kind in ("features", "features_l2") for m in ("recall@1", "r_precision", "map@r")
    }
    assert {name for name in first if name.startswith("features")} == names
    assert all("features_recall@1" not in row for row in later)
    assert set(retrieval(result)) == {"recall@1", "r_precision", "map@r"}
    assert not any(name.startswith("features") for name in result.metrics)
    sets = [load(layout, split) for split in (("test",) if layout == "cub" else ("query", "gallery"))]
    features = [embed(model.backbone, in_order(part)) for part in sets]
    for kind in ("features", "features_l2"):
        pairs = sum(([x, part.labels] for x, part in zip(features, sets, strict=True)), [])
        assert first[f"{kind}_recall@1"] == evaluate(*pairs, ks=(1,))["recall@1"]
        features = [torch.nn.functional.normalize(x, dim=1) for x in features]
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert "features_l2_map@r" in rows[0] and len(rows) == len(result.history) + 1


@pytest.mark.parametrize("head", ["none", "l2"])
def test_a_run_without_a_head_trains_the_features(make_tree, tmp_path, head):
    make_tree("cub")
    config = replace(CONFIG, dim=0, head=head, method="proxy-anchor+mdr", memory_bank=16, iterations=2)
    result = run(config, tmp_path / "run")
    assert arrays(tmp_path / "run")["embeddings"].shape[1] == 512
    first = result.history[0]
    assert first["recall@1"] == first["features_l2_recall@1" if head == "l2" else "features_recall@1"]
    with pytest.raises(ValueError, match="dim: 0 there, 8 now"):
        run(replace(config, dim=8), tmp_path / "run")


def test_on_a_cpu_networks_for_photographs_are_channels_last(make_tree, tmp_path, monkeypatch):
    make_tree("cub")
    seen = []

    class Watched(experiment.Trainer):
        def step(self, images, labels):
            weight = self.model.backbone.network.features[0].weight
            seen.extend(x.is_contiguous(memory_format=torch.channels_last) for x in (images, weight))
            super().step(images, labels)

    monkeypatch.setattr(experiment, "Trainer", Watched)
    result = run(replace(CONFIG, iterations=1), tmp_path / "run")
    assert result.config["channels_last"] is False
    # The trainer lays out what it is given, so images arrive in rows.
    assert seen == [False, True]
