"""A training step on a GPU, without one: it waits nowhere, and its launches fit a budget."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from mdrlib import MDR, mdr_loss, miners, normalize_by_mean_distance, pairwise_distances
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MemoryBank
from mdrlib.trainer import Trainer

pytest.importorskip("triton")
spec = importlib.util.spec_from_file_location("fake_gpu", Path(__file__).with_name("fake_gpu.py"))
fake_gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_gpu)

LABELS = torch.arange(128) // 4


@pytest.fixture
def gpu(monkeypatch):
    with fake_gpu.fake_gpu(monkeypatch) as gpu:
        yield gpu


def embeddings(n=128, d=512):
    return torch.empty(n, d, device="cuda:0", requires_grad=True)


def test_the_counter_sees_waits_and_launches(gpu):
    x = embeddings()
    torch.ones(3).to("cuda:0")
    x.detach().cpu()
    torch.ones(3).to("cuda:0", non_blocking=True)  # pageable memory
    assert len(gpu.waits) == 3
    torch.ones(3).pin_memory().to("cuda:0", non_blocking=True)
    x.T.reshape(-1)
    assert len(gpu.waits) == 3
    for read in (lambda: (x > 0).nonzero(), lambda: x.sum().item(), lambda: x[x > 0]):
        with pytest.raises(Exception, match="aten"):  # the number of results would be data
            read()
    assert len(gpu.waits) == 6
    gpu.clear()
    ((x + 1)[:5].T * 2).detach()
    x.double().cumsum(0)
    assert len(gpu.launches) == 4 and len(gpu.unordered) == 1


def test_a_training_step_waits_nowhere_and_fits_its_budget(gpu):
    network = nn.Linear(64, 512).to("cuda:0")
    mdr = MDR().to("cuda:0")
    optimizer = torch.optim.Adam([*network.parameters(), *mdr.parameters()], foreach=True)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loss = TripletLoss(generator=torch.Generator())
    trainer = Trainer(network, loss, optimizer, scheduler, mdr, None, 0.1, 0.01)
    images = torch.empty(128, 64, device="cuda:0")
    trainer.step(images, LABELS)  # the optimizer makes its state
    gpu.clear()
    trainer.step(images, LABELS)
    assert not gpu.waits and not gpu.unordered
    assert len(gpu.launches) <= 88, gpu.launches
    assert not any("item" in launch for launch in gpu.launches)


@pytest.mark.parametrize("training, budget", ((True, 7), (False, 9)))
def test_mdr_takes_three_kernels_and_little_else(gpu, training, budget):
    """In training: the copy of the statistics, the ones of backward, two gradients scaled by them."""
    mdr = MDR().to("cuda:0")
    mdr(embeddings())
    if not training:
        mdr.eval()
        mdr._seen = True  # once the GPU is asked, and waited for
    gpu.clear()
    x = embeddings()
    mdr(x).backward()
    assert x.grad.shape == x.shape and mdr.levels.grad.shape == (3,)
    assert not gpu.waits and sum("mdr_step" in launch for launch in gpu.launches) == 3
    assert len(gpu.launches) <= budget, gpu.launches


@pytest.mark.parametrize("miner", (miners.all_triplets, miners.random_negatives, miners.hard_negatives,
                                   miners.semihard_negatives, miners.distance_weighted))  # fmt: skip
@pytest.mark.parametrize("generator", ("cpu", "cuda:0", None))
def test_no_miner_waits_with_labels_on_the_cpu(gpu, miner, generator):
    if generator == "cuda:0":
        generator = None  # a generator of the GPU is torch's default one there
    elif generator is not None:
        generator = torch.Generator(generator)
    found = miner(embeddings().detach(), LABELS, generator)
    assert all(part.is_cuda for part in found) and not gpu.waits and not gpu.unordered


@pytest.mark.parametrize("n, m", ((128, None), (1024, None), (4096, None), (1024, 300)))
@pytest.mark.parametrize("squared", (False, True))
def test_distances_are_one_launch_each_way(gpu, n, m, squared):
    x, y = embeddings(n), None if m is None else embeddings(m)
    d = pairwise_distances(x, y, squared=squared)
    assert d.shape == (n, m or n) and len(gpu.launches) == 1
    d.sum().backward()
    assert not gpu.waits and len(gpu.launches) <= 9, gpu.launches
    normalize_by_mean_distance(x).sum().backward()
    assert not gpu.waits


def test_the_pure_loss_and_the_bank_wait_nowhere(gpu):
    x, levels = embeddings(), torch.empty(3, device="cuda:0")
    mdr_loss(x, levels, 30.0, 2.0).backward()
    mdr_loss(x, levels, levels.sum(), levels.sum()).backward()
    assert not gpu.waits
    bank = MemoryBank(300, 512).to("cuda:0")
    gpu.clear()
    for _ in range(3):
        bank.add(x)
    assert not gpu.waits
