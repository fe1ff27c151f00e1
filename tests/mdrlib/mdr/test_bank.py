"""The memory bank against a plain loop over a list."""

import numpy as np
import pytest
import torch

from mdrlib import MDR
from mdrlib.mdr import MemoryBank


def fill(size, batches):
    """What the ring's slots hold: each vector in turn overwrites the oldest."""
    slots, position = [], 0
    for batch in batches:
        for row in batch:
            if len(slots) < size:
                slots.append(row)
            else:
                slots[position % size] = row
            position += 1
    return torch.stack(slots)


@pytest.mark.parametrize("sizes", [(3,), (3, 4), (7,), (5, 5, 5), (20,), (1, 6, 15, 2), (0, 3, 0)], ids=str)
def test_the_oldest_are_overwritten(sizes):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 4, generator=generator) for n in sizes]
    bank = MemoryBank(7, 4)
    assert bank.embeddings.shape == (0, 4)
    for batch in batches:
        bank.add(batch)
    assert torch.equal(bank.embeddings, fill(7, batches))


def test_it_takes_no_gradient_and_any_floating_dtype():
    bank = MemoryBank(6, 3)
    x = torch.randn(4, 3, requires_grad=True)
    bank.add(x)
    bank.add(x.half())
    assert not bank.embeddings.requires_grad and bank.embeddings.dtype == torch.float32
    mdr = MDR()
    mdr(x, bank.embeddings).backward()
    assert torch.isfinite(x.grad).all()


def test_state_dict_carries_contents_and_position():
    bank, other = MemoryBank(5, 2), MemoryBank(5, 2)
    bank.add(torch.randn(7, 2))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.embeddings, bank.embeddings)
    more = torch.randn(3, 2)
    bank.add(more)
    other.add(more)
    assert torch.equal(other.embeddings, bank.embeddings)
    assert not list(bank.parameters())


def test_sizes_may_be_numpys():
    assert MemoryBank(np.int64(5), np.uint8(2)).storage.shape == (5, 2)


def test_bad_input_is_refused():
    for size, dim, name in ((0, 2, "size"), (3, 0, "dim")):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got 0"):
            MemoryBank(size, dim)
    bank = MemoryBank(3, 2)
    with pytest.raises(ValueError, match="must have 2 dimensions, got 3"):
        bank.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="NaN"):
        bank.add(torch.full((1, 2), torch.nan))
    assert len(bank.embeddings) == 0
