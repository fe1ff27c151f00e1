"""A ring of past embeddings: more pairs than a batch holds."""

import torch
from torch import Tensor, nn

from mdrlib import checks


class MemoryBank(nn.Module):
    """The last `size` embeddings of `dim` dimensions; a new one overwrites the oldest.

    Embeddings drift slowly after the first iterations, so those of the last batches stand in for a larger
    batch (Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020). In a training step compute
    the loss with `mdr(x, bank.embeddings)`, call backward, then `bank.add(x)`, where x is what the losses
    take: normalized and, with several processes, gathered.

    The bank is a module: move it with `.to(device)`, and save its state_dict.

    Args:
        size: Largest number of embeddings, at least 1.
        dim: Dimensions of an embedding.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer(
            "storage", torch.zeros(checks.whole(size, "size", 1), checks.whole(dim, "dim", 1))
        )
        self.added = 0  # since the start; a Python number: no step waits for the GPU

    @property
    def embeddings(self) -> Tensor:
        """The stored embeddings (M, D), M <= size, in no order of age, as a view, which `add` changes."""
        return self.storage[: self.added]

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Copy x (N, D), N >= 0, over the oldest embeddings; of more than `size` only the last are kept."""
        x = checks.embeddings(x, at_least=0, wait=False, dim=self.storage.shape[1])
        if checks.recomputing():
            return
        size = len(self.storage)
        last = x[-size:]
        self.added += len(x)
        slots = torch.arange(self.added - len(last), self.added, device=self.storage.device) % size
        self.storage[slots] = last.to(self.storage)

    def get_extra_state(self) -> int:
        return self.added

    def set_extra_state(self, state: int) -> None:
        self.added = state
