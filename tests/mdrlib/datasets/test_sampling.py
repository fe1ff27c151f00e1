import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrlib.datasets import PKBatchSampler
from mdrlib.datasets.sampling import noisy_labels, some_classes, split_group

LABELS = torch.arange(12).repeat_interleave(6)


@st.composite
def samplers(draw):
    """Labels with classes of 1 to 9 images, shuffled, and the sizes of a batch that they allow."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    names = draw(st.lists(st.integers(-50, 50), min_size=len(sizes), max_size=len(sizes), unique=True))
    labels = torch.tensor([name for name, size in zip(names, sizes, strict=True) for _ in range(size)])
    order = draw(st.permutations(range(len(labels))))
    classes = draw(st.integers(1, len(sizes)))
    per_class = draw(st.integers(2, 6))
    return labels[list(order)], classes * per_class, per_class, draw(st.integers(0, 2**40))


@given(samplers())
@settings(max_examples=150, deadline=None)
def test_batches_hold_distinct_classes_with_as_many_distinct_images_as_there_are(case):
    labels, batch_size, per_class, seed = case
    there = Counter(labels.tolist())
    for batch in PKBatchSampler(labels, batch_size, per_class, 3, seed):
        assert len(batch) == batch_size and all(isinstance(index, int) for index in batch)
        of = labels[batch].view(-1, per_class)
        assert (of == of[:, :1]).all(), "the images of a class stand together"
        assert of[:, 0].unique().numel() == batch_size // per_class, "no class comes twice"
        for row in torch.tensor(batch).view(-1, per_class):
            size = there[int(labels[row[0]])]
            times = row.unique(return_counts=True)[1]
            assert len(times) == min(size, per_class)
            assert times.max() - times.min() <= 1, "repeats are spread evenly"


@given(samplers(), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_a_run_goes_on_anywhere(case, position):
    labels, batch_size, per_class, seed = case
    whole = list(PKBatchSampler(labels, batch_size, per_class, 7, seed))
    assert len(whole) == 7
    resumed = PKBatchSampler(labels, batch_size, per_class, 7, seed)
    assert len(resumed) == 7
    assert [resumed.batch(t) for t in range(position, 7)] == whole[position:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_slices_of_all_ranks_in_order_are_the_batch_of_one_process(world_size):
    whole = list(PKBatchSampler(LABELS, 24, 3, 5, seed=3))
    ranks = [PKBatchSampler(LABELS, 24, 3, 5, 3, rank, world_size) for rank in range(world_size)]
    parts = [list(sampler) for sampler in ranks]
    for t, batch in enumerate(whole):
        assert sum((part[t] for part in parts), []) == batch
        assert all(sampler.whole(t) == batch for sampler in ranks)
        assert all(len(part[t]) == 24 // world_size for part in parts)
        for part in parts:
            assert all(count == 3 for count in Counter(LABELS[part[t]].tolist()).values())


def test_a_last_class_gives_what_is_missing_as_in_the_authors_batches_of_256_with_3_a_class():
    labels = torch.arange(100).repeat_interleave(5)
    for batch in PKBatchSampler(labels, 256, 3, 5):
        classes = labels[batch]
        assert len(batch) == 256 and len(set(batch)) == 256
        assert classes.unique_consecutive(return_counts=True)[1].tolist() == [3] * 85 + [1]
        assert len(classes.unique()) == 86


def test_seed_and_batch_decide_and_global_generators_are_left_alone():
    state = torch.get_rng_state()
    batches = list(PKBatchSampler(LABELS, 24, 3, 20, seed=1))
    assert list(PKBatchSampler(LABELS, 24, 3, 20, seed=1)) == batches
    assert list(PKBatchSampler(LABELS, 24, 3, 40, seed=1))[:20] == batches, "a longer run begins alike"
    assert len({tuple(batch) for batch in batches}) == 20
    assert not {tuple(b) for b in batches} & {tuple(b) for b in PKBatchSampler(LABELS, 24, 3, 20, seed=2)}
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_and_images_come_equally_often():
    batches = list(PKBatchSampler(LABELS, 12, 3, 1500))
    count = torch.bincount(torch.tensor(batches).flatten(), minlength=72).float()
    # 1,500 x 12 of 72: each image 250 times on average, with a standard deviation below 16
    assert count.min() > 170 and count.max() < 330


def test_the_batches_of_stored_runs_are_drawn_by_seed_and_number():
    sampler = PKBatchSampler(LABELS, 12, 3, 5, seed=11)
    for t, batch in enumerate(sampler):
        random = np.random.default_rng((11, t))
        classes = random.choice(12, 4, replace=False)
        members = [torch.nonzero(LABELS == int(c))[:, 0].numpy() for c in classes]
        assert batch == [int(i) for m in members for i in random.permutation(m)[:3]] == sampler.whole(t)
    assert sampler.whole(0) == [11, 8, 7, 32, 33, 35, 59, 56, 55, 52, 49, 53], "as before epochs"


def distinct(batches):
    return len({tuple(batch) for batch in batches}) == len(batches)


def test_each_loop_is_another_epoch_even_if_the_last_one_was_left_early():
    sampler = PKBatchSampler(LABELS, 12, 3, 8)
    loops = [list(itertools.islice(sampler, 8)), list(itertools.islice(sampler, 3)), list(sampler)]
    assert [len(loop) for loop in loops] == [8, 3, 8]
    assert distinct(sum(loops, []))
    assert loops[2] == [sampler.batch(t) for t in range(16, 24)], "the third epoch, whole"
    for epoch, expected in ((0, loops[0]), (2, loops[2])):
        sampler.set_epoch(epoch)
        assert list(sampler) == expected


def test_an_epoch_has_as_many_images_as_there_are_unless_told_otherwise():
    assert len(PKBatchSampler(LABELS, 12, 3)) == 6  # of 72 images
    assert len(list(PKBatchSampler(LABELS, 15, 3))) == 5
    assert len(list(PKBatchSampler([7, 7, 3, 3], 4, 2, 0))) == 0


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_data_loader_takes_it_and_a_resumed_run_gets_the_batches_not_yet_consumed(workers):
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))

    def loader(sampler):
        return torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers)

    whole = PKBatchSampler(LABELS, 12, 3, 8, seed=4)
    wanted = [batch.tolist() for _ in range(2) for (batch,) in loader(whole)]
    assert len(wanted) == 16 and distinct(wanted)
    for stop in (3, 8, 13):
        killed, seen = PKBatchSampler(LABELS, 12, 3, 8, seed=4), []
        for (batch,) in itertools.islice(itertools.chain(loader(killed), loader(killed)), stop):
            seen.append(batch.tolist())
            killed.step()
        assert killed.state_dict() == {"epoch": stop // 8, "position": stop % 8}
        resumed = PKBatchSampler(LABELS, 12, 3, 8, seed=4)
        resumed.load_state_dict(killed.state_dict())
        while len(seen) < 16:
            seen += [batch.tolist() for (batch,) in loader(resumed)]
        assert seen == wanted


def test_without_calls_of_step_nothing_counts_as_consumed():
    sampler = PKBatchSampler(LABELS, 12, 3, 8)
    list(sampler), list(itertools.islice(sampler, 5))
    assert sampler.state_dict() == {"epoch": 1, "position": 0}


def test_a_loaded_position_outlasts_being_told_the_same_epoch():
    sampler = PKBatchSampler(LABELS, 12, 3, 8)
    sampler.load_state_dict({"epoch": 2, "position": 5})
    sampler.set_epoch(2)
    assert list(sampler) == [sampler.batch(t) for t in (21, 22, 23)]
    sampler.load_state_dict({"epoch": 2, "position": 5})
    sampler.set_epoch(0)
    assert list(sampler) == [sampler.batch(t) for t in range(8)]


def test_ranks_are_those_of_torch_distributed_when_a_batch_is_drawn(monkeypatch):
    sampler = PKBatchSampler(LABELS, 24, 3, 2)  # as in a script whose framework joins processes later
    alone = PKBatchSampler(LABELS, 24, 3, 2, rank=0, world_size=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda r=rank: r)
        sampler.set_epoch(0)
        assert sampler.batch_size == 6 and alone.batch_size == 24
        shares.append(list(sampler))
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == list(alone)
    with pytest.raises(ValueError, match="multiple of per_class x world_size, got 21 and 3 x 4"):
        next(iter(PKBatchSampler(LABELS, 21, 3)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 25, "world_size": 2}, "multiple of per_class x world_size"),
        ({"batch_size": 37}, "need 13 classes, there are 12"),
        ({"world_size": 3}, "multiple of per_class x world_size"),
        ({"rank": 1}, "rank must be from 0 to world_size - 1, got 1 of 1"),
        ({"rank": -1, "world_size": 2}, "rank must be from 0 to world_size - 1, got -1 of 2"),
    ],
)
def test_numbers_that_allow_no_batch_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PKBatchSampler(**{"labels": LABELS, "batch_size": 24, "per_class": 3, "iterations": 2} | arguments)


def test_some_classes_are_whole_and_drawn_by_the_seed():
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10).repeat_interleave(3)[order]
    chosen = some_classes(labels, 4, seed=1)
    assert len(chosen) == 12 and len(labels[chosen].unique()) == 4
    assert torch.equal(chosen, some_classes(labels, 4, seed=1))
    assert any(not torch.equal(chosen, some_classes(labels, 4, seed=s)) for s in range(2, 5))
    assert torch.equal(some_classes(labels, 10, seed=0), torch.arange(30))
    for count in (1, 11):
        with pytest.raises(ValueError, match=f"from 2 to the 10 there are, got {count}"):
            some_classes(labels, count, seed=0)


def test_a_coarse_class_is_held_out_whole():
    groups = torch.tensor([3, 0, 3, 5, 5, 0])
    kept, out = split_group(groups, 1)
    assert kept.tolist() == [1, 3, 4, 5] and out.tolist() == [0, 2]
    for wrong, there in ((3, groups), (0, torch.zeros(4))):
        with pytest.raises(ValueError, match="held_out_group must be below the"):
            split_group(there, wrong)


def test_noisy_labels_are_wrong_as_often_as_asked_and_equally_likely():
    labels = torch.tensor([3, 5, 9, 11]).repeat(1000)
    noisy = noisy_labels(labels, 0.4, seed=0)
    wrong = noisy != labels
    assert wrong.sum() == 1600 and set(noisy.tolist()) == {3, 5, 9, 11}
    for true in (3, 5, 9, 11):  # of about 400 wrong ones each other class gets a third
        counts = [
            (noisy[wrong & (labels == true)] == other).sum() for other in (3, 5, 9, 11) if other != true
        ]
        assert all(90 < count < 180 for count in counts)
    assert torch.equal(noisy_labels(labels, 0.0, seed=0), labels)
    assert torch.equal(noisy, noisy_labels(labels, 0.4, seed=0))
    assert not torch.equal(noisy, noisy_labels(labels, 0.4, seed=1))
