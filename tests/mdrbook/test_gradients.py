"""The angle between expected gradients, where these are known."""

import math

import pytest
import torch
from torch import nn

from mdrbook.gradients import across, angle, of_batches
from mdrlib import MDR
from mdrlib.models import build_embedder


def noisy(n, cosine, shared, seed, size=40):
    """Gradients of n batches with means of length 1 at a known angle, and much noise, a part of it shared."""
    random = torch.Generator().manual_seed(seed)
    first, second = torch.zeros(size), torch.zeros(size)
    first[0], second[0], second[1] = 1, cosine, math.sqrt(1 - cosine**2)
    same, *own = torch.randn(3, n, size, generator=random)
    return first + 0.5 * own[0] + shared * same, second + 0.5 * own[1] + shared * same


def test_products_across_batches_are_those_of_two_loops():
    g, r = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    mean, without = across(g, r)
    pairs = {(i, j): (g[i] @ r[j]).item() for i in range(5) for j in range(5) if i != j}
    assert mean.item() == pytest.approx(sum(pairs.values()) / 20, rel=1e-5)
    left = [value for (i, j), value in pairs.items() if 3 not in (i, j)]
    assert without[3].item() == pytest.approx(sum(left) / 12, rel=1e-5)


@pytest.mark.parametrize("cosine", [-0.6, 0.0, 0.8])
def test_noise_that_both_losses_share_does_not_bias_and_the_interval_covers(cosine):
    found = [angle(*noisy(60, cosine, 0.5, seed)) for seed in range(200)]
    assert sum(one.cosine for one in found) / 200 == pytest.approx(cosine, abs=0.03)
    assert 180 <= sum(one.low < cosine < one.high for one in found) <= 200
    g, r = noisy(60, cosine, 0.5, 0)
    same_batch = torch.cosine_similarity(g, r, dim=1).mean().item()
    assert same_batch == pytest.approx(0.5, abs=0.15)  # that of the shared noise, whatever the angle


def test_lengths_and_noise_are_those_of_the_expected_gradients():
    found = angle(*noisy(4000, 0.5, 0.0, 1))
    assert found.lengths == pytest.approx((1, 1), abs=0.03)
    assert found.noise == pytest.approx((11, 11), rel=0.06)


def test_a_linear_network_has_the_angle_of_its_mean_gradients():
    """Of (w - a)^T x squared, x normal, the expected gradient by w is 2 (w - a)."""
    network, targets = (
        nn.Linear(6, 1, bias=False),
        torch.randn(2, 6, generator=torch.Generator().manual_seed(2)),
    )
    random = torch.Generator().manual_seed(3)
    images = [torch.randn(16, 6, generator=random) for _ in range(400)]
    drawn = iter([x for x in images for _ in targets])

    def loss(target):
        return lambda y, labels: (y[:, 0] - next(drawn) @ target).square().mean()

    gradients = of_batches(network, [loss(a) for a in targets], [(x, None) for x in images])
    want = [2 * (network.weight[0] - a).detach() for a in targets]
    found = angle(*gradients)
    assert found.low < torch.cosine_similarity(*want, dim=0).item() < found.high
    assert found.high - found.low < 0.1
    assert found.lengths == pytest.approx([v.norm().item() for v in want], rel=0.05)


def test_measuring_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network, mdr = build_embedder("tiny", 8, normalize="mean-distance").eval(), MDR().eval()
    mdr.initialized.fill_(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [(torch.rand(8, 1, 32, 32), torch.arange(8)) for _ in range(3)]
    (found,) = of_batches(network, [lambda x, labels: mdr(x)], batches)
    assert found.shape == (3, sum(p.numel() for p in network.parameters()))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training and all(p.grad is None for p in network.parameters())


def test_too_few_batches_give_nan():
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, -1.0]])
    assert math.isnan(angle(opposed, opposed).cosine)
