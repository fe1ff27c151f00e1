"""Embedding, histograms and the choice of classes against plain loops, and what Evaluation returns."""

import numpy as np
import pytest
import torch
from torch import nn

from mdrlib.datasets import load
from mdrlib.diagnostics import DIAGNOSTICS, diagnose
from mdrlib.evaluation import EDGES, distance_histograms, embed, measure, whole_classes
from mdrlib.retrieval import evaluate

OF_CLASSES = {"class_class", "class_queries", "class_recall@1", "class_map@r"}


def retrieval(metrics):
    return {name: value for name, value in metrics.items() if name not in DIAGNOSTICS}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, seed=0):
    return torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).byte()


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
    model[1].running_mean.fill_(0.3)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_embed_is_in_eval_mode_and_leaves_the_mode_and_the_statistics(training):
    model = network().train(training)
    x = embed(model, images(50), batch_size=7)
    assert model.training == training and all(part.training == training for part in model)
    assert model[1].num_batches_tracked == 0 and not x.requires_grad and x.dtype == torch.float32
    scaled = (images(50).double() / 255).flatten(1).float()
    expected = model[3]((scaled - 0.3) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embed(model, images(50)), x)


def test_a_frozen_layer_stays_frozen():
    from mdrlib.models import build_embedder

    model = build_embedder("small", 4, freeze_batch_norm=True).train()
    embed(model, torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    assert model.training and not model.backbone.layers[1].training


def test_histograms_equal_numpy():
    x, labels = random(60, 5), torch.arange(60) % 7
    x[:10] *= 40  # far beyond the last edge
    same, other = [], []
    for i in range(60):
        for j in range(i):
            d = np.linalg.norm(x[i].double().numpy() - x[j].double().numpy())
            (same if labels[i] == labels[j] else other).append(d)
    every = np.array(same + other)
    edges = np.linspace(-6, 6, 121)
    found = distance_histograms(x, labels)
    for part, counts in zip((same, other), found, strict=True):
        z = ((np.array(part) - every.mean()) / every.std(ddof=1)).clip(-6, 6)
        expected = np.histogram(z, edges)[0]
        assert counts.dtype == torch.int64 and counts.sum() == len(part)
        # Rounding may move a pair over an edge, so that two bins differ by one.
        assert np.abs(counts.numpy().cumsum() - expected.cumsum()).max() <= 1
    np.testing.assert_allclose(EDGES, edges, atol=1e-6)


def test_what_lies_beyond_the_edges_is_counted_in_the_end_bins():
    x = torch.zeros(100, 1)
    x[99] = 1.0  # 99 of 4,950 distances, 7 standard deviations above the mean
    positive, negative = distance_histograms(x, torch.zeros(100, dtype=torch.int64))
    assert positive[-1] == 99 and positive.sum() == 4950 and negative.sum() == 0


def test_collapsed_embeddings_have_histograms_too():
    positive, negative = distance_histograms(torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert positive.sum() == 6 and negative.sum() == 9
    assert positive[59:61].sum() == 6, "no spread is z = 0"


def test_whole_classes_are_all_or_evenly_spaced():
    labels = torch.arange(100).repeat(20)
    assert whole_classes(labels, 2000).tolist() == list(range(2000))
    chosen = whole_classes(labels, 400)
    classes, counts = labels[chosen].unique(return_counts=True)
    assert (counts == 20).all() and len(classes) == 20 and classes[0] == 0 and classes[-1] == 99
    steps = classes.diff()
    assert steps.min() >= 5 and steps.max() <= 6
    assert labels[whole_classes(labels, 1)].unique().tolist() == [0, 99], "a pair of two classes needs two"


def test_whole_classes_work_with_gaps_between_the_labels():
    names = torch.tensor([3, 4, 50, 51, 52, 90, 91, 97, 98, 99])  # as of classes held out for validation
    labels = names.repeat_interleave(10)
    classes, counts = labels[whole_classes(labels, 40)].unique(return_counts=True)
    assert counts.tolist() == [10] * 4 and classes.tolist() == [3, 51, 91, 99]
    assert len(whole_classes(labels, 100)) == 100
    assert whole_classes(torch.zeros(5, dtype=torch.int64), 2).tolist() == list(range(5))


def test_evaluation_names_metrics_and_histograms_by_split():
    model, labels = network(), torch.arange(20).repeat_interleave(4)
    given = {name: (images(80), labels) for seed, name in enumerate(("train", "test", "validation"))}
    metrics, histograms = measure(model, given)
    names = ["recall@1", "recall@2", "recall@4", "recall@8", "r_precision", "map@r"]
    trained = ["train_recall@1", "train_map@r"]
    assert set(metrics) == {*names, *(f"validation_{name}" for name in names), *trained, *DIAGNOSTICS}
    kinds = {f"{split}_{kind}" for split in given for kind in ("positive", "negative")}
    assert set(histograms) == kinds | OF_CLASSES
    for split, prefix in (("test", ""), ("validation", "validation_")):
        expected = evaluate(embed(model, given[split][0]), labels)
        assert {name: metrics[prefix + name] for name in names} == expected
    own = evaluate(embed(model, given["train"][0]), labels)
    assert [metrics[name] for name in trained] == [own["recall@1"], own["map@r"]]
    assert {name: metrics[name] for name in DIAGNOSTICS} == diagnose(embed(model, given["test"][0]), labels)
    for split, (pictures, _) in given.items():
        expected = distance_histograms(embed(model, pictures), labels)
        for kind, counts in zip(("positive", "negative"), expected, strict=True):
            assert torch.equal(histograms[f"{split}_{kind}"], counts)


def test_evaluation_counts_distances_of_some_classes_and_searches_all(monkeypatch):
    from mdrlib import evaluation

    test = load("digits", "test")
    pictures, labels = test.images[::9, :, ::8, ::8], test.labels[::9]
    monkeypatch.setattr(evaluation.whole_classes, "__defaults__", (40,))
    metrics, histograms = measure(network(), {"test": (pictures, labels)})
    x = embed(network(), pictures)
    assert retrieval(metrics) == evaluate(x, labels)
    some = (labels == 0) | (labels == 4)
    assert torch.equal(histograms["test_negative"], distance_histograms(x[some], labels[some])[1])


def test_the_test_split_is_searched_in_the_gallery_where_there_is_one():
    model, labels = network(), torch.arange(20).repeat_interleave(4)
    query, gallery = (images(80), labels), (images(100, 5), torch.arange(100) % 25)
    metrics, histograms = measure(model, {"test": query, "gallery": gallery}, ks=(1, 10, 50))
    found = [embed(model, part) for part, _ in (query, gallery)]
    expected = evaluate(found[0], labels, found[1], gallery[1], ks=(1, 10, 50), per_class=True)
    for name, values in expected.pop("per_class").items():
        assert histograms[f"class_{name}"].equal(values)
    assert retrieval(metrics) == expected
    assert set(histograms) == {"test_positive", "test_negative"} | OF_CLASSES


def test_a_test_set_too_small_for_diagnostics_has_metrics_without_them():
    metrics, _ = measure(network(), {"test": (images(8), torch.arange(8) % 2)})
    assert metrics == retrieval(metrics) and "map@r" in metrics


def test_embed_takes_batches_too():
    model = network()
    parts = list(images(50).split([20, 29, 1]))
    torch.testing.assert_close(embed(model, parts), embed(model, images(50)))


class TwoParts(nn.Module):
    """A backbone of 16 pixels -> 5 features, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
        self.linear = nn.Linear(5, 3)
        self.passes = 0

    def forward(self, pictures):
        self.passes += len(pictures)
        return self.linear(self.backbone(pictures))


@pytest.mark.parametrize("with_gallery", [False, True])
def test_features_are_measured_as_they_are_and_with_unit_length_in_the_same_passes(with_gallery):
    model, labels = TwoParts(), torch.arange(20).repeat_interleave(4)
    given = {"test": (images(80), labels), "train": (images(40, 2), labels[:40])}
    if with_gallery:
        given["gallery"] = images(100, 5), torch.arange(100) % 25
    plain, histograms = measure(model, given, ks=(1, 4))
    once, model.passes = model.passes, 0
    metrics, same = measure(model, given, ks=(1, 4), features=True)
    assert model.passes == once and all(torch.equal(same[name], histograms[name]) for name in same)
    assert {name: metrics[name] for name in plain} == plain
    found = {name: model.backbone(part.float() / 255).detach() for name, (part, _) in given.items()}
    for prefix, change in (
        ("features_", lambda x: x),
        ("features_l2_", lambda x: x / x.norm(dim=1)[:, None]),
    ):
        searched = (change(found["gallery"]), given["gallery"][1]) if with_gallery else (None, None)
        for name, value in evaluate(change(found["test"]), labels, *searched, ks=(1, 4)).items():
            assert metrics.pop(prefix + name) == pytest.approx(value, abs=0.02), (
                "rounding may swap neighbours"
            )
    assert metrics == plain
    assert not model.backbone._forward_hooks
