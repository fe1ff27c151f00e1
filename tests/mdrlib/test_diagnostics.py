"""The diagnostics on cases with known values, and against loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, skew

from mdrlib.diagnostics import diagnose


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_flat_spectrum_and_a_line():
    axes = torch.cat((torch.eye(16), -torch.eye(16))) + 5  # the mean does not count
    flat = diagnose(axes, torch.arange(32) % 16)
    assert flat["effective_rank"] == pytest.approx(16)
    assert flat["spectral_decay"] == pytest.approx(0, abs=1e-6)
    line = diagnose(torch.linspace(-1, 1, 32)[:, None] * torch.ones(16), torch.arange(32) % 16)
    assert line["effective_rank"] == pytest.approx(1, abs=1e-4)


def test_the_spectrum_equals_scipy():
    x = random(200, 12) * torch.linspace(0.2, 3, 12)
    values = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False)
    found = diagnose(x, torch.arange(200) % 7)
    assert found["effective_rank"] == pytest.approx(math.exp(entropy(values)), rel=1e-6)
    assert found["spectral_decay"] == pytest.approx(entropy(np.ones(12), values), rel=1e-6)


def test_fewer_embeddings_than_dimensions():
    found = diagnose(random(20, 64), torch.arange(20) % 4)
    assert 1 < found["effective_rank"] <= 19 and math.isfinite(found["spectral_decay"])


def test_distances_on_the_sphere_and_between_classes_equal_loops():
    x, labels = random(60, 5), torch.arange(60) % 7
    labels[0] = 9  # a class of one image has no positive pair
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    positive, every = [], []
    for i in range(60):
        for j in range(60):
            if i != j:
                d = np.linalg.norm(unit[i] - unit[j])
                every.append(math.exp(-2 * d * d))
                if labels[i] == labels[j]:
                    positive.append(d * d)
    found = diagnose(x, labels)
    assert found["alignment"] == pytest.approx(np.mean(positive), rel=1e-6)
    assert found["uniformity"] == pytest.approx(math.log(np.mean(every)), rel=1e-6)
    raw = x.double().numpy()
    members = [raw[(labels == c).numpy()] for c in labels.unique()]
    within = [
        np.mean([np.linalg.norm(a - b) for i, a in enumerate(own) for j, b in enumerate(own) if i != j])
        for own in members
        if len(own) > 1
    ]
    means = [own.mean(0) for own in members]
    between = [np.linalg.norm(a - b) for i, a in enumerate(means) for j, b in enumerate(means) if i != j]
    assert found["intra_inter"] == pytest.approx(np.mean(within) / np.mean(between), rel=1e-6)


def test_collapsed_classes_have_no_width():
    centres = random(6, 8)
    found = diagnose(centres.repeat_interleave(5, 0), torch.arange(6).repeat_interleave(5))
    assert found["intra_inter"] == pytest.approx(0, abs=1e-6)
    assert found["alignment"] == pytest.approx(0, abs=1e-6)


def test_hubs():
    # On a circle every point is equally often a neighbour; random points of many dimensions have hubs.
    angle = torch.arange(40) * (2 * math.pi / 40)
    circle = diagnose(torch.stack((angle.cos(), angle.sin()), 1), torch.arange(40) % 5)
    assert abs(circle["hub_skewness"]) < 0.5
    x = random(400, 100)
    d = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    often = np.bincount(d.topk(10, largest=False).indices.flatten().numpy(), minlength=400)
    found = diagnose(x, torch.arange(400) % 5)["hub_skewness"]
    assert found == pytest.approx(skew(often), rel=1e-6) and found > 1


def test_too_few_embeddings_are_refused():
    with pytest.raises(ValueError, match="12"):
        diagnose(random(11, 3), torch.arange(11) % 2)
