"""BN-Inception against figures that the authors' own code gave, stored in tests/reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mdrlib.models import build_embedder
from mdrlib.models.bn_inception import BNInception

REFERENCE = Path(__file__).parents[2] / "reference"
FEATURES = json.loads((REFERENCE / "bn_inception_features.json").read_text())
SHAPES = json.loads((REFERENCE / "bn_inception_state_dict.json").read_text())


def fill(shape, a, b):
    k = np.arange(math.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(a * k + b).astype(np.float32)).reshape(shape)


def published_weights():
    """Tensors by the formula of the reference file, in its order."""
    state = {}
    for i, (key, shape) in enumerate(SHAPES.items()):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        f = fill(shape, 0.37 + 0.01 * (i % 7), 0.11 * i)
        if key.endswith("running_var"):
            state[key] = 1 + 0.5 * f
        elif key.endswith("running_mean") or (len(shape) == 1 and not key.endswith("weight")):
            state[key] = 0.1 * f
        elif len(shape) == 1:
            state[key] = 1 + 0.1 * f
        else:
            state[key] = f * 1.4 * math.sqrt(2 / math.prod(shape[1:]))
    return state


@pytest.fixture(scope="module")
def network():
    network = BNInception().eval()
    network.load_state_dict(published_weights(), strict=False)  # without the classifier
    return network


def close_to_the_reference(features):
    wanted = torch.tensor(FEATURES["expected"]["pooled_first8"])
    torch.testing.assert_close(features[:, :8], wanted, rtol=1e-3, atol=1e-6)
    assert features.mean().item() == pytest.approx(FEATURES["expected"]["mean"], rel=1e-3)
    assert features.std(correction=0).item() == pytest.approx(FEATURES["expected"]["std"], rel=1e-3)
    return True


def test_keys_shapes_and_their_order(network):
    own = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    assert own == [(key, shape) for key, shape in SHAPES.items() if "last_linear" not in key]
    head = sum(math.prod(shape) for key, shape in SHAPES.items() if "last_linear" in key)
    count = sum(p.numel() for p in network.parameters())
    assert count + head == FEATURES["parameters_total_with_1000_way_head"]


@torch.no_grad()
def test_features(network):
    x = 128 * fill((2, 3, 224, 224), 0.013, 0.5)
    maps = network.maps(x)
    assert maps.shape == (2, 1024, 7, 7)
    features = maps.double().mean((2, 3)).float()
    assert close_to_the_reference(features)
    torch.testing.assert_close(network(x), features)


@torch.no_grad()
def test_an_embedder_normalizes_images_itself(tmp_path):
    torch.save(published_weights(), tmp_path / "imagenet.pth")
    model = build_embedder("bn_inception", 4, weights=tmp_path / "imagenet.pth").eval()
    raw = 128 * fill((2, 3, 224, 224), 0.013, 0.5)  # what the network itself takes: B, G, R less their mean
    blue, green, red = ((raw[:, i] + mean) / 255 for i, mean in enumerate((104, 117, 128)))
    images = torch.stack([red, green, blue], 1)
    torch.testing.assert_close(model.backbone.prepare(images), raw, rtol=1e-5, atol=1e-3)
    features = model.backbone(images)
    assert features.shape == (2, 1024) and close_to_the_reference(features)
    torch.testing.assert_close(model(images), features @ model.linear.weight.T + model.linear.bias)


def test_normalization_by_hand():
    prepare = build_embedder("bn_inception").backbone.prepare
    red = torch.zeros(1, 3, 1, 2)
    red[:, 0, :, 1] = 1.0
    wanted = [[[-104.0, -104.0]], [[-117.0, -117.0]], [[-128.0, 127.0]]]
    np.testing.assert_allclose(prepare(red)[0], wanted)
    np.testing.assert_allclose(prepare(torch.ones(1, 1, 1, 1))[0].flatten(), [151, 138, 127])  # grey


def test_gradients_reach_every_parameter_and_frozen_batch_norm_stays():
    torch.manual_seed(0)
    model = build_embedder("bn_inception", 8, "mean-distance", freeze_batch_norm=True)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    (model(torch.rand(3, 3, 64, 64)) * torch.randn(3, 8)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all((p.grad != 0).any() for name, p in model.named_parameters() if name != "linear.bias")
    after = model.state_dict()
    assert len(before) == 2 * 69 and all(torch.equal(value, after[key]) for key, value in before.items())


@torch.no_grad()
def test_the_sum_of_both_poolings(network):
    x = 128 * fill((1, 3, 64, 96), 0.013, 0.5)
    maps = network.maps(x)
    both = build_embedder("bn_inception", pooling="average+max").backbone.network.eval()
    both.load_state_dict(network.state_dict())
    values = maps.numpy()
    np.testing.assert_allclose(both(x), values.mean((2, 3)) + values.max((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", ((44, 64), (64, 52)))
def test_sides_that_do_not_halve_are_refused(size):
    with pytest.raises(ValueError, match=rf"multiples of 32, got images \(1, 3, {size[0]}, {size[1]}\)"):
        BNInception().eval()(torch.zeros(1, 3, *size))
