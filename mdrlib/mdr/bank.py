"""A queue of past embeddings: more pairs than a batch holds.

Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020: embeddings drift slowly once training is
under way, so those of the last batches stand in for a larger batch, at no cost in the network.
"""

import torch
from torch import Tensor, nn

from mdrlib import checks


class MemoryBank(nn.Module):
    """The last `size` embeddings of `dim` dimensions that were added, in a ring: the oldest is overwritten.

    A module without parameters: storage and count are saved and restored by state_dict, the storage follows
    `.to(device)`. In a step: the loss with `mdr(x, bank.embeddings)`, its backward, then `bank.add(x)`.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.register_buffer("storage", torch.zeros(size, dim))
        self.added = 0  # since the start; a number of the host, so that no step waits for the GPU

    @property
    def embeddings(self) -> Tensor:
        """What is filled so far, (M, dim), M <= size, in no order of age. A view, which `add` changes."""
        return self.storage[: self.added]

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Copy x (N, dim), N >= 0, over the oldest; of more than `size` only the last are kept."""
        x = checks.embeddings(x, at_least=0, wait=False)
        size, dim = self.storage.shape
        if x.shape[1] != dim:
            raise ValueError(f"embeddings have {x.shape[1]} dimensions and the bank {dim}; they must agree")
        last = x[-size:]
        self.added += len(x)
        slots = torch.arange(self.added - len(last), self.added, device=self.storage.device) % size
        self.storage[slots] = last.to(self.storage)

    def get_extra_state(self) -> int:
        return self.added

    def set_extra_state(self, state: int) -> None:
        self.added = state

    def extra_repr(self) -> str:
        return f"size={len(self.storage)}, dim={self.storage.shape[1]}"
