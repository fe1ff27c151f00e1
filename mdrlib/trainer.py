"""The training loop: a loss of the batch plus MDR. Evaluating, saving and showing progress are callbacks."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from mdrlib import distributed
from mdrlib.mdr import MDR, MemoryBank

BAR_SECONDS, LINE_SECONDS = 0.5, 10  # between updates: reading the loss makes a GPU finish its queue


@dataclass(eq=False)
class Trainer:
    """Minimize loss + mdr_weight * L_MDR + level_weight * sum of squared levels, each of the global batch."""

    model: nn.Module  #: Images (B, C, H, W) -> embeddings (B, D), on the device of the batches.
    loss: nn.Module  #: Embeddings (B, D) and labels (B,) -> scalar; may have parameters, such as proxies.
    optimizer: Optimizer  #: Of the parameters of model, loss and mdr.
    scheduler: LRScheduler  #: Stepped after each iteration.
    mdr: MDR | None = None
    bank: MemoryBank | None = None  #: Past embeddings that MDR also pairs with a batch.
    mdr_weight: float = 0.0  #: The paper's lambda.
    level_weight: float = 0.0  #: The paper's nu.
    mdr_in_distance: bool = False  #: Multiply L_MDR by the running standard deviation.
    bf16: bool = False  #: Run the network in bfloat16; losses and distances stay in float32.
    channels_last: bool = False  #: Memory layout of images and network.
    compile: bool = False  #: Run the network through torch.compile in training.

    def __post_init__(self) -> None:
        self.layout = torch.channels_last if self.channels_last else torch.contiguous_format
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.forward = distributed.parallel(self.model)
        self.gathered = {"gather": distributed.gather} if distributed.world_size() > 1 else {}
        if self.compile:
            self.forward = torch.compile(self.forward)
        self.iteration, self.seconds, self.training_seconds = 0, 0.0, 0.0
        # Sums of loss and L_MDR over `since` iterations, on the device: reading them would make it wait.
        self.sums = torch.zeros(2, dtype=torch.float64, device=next(self.model.parameters()).device)
        self.since = 0

    def fit(
        self,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
        callbacks: Sequence[Callable[["Trainer"], None]] = (),
    ) -> None:
        """Train until the batches end, from the first iteration or from that of `load_state_dict`.

        Args:
            batches: t -> images (B, C, H, W) and labels (B,) of iteration t and all later ones.
            callbacks: Called with this Trainer before the first iteration and after each one.
        """
        began = time.perf_counter() - self.seconds
        for callback in callbacks if self.iteration == 0 else ():
            callback(self)
        started = time.perf_counter()
        for images, labels in batches(self.iteration):
            self.step(images, labels)
            now = time.perf_counter()
            self.training_seconds += now - started  # with the wait for the batch
            self.seconds = now - began
            for callback in callbacks:
                callback(self)
            started = time.perf_counter()
        self.seconds = time.perf_counter() - began

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Update model, loss, MDR and bank by one batch."""
        self.model.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            self.embeddings = self.forward(images.contiguous(memory_format=self.layout), **self.gathered)
        loss = self.loss(self.embeddings, labels)
        regularizer, total = torch.zeros_like(loss), loss
        if self.mdr is not None:
            past = None if self.bank is None else self.bank.embeddings
            regularizer = self.mdr(self.embeddings, past)
            unit = self.mdr.running_std if self.mdr_in_distance else 1.0
            total = loss + self.mdr_weight * unit * regularizer
            total = total + self.level_weight * self.mdr.level_penalty()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.bank is not None:
            self.bank.add(self.embeddings)
        self.sums += torch.stack((loss.detach(), regularizer.detach()))
        self.since += 1
        self.iteration += 1

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the mean L_MDR since the last call."""
        loss, regularizer = (self.sums / max(self.since, 1)).tolist()
        self.sums.zero_()
        self.since = 0
        return loss, regularizer

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` continues as if the run had never stopped."""
        state = {name: part.state_dict() for name, part in self._parts()}
        seconds = [self.seconds, self.training_seconds]
        return state | dict(iteration=self.iteration, seconds=seconds, sums=self.sums, since=self.since)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned, on the same or another kind of device."""
        for name, part in self._parts():
            part.load_state_dict(state[name])
        self.iteration, self.since = state["iteration"], state["since"]
        self.seconds, self.training_seconds = state["seconds"]
        self.sums.copy_(state["sums"])

    def _parts(self) -> list[tuple[str, Any]]:
        names = ("model", "loss", "mdr", "bank", "optimizer", "scheduler")
        return [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]


def progress(name: str, total: int, done: int = 0) -> Callable[[Trainer], None]:
    """Return a callback that shows progress as MDR_PROGRESS says: a "bar", "lines" on stdout, or "off"."""
    style = os.environ.get("MDR_PROGRESS", "bar")
    if style == "off" or not total or distributed.rank() > 0:
        return lambda trainer: None
    bar = tqdm(total=total, initial=done, desc=name, unit="it", disable=style != "bar")
    pause = BAR_SECONDS if style == "bar" else LINE_SECONDS
    shown = time.perf_counter()

    def show(trainer: Trainer) -> None:
        nonlocal shown
        if trainer.iteration < total and time.perf_counter() - shown < pause:
            return
        shown = time.perf_counter()
        loss = f"{trainer.sums[0].item() / max(trainer.since, 1):.4f}"
        if style == "lines":
            at = f"{name}  iteration {trainer.iteration}/{total}"
            print(f"{at}  loss {loss}  {trainer.seconds:.0f} s", flush=True)
        bar.set_postfix(loss=loss, refresh=False)
        bar.update(trainer.iteration - bar.n)
        if trainer.iteration == total:
            bar.close()

    return show
