"""The training loop: two losses on one batch, and everything needed to stop and go on."""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mdrlib import checkpoint, distributed
from mdrlib.datasets import PKBatchSampler
from mdrlib.mdr import MDR, MemoryBank
from mdrlib.progress import Progress
from mdrlib.results import Row

SAVE_SECONDS = 15  # between checkpoints
# Returns the metrics of a model, and arrays to keep beside them.
Evaluate = Callable[[nn.Module], tuple[dict[str, float], dict[str, Tensor]]]


class Trainer:
    """One training run of `model` with L = loss + mdr_weight * L_MDR + level_weight * sum of squared levels.

    batches: images (B, C, H, W) float32 in [0, 1] on the model's device with labels (B,), from where
    `sampler` stands to its end (see `mdrlib.batches`); `generator` (same device) draws all that is random
    besides. mdr None trains with the loss alone. lr is multiplied by lr_decay at each iteration of lr_steps,
    and so is loss_lr, that of the loss's own parameters, such as proxies.
    Weight decay leaves the levels to level_weight alone.
    bf16 runs the network in bfloat16, losses and distances never; channels_last lays its tensors out so;
    compile runs it through torch.compile in training. bank: embeddings of past batches for MDR.
    `history` gets a row per evaluation: every `evaluate_every` iterations, at the first and at the last.
    keep_best: the metric whose best evaluation is remembered in `best` (its row) and `best_weights`.
    loading_rate: images a second that loading alone would give, for the history; None for those in memory.
    Of several processes (`mdrlib.distributed`) each has the model, and batches of its share of the images
    with the labels of all; losses and MDR see the whole batch. The first process saves and reports.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        mdr: MDR | None,
        batches: Iterable[tuple[Tensor, Tensor]],
        sampler: PKBatchSampler,
        evaluate: Evaluate,
        generator: Generator,
        lr: float,
        lr_steps: tuple[int, ...] = (),
        lr_decay: float = 0.2,
        loss_lr: float | None = None,
        weight_decay: float = 0.0,
        mdr_weight: float = 0.0,
        level_weight: float = 0.0,
        evaluate_every: int = 100,
        bf16: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        bank: MemoryBank | None = None,
        keep_best: str | None = None,
        loading_rate: Callable[[], float] | None = None,
    ) -> None:
        self.model, self.loss, self.mdr, self.bank, self.sampler = model, loss, mdr, bank, sampler
        self.batches, self.evaluate, self.generator = batches, evaluate, generator
        self.mdr_weight, self.level_weight = mdr_weight, level_weight
        self.evaluate_every, self.bf16 = evaluate_every, bf16
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            model.to(memory_format=torch.channels_last)
        self.forward = distributed.parallel(model)  # evaluations take the model as it is
        if compile:
            self.forward = torch.compile(self.forward)
        distributed.broadcast(loss, mdr, bank)
        groups = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
        if mdr is not None:
            groups.append({"params": list(mdr.parameters()), "weight_decay": 0.0})
        proxies = {"params": list(loss.parameters()), "weight_decay": weight_decay, "lr": loss_lr or lr}
        if proxies["params"]:
            groups.append(proxies)
        self.optimizer = torch.optim.Adam(groups, lr=lr)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(lr_steps), lr_decay)
        self.iteration, self.seconds, self.training_seconds = 0, 0.0, 0.0
        self.history: list[Row] = []
        self.snapshots: list[dict[str, Tensor]] = []  # arrays of each evaluation
        self.keep_best, self.best, self.best_weights = keep_best, -1, {}
        self.loading_rate = loading_rate
        # Sums since the last evaluation, on the device: reading them every step would make it wait.
        self.sums = torch.zeros(2, dtype=torch.float64, device=next(model.parameters()).device)
        self.since = 0  # iterations in the sums

    def fit(self, path: Path, name: str, about: dict[str, Any], report: Callable[[list[Row]], None]) -> None:
        """Train to the sampler's end, from wherever `load_state_dict` has put the run.

        Saves to `path`, with the entries of `about` beside the state. `name` labels the progress.
        `report` is called with the history after each evaluation. Of several processes the first does both.
        """
        first = distributed.rank() == 0
        progress = Progress(name, len(self.sampler), self.iteration)
        clock = saved = time.perf_counter()
        if not self.history:
            self._evaluate()
            if first:
                report(self.history)
        started = time.perf_counter()
        for images, labels in self.batches:
            self._step(images, labels)
            self.iteration += 1
            self.since += 1
            progress.update(self.iteration, lambda: self.sums[0].item() / self.since)
            now = time.perf_counter()
            self.training_seconds += now - started  # with the wait for the batch
            self.seconds, clock = self.seconds + now - clock, now
            due = self.iteration == len(self.sampler) or self.iteration % self.evaluate_every == 0
            if due:
                self._evaluate()
            if due and first:
                report(self.history)
            if first and (due or now - saved > SAVE_SECONDS):
                checkpoint.save(path, about | self.state_dict())
                saved = time.perf_counter()
            started = time.perf_counter()
        self.seconds += time.perf_counter() - clock  # of the last evaluation
        progress.close()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        self.model.train()
        images = images.contiguous(memory_format=self.layout)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            self.embeddings = self.forward(images)
        loss = self.loss(self.embeddings, labels)
        regularizer, total = torch.zeros_like(loss), loss
        if self.mdr is not None:
            past = None if self.bank is None else self.bank.embeddings
            regularizer = self.mdr(self.embeddings, past)
            total = loss + self.mdr_weight * regularizer + self.level_weight * self.mdr.level_penalty()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.bank is not None:
            self.bank.add(self.embeddings)
        self.sums += torch.stack((loss.detach(), regularizer.detach()))

    def _evaluate(self) -> None:
        loss, regularizer = (self.sums / max(self.since, 1)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at iteration {self.iteration}: lower lr, or look at the input"
            )
        trained = self.since > 0
        speed = self.iteration * self.sampler.batch_size / self.training_seconds if trained else None
        row: Row = {
            "iteration": self.iteration,
            "seconds": round(self.seconds, 3),
            "images_per_second": speed and round(speed, 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss if trained else None,
        }
        if self.loading_rate is not None:
            row["loader_images_per_second"] = round(self.loading_rate(), 1) if trained else None
        if self.mdr is not None:
            row["regularizer"] = regularizer if trained else None
            row["running_mean"] = self.mdr.running_mean.item() if trained else None
            row["running_std"] = self.mdr.running_std.item() if trained else None
            for k, level in enumerate(self.mdr.levels.tolist()):
                row[f"level_{k}"] = level
            if trained:
                assigned = self.mdr.assign(self.embeddings)
                counts = torch.bincount(assigned[assigned >= 0], minlength=len(self.mdr.levels))
                for k, share in enumerate((counts / counts.sum()).tolist()):
                    row[f"occupancy_{k}"] = share
        self.model.eval()
        with torch.no_grad():
            metrics, arrays = self.evaluate(self.model)
        self.history.append(row | metrics)
        self.snapshots.append(arrays)
        key = self.keep_best
        if key is not None and (self.best < 0 or metrics[key] > self.history[self.best][key]):
            self.best = len(self.history) - 1
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.sums.zero_()
        self.since = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on as if it had never stopped."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "mdr": None if self.mdr is None else self.mdr.state_dict(),
            "bank": None if self.bank is None else self.bank.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict() | {"position": self.iteration},
            "generator": self.generator.get_state(),
            "rng": checkpoint.rng_state(),
            "iteration": self.iteration,
            "seconds": [self.seconds, self.training_seconds],
            "sums": self.sums,
            "since": self.since,
            "history": self.history,
            "snapshots": self.snapshots,
            "best": self.best,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, be it on another kind of device."""
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state.get("loss", {}))  # runs of before losses had any
        if self.mdr is not None:
            self.mdr.load_state_dict(state["mdr"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load_state_dict(state["sampler"])
        if len(state["generator"]) == len(self.generator.get_state()):  # a CPU's and a GPU's do not fit
            self.generator.set_state(state["generator"])
        checkpoint.set_rng_state(state["rng"])
        self.iteration, self.since = state["iteration"], state["since"]
        self.seconds, self.training_seconds = state["seconds"]
        self.sums.copy_(state["sums"])
        self.history, self.snapshots = state["history"], state["snapshots"]
        self.best, self.best_weights = state["best"], state["best_weights"]
