"""Each miner against loops over every triplet, and the sampling weights against the density they invert."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode

from mdrlib import miners
from mdrlib.miners import (
    _draw,
    all_triplets,
    distance_weighted,
    distance_weights,
    hard_negatives,
    random_negatives,
    semihard_negatives,
)

MINERS = (all_triplets, random_negatives, hard_negatives, semihard_negatives, distance_weighted)
DRAWING = (random_negatives, distance_weighted)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABELS = torch.tensor([3, -1, 3, 7, -1, 3, 9, 7, 7, 7])  # 9 is alone in its class


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=10, d=4, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64).to(dtype)


def distances(x):
    x = x.double().numpy()
    return [[math.sqrt(((a - b) ** 2).sum()) for b in x] for a in x]


class Watch(TorchDispatchMode):
    largest = 0  # elements of a tensor made in this context

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return out


def positive_pairs(labels):
    y = labels.tolist()
    return [(a, p) for a in range(len(y)) for p in range(len(y)) if a != p and y[a] == y[p]]


def triplets(mined):
    anchor, positive, negative = mined
    return list(zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True))


def weights_oracle(x, labels):
    """Row by row: 1 / q(d) of each negative by its own formula, with Python's exact integers and floats."""
    x, y = x.double().numpy(), labels.tolist()
    n, dimension = x.shape
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    out = np.zeros((n, n))
    for i in range(n):
        negatives = [j for j in range(n) if y[j] != y[i]]
        log_weight = {}
        for j in negatives:
            d = max(0.5, math.sqrt(((unit[i] - unit[j]) ** 2).sum()))
            if d < 1.4:
                q = (dimension - 2) * math.log(d) + (dimension - 3) / 2 * math.log(1 - d * d / 4)
                log_weight[j] = -q
        if not log_weight:
            log_weight = dict.fromkeys(negatives, 0.0)
        top = max(log_weight.values())
        total = math.fsum(math.exp(w - top) for w in log_weight.values())
        for j, w in log_weight.items():
            out[i, j] = math.exp(w - top) / total
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("miner", MINERS)
def test_every_positive_pair_gets_negatives_of_another_class(miner, dtype):
    anchor, positive, negative = mined = miner(batch(dtype=dtype), LABELS, generator=seeded())
    assert all(index.dtype == torch.int64 and index.ndim == 1 for index in mined)
    assert not (LABELS[anchor] == LABELS[negative]).any()
    pairs = list(zip(anchor.tolist(), positive.tolist(), strict=True))
    if miner is all_triplets:
        assert sorted(set(pairs)) == positive_pairs(LABELS)
    else:
        assert sorted(pairs) == positive_pairs(LABELS), "each ordered pair once"


def test_all_triplets_are_all():
    labels = LABELS[torch.randperm(10, generator=seeded())]
    y = labels.tolist()
    want = [(a, p, n) for a, p in positive_pairs(labels) for n in range(10) if y[n] != y[a]]
    got = triplets(all_triplets(batch(), labels))
    assert len(got) == len(want) and set(got) == set(want)


@pytest.mark.parametrize("seed, dtype", list(enumerate(DTYPES)))
def test_hard_negatives_are_the_nearest(seed, dtype):
    x, y = batch(seed=seed, dtype=dtype), LABELS.tolist()
    d = distances(x)
    want = [
        (a, p, min((j for j in range(10) if y[j] != y[a]), key=lambda j, a=a: d[a][j]))
        for a, p in positive_pairs(LABELS)
    ]
    assert sorted(triplets(hard_negatives(x, LABELS))) == want


@pytest.mark.parametrize("seed, dtype", list(enumerate(DTYPES)))
def test_semihard_negatives_are_the_nearest_beyond_the_positive_or_else_the_farthest(seed, dtype):
    x, y = batch(seed=seed, dtype=dtype), LABELS.tolist()
    x[0] *= 3  # an anchor whose positives are beyond some negatives, and a positive beyond all of them
    d = distances(x)
    want, without = [], 0
    for a, p in positive_pairs(LABELS):
        negatives = [j for j in range(10) if y[j] != y[a]]
        farther = [j for j in negatives if d[a][j] > d[a][p]]
        without += not farther
        best = min(farther, key=lambda j: d[a][j]) if farther else max(negatives, key=lambda j: d[a][j])
        want.append((a, p, best))
    assert sorted(triplets(semihard_negatives(x, LABELS))) == want
    assert without < len(want)


def test_semihard_on_a_line():
    x = torch.tensor([[0.0], [2.0], [1.0], [3.0], [2.5]])
    labels = torch.tensor([0, 0, 1, 2, 3])
    # From 0 the positive is at 2: the nearest beyond is at 2.5. From 2, none beyond 2 away: the farthest.
    assert triplets(semihard_negatives(x, labels)) == [(0, 1, 4), (1, 0, 2)]
    assert triplets(hard_negatives(x, labels)) == [(0, 1, 2), (1, 0, 4)]


def test_a_negative_as_far_as_the_positive_is_not_semihard():
    x = torch.tensor([[0.0], [2.0], [-2.0], [-3.0]])
    mined = triplets(semihard_negatives(x, torch.tensor([0, 0, 1, 1])))
    assert (0, 1, 3) in mined


@pytest.mark.parametrize(
    "dimension, spread", [(2, 1.0), (3, 0.3), (4, 3.0), (64, 1.0), (512, 0.3), (2048, 3.0)]
)
def test_distance_weights_equal_the_formula(dimension, spread):
    x = (1.0 + spread * batch(10, dimension, dtype=torch.float64)) * torch.arange(1, 11)[:, None]
    negatives = LABELS[:, None] != LABELS
    want = weights_oracle(x, LABELS)
    np.testing.assert_allclose(distance_weights(x, negatives), want, rtol=1e-9, atol=1e-12)
    single = distance_weights(x.float(), negatives)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, want, atol=2e-3 if dimension > 64 else 1e-4)
    assert single.max(dim=1).values.allclose(torch.from_numpy(want.max(1)).float(), rtol=1e-2)


def test_distance_weights_at_three_distances():
    """In 4 dimensions 1/q = 1 / (d^2 (1 - d^2/4)^0.5); d^2 = 2 is out of reach."""
    rows = [[1.0, 0, 0, 0]] + [
        [1 - s / 2, math.sqrt(1 - (1 - s / 2) ** 2), 0, 0] for s in (0.4, 1.0, 1.9, 2.0)
    ]
    negatives = torch.zeros(5, 5, dtype=torch.bool)
    negatives[:, 0], negatives[0] = True, torch.tensor([False, True, True, True, True])
    want = np.array([0, 1 / (0.4 * math.sqrt(0.9)), 1 / math.sqrt(0.75), 1 / (1.9 * math.sqrt(0.525)), 0])
    got = distance_weights(torch.tensor(rows, dtype=torch.float64), negatives)
    np.testing.assert_allclose(got[0], want / want.sum(), rtol=1e-12)


SIX = torch.arange(3).repeat_interleave(2)
EMBEDDINGS = {
    "identical": lambda d: torch.ones(6, d),
    "zeros": lambda d: torch.zeros(6, d),
    "antipodal": lambda d: torch.ones(6, d) * torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None],
    "orthogonal": lambda d: torch.eye(6, d).roll(1, 0),
    "one zero": lambda d: batch(6, d) * torch.tensor([0.0, 1, 1, 1, 1, 1])[:, None],
    "near": lambda d: 1 + 1e-3 * batch(6, d),
    "random": lambda d: batch(6, d),
}


@pytest.mark.parametrize("dimension, dtype", [(1, torch.float32), (3, torch.bfloat16), (2048, torch.float16)])
@pytest.mark.parametrize("make", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_distance_weights_are_always_a_distribution_over_the_negatives(make, dimension, dtype):
    negatives = SIX[:, None] != SIX
    x = make(dimension).to(dtype)
    for scaled in (x, torch.finfo(dtype).max * (x / x.abs().max().clamp_min(1)), torch.finfo(dtype).tiny * x):
        weights = distance_weights(scaled, negatives)
        assert (weights >= 0).all() and (weights[~negatives] == 0).all()
        torch.testing.assert_close(weights.sum(1).double(), torch.ones(6).double(), rtol=1e-5, atol=0)
        anchor, _, negative = distance_weighted(scaled, SIX, seeded())
        assert (SIX[anchor] != SIX[negative]).all()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_weighs_as_its_values_in_float32(dtype):
    x = (50 * batch(10, 512)).to(dtype)
    negatives = LABELS[:, None] != LABELS
    assert torch.equal(distance_weights(x, negatives), distance_weights(x.float(), negatives))
    assert torch.equal(distance_weights(0 * x, negatives), distance_weights(0 * x.float(), negatives))


@pytest.mark.parametrize("sign", (1.0, -1.0))
def test_a_row_out_of_reach_is_uniform_over_its_negatives(sign):
    x = torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [-1, 0, 0.1], [-1, 0, 0], [-1, 0.2, 0]]) * sign
    weights = distance_weights(x, torch.tensor([0, 0, 1, 1, 1])[:, None] != torch.tensor([0, 0, 1, 1, 1]))
    want = torch.tensor([[0, 0, 1 / 3, 1 / 3, 1 / 3]] * 2 + [[0.5, 0.5, 0, 0, 0]] * 3)
    torch.testing.assert_close(weights, want)


def frequencies(miner, x, labels, rounds=400):
    """How often each (anchor, negative) is drawn by one seeded generator."""
    generator, count = seeded(5), torch.zeros(len(x), len(x))
    for _ in range(rounds):
        anchor, _, negative = miner(x, labels, generator)
        count.index_put_((anchor, negative), torch.ones(len(anchor)), accumulate=True)
    return count.numpy()


@pytest.mark.parametrize("miner", DRAWING)
def test_draws_follow_their_distribution(miner):
    labels = torch.arange(4).repeat_interleave(5)
    x = batch(20, 5, dtype=torch.float64) + 0.5
    if miner is distance_weighted:
        want = weights_oracle(x, labels)
    else:
        want = (labels[:, None] != labels).double().numpy() / 15
    count = frequencies(miner, x, labels)
    assert (count[want == 0] == 0).all()
    expected = want * count.sum(1, keepdims=True)
    tested = expected > 5
    assert tested.sum() > 150
    statistic = ((count - expected)[tested] ** 2 / expected[tested]).sum()
    freedom = tested.sum() - 20
    assert chi2.ppf(0.0005, freedom) < statistic < chi2.ppf(0.9995, freedom + 20)


@pytest.mark.parametrize("miner", DRAWING)
def test_a_generator_decides_and_torchs_own_is_left_alone(miner):
    x = batch(64, 8)
    labels = torch.arange(16).repeat_interleave(4)
    state = torch.get_rng_state()
    first, second, other = (miner(x, labels, generator=seeded(s))[2] for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    generator = seeded(1)
    assert not torch.equal(miner(x, labels, generator)[2], miner(x, labels, generator)[2])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    first = miner(x, labels)[2]
    assert not torch.equal(miner(x, labels)[2], first)
    torch.manual_seed(3)
    assert torch.equal(miner(x, labels)[2], first)


@pytest.mark.parametrize("miner", MINERS)
def test_nothing_is_differentiated_and_nothing_changed(miner):
    x = batch().requires_grad_()
    before = x.detach().clone()
    mined = miner(x, LABELS, seeded())
    assert not any(index.requires_grad for index in mined)
    assert torch.equal(x, before)
    assert triplets(miner(x, LABELS.int(), seeded())) == triplets(mined)


@pytest.mark.parametrize(
    "x, labels, error, message",
    [
        (batch(), LABELS[:9], ValueError, r"labels must have shape \(10,\), one per vector, got \(9,\)"),
        (batch(), LABELS[:, None], ValueError, r"labels must have shape \(10,\), .* got \(10, 1\)"),
        (batch(), LABELS.float(), TypeError, r"labels must be integers, got torch.float32"),
        (batch(), LABELS.tolist(), TypeError, "labels must be a torch.Tensor .*, got list"),
        (batch(), torch.arange(10), ValueError, "no class has two members among these 10 .*PKBatchSampler"),
        (batch(), torch.zeros(10, dtype=torch.int64), ValueError, "all 10 labels are equal.* negative"),
        (batch() / 0 * 0, LABELS, ValueError, "embeddings hold 40 NaN or infinite values among 40"),
        (batch()[:, 0], LABELS, ValueError, r"embeddings must have shape \(N, D\), got \(10,\)"),
        (batch(1), LABELS[:1], ValueError, r"at least 2 vector\(s\).*got \(1, 4\)"),
        (batch().long(), LABELS, TypeError, "embeddings must be floating point, got torch.int64"),
        (batch().numpy(), LABELS, TypeError, "embeddings must be a torch.Tensor .*, got ndarray"),
    ],
)
def test_bad_batches_are_refused(x, labels, error, message):
    for miner in MINERS:
        with pytest.raises(error, match=message):
            miner(x, labels)


@pytest.mark.parametrize("miner", MINERS[1:])
def test_two_large_classes_take_no_memory_of_n_cubed(miner):
    """79,800 positive pairs with a row of candidates each would be 32 million numbers."""
    x, labels = batch(400, 4), torch.arange(400) % 2
    with Watch() as watch:
        anchor, positive, negative = miner(x, labels)
    assert len(anchor) == 400 * 199 and (labels[anchor] != labels[negative]).all()
    assert watch.largest <= miners.CHUNK < 400 * 199 * 400


def test_a_column_without_weight_is_never_drawn():
    weights = torch.zeros(300, 50)
    weights[:, 7], weights[::2, 31], weights[1::2, 49] = 1e-8, 1.0, 1e-30
    rows = torch.arange(300).repeat_interleave(2000)
    drawn = _draw(weights, rows, seeded())
    assert (weights[rows, drawn] > 0).all()
    assert (drawn[rows % 2 == 0] == 31).double().mean() > 0.999 and (drawn[rows % 2 == 1] == 7).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("miner", MINERS[1:])
def test_a_gpu_is_not_waited_for_when_labels_are_on_the_cpu(miner):
    x, labels = batch(128, 512).cuda(), torch.arange(128) // 4
    miner(x, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        miner(x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("miner", MINERS)
def test_on_a_gpu_with_labels_and_generator_of_either_device(miner):
    x = batch(64, 8).cuda()
    labels = torch.arange(16).repeat_interleave(4)
    for generator in (seeded(), torch.Generator("cuda").manual_seed(0), None):
        for where in (labels, labels.cuda()):
            anchor, positive, negative = miner(x, where, generator)
            assert anchor.is_cuda and positive.is_cuda and negative.is_cuda


def test_a_share_of_triplets_pushes_a_positive_away():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) // 6
    mine = miners.switched(miners.hard_negatives, 0.3)
    anchor, positive, negative = mine(x, labels, generator=torch.Generator().manual_seed(1))
    plain = miners.hard_negatives(x, labels)
    switch = anchor == positive
    assert 0.2 < switch.double().mean() < 0.4
    assert anchor.equal(plain[0])
    assert negative[switch].equal(plain[1][switch]) and (labels[negative] == labels[anchor])[switch].all()
    assert positive[~switch].equal(plain[1][~switch]) and negative[~switch].equal(plain[2][~switch])
    again = mine(x, labels, generator=torch.Generator().manual_seed(1))
    assert all(a.equal(b) for a, b in zip((anchor, positive, negative), again, strict=True))
