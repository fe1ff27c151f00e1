"""An experiment from its Config to its Result."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from mdrlib import checkpoint, distributed, results
from mdrlib.config import MINERS, Config
from mdrlib.datasets import ImageSet, PKBatchSampler, load
from mdrlib.datasets.images import ImageFiles
from mdrlib.datasets.loader import Photographs, default_workers, in_memory
from mdrlib.datasets.sampling import noisy_labels, some_classes, split_classes
from mdrlib.evaluation import EDGES, History, Images, Splits, embed_all, measure
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MDR, MemoryBank
from mdrlib.models import build_embedder
from mdrlib.results import Result
from mdrlib.retrieval import search
from mdrlib.trainer import Trainer, progress

NEIGHBOURS = 10  # kept of each test image, for galleries
SAVE_SECONDS = 15  # between checkpoints
CHECKPOINT = "checkpoint.pt"
Sets = dict[str, ImageSet | ImageFiles]


def run(config: Config, out_dir: str | Path) -> Result:
    """Train and evaluate, or continue an interrupted run, or return the Result of a finished one.

    On a CPU an interrupted run ends with the same bits as an uninterrupted one. Processes started by torchrun
    share each batch and end with the Result of one, within rounding; any number of them continues a run.

    Args:
        config: What to run. With mode "evaluate" nothing is trained.
        out_dir: Gets result.json, history.csv, checkpoint.pt (the weights that the result is of),
            distances.npz (histograms of normalized distances per evaluation) and embeddings.npz (of the test
            images: embeddings, labels, nearest neighbours; of a gallery: embeddings and labels).

    Raises:
        ValueError: If out_dir holds another experiment, naming the fields, or one on other data.
    """
    distributed.join()
    out_dir = Path(out_dir)
    # What is stored names no place on this machine.
    stored = replace(config, data_root=None, weights=config.weights and Path(config.weights).name).to_dict()
    distributed.agree("the config", stored)
    result, state = distributed.from_first(lambda: _found(config, out_dir))
    if result is not None:
        return result
    device = pick_device(config.device)
    sets, data = _load(config)
    if state is not None and state["data"] != data:
        raise ValueError(
            f"{out_dir} was trained on {state['data']}, which is now {data}; choose another folder"
        )
    training = _Training(config, sets, device)
    if state is not None:
        training.load_state_dict(state)
    about = {"config": stored, "data": data}
    with deterministic(device.type == "cpu"):
        training.fit(out_dir, about)
        row = training.history.select(training.trainer.model)
        arrays = training.arrays()
    result = Result(
        config=stored,
        metrics={k: v for k, v in row.items() if k.startswith(("recall", "r_", "map"))},
        selected_by="validation" if config.validation else "test" if config.select_by_test else "last",
        seconds=round(training.trainer.seconds, 3),
        environment=results.environment(device),
        git=results.git(),
        data=data,
        history=training.history.rows,
    )

    def write() -> Result:
        if config.mode == "train" and training.history.keep_best:
            checkpoint.save(out_dir / CHECKPOINT, about | training.state_dict())
        for name, found in arrays.items():
            checkpoint.write_atomically(out_dir / name, lambda file, a=found: np.savez_compressed(file, **a))
        results.write(result, out_dir)
        return result

    return distributed.from_first(write)


def pick_device(name: str) -> torch.device:
    """The device "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1"; ValueError if it is not there.

    In a distributed run each process gets the GPU of its local rank.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f'device must be "auto", "cpu", "cuda" or one GPU as "cuda:1", got {name!r}')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    if device.type == "cpu":
        return device
    if (device.index or 0) >= gpus:
        raise ValueError(f'device is {name!r} but torch sees {gpus or "no"} GPU; use "auto" or "cpu"')
    if distributed.world_size() > 1:
        count = distributed.local_world_size()
        if device.index is not None or count > gpus:
            seen = f"device is {name!r}, with {count} processes on a machine with {gpus} GPU"
            raise ValueError(f'{seen}: start at most one process per GPU, with "cuda", or use "cpu"')
        device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(device)
    return device


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms if `wanted`, and restore its settings.

    On a CPU, index_put with accumulation adds in no fixed order otherwise. Filling uninitialized memory, a
    sixth of a training step, is not needed for that.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _found(config: Config, out_dir: Path) -> tuple[Result | None, dict[str, Any] | None]:
    """The Result of a finished run, or the checkpoint of an interrupted one, of the same config."""
    result = state = None
    if (out_dir / "result.json").exists():
        result = results.load_run(out_dir)
    elif (out_dir / CHECKPOINT).exists():
        state = checkpoint.load(out_dir / CHECKPOINT)
    else:
        return None, None
    there = Config.of(result.config if result else state.get("config", {}))
    old, new = json.loads(there.identity()), json.loads(config.identity())
    differ = [f"{k}: {old[k]!r} there, {new[k]!r} now" for k in new if old[k] != new[k]]
    if differ:
        raise ValueError(f"{out_dir} holds another experiment ({', '.join(differ)}); choose another folder")
    return result, state


def _load(config: Config) -> tuple[Sets, dict[str, Any]]:
    """The splits by name, and their sizes and fingerprints."""
    names = ("train", "query", "gallery") if config.dataset == "inshop" else ("train", "test")
    with distributed.local_first():
        sets = {name: load(config.dataset, name, config.data_root) for name in names}
    data = {name: {"images": len(part), "fingerprint": part.fingerprint} for name, part in sets.items()}
    if config.weights is not None:
        with open(config.weights, "rb") as file:
            data["weights"] = {"fingerprint": hashlib.file_digest(file, "sha256").hexdigest()[:16]}
    distributed.agree("the data", data)
    return sets, data


class _Training:
    """What a Config trains with: a Trainer, its batches, and the History of evaluations."""

    def __init__(self, config: Config, sets: Sets, device: torch.device) -> None:
        self.config, self.device = config, device
        self.workers = config.workers
        if self.workers < 0:  # on a CPU all cores are busy with training
            self.workers = default_workers() // distributed.local_world_size() if device.type == "cuda" else 0
        self.splits = self._splits(sets)
        self.generator = Generator(device=device).manual_seed(config.seed)
        self.iterations = config.iterations if config.mode == "train" else 0
        # Without iterations nothing is shared: any number of processes can evaluate.
        place = (distributed.rank(), distributed.world_size()) if self.iterations else (0, 1)
        labels, of_batches = self.splits["train"][1], (config.batch_size, config.per_class)
        self.sampler = PKBatchSampler(labels, *of_batches, self.iterations, config.seed, *place)
        self.spent: list[float] = []  # seconds that a loading process took for each batch
        self.trainer = self._trainer()
        keep = "validation_recall@1" if config.validation else "recall@1" if config.select_by_test else None
        self.history = History(lambda model: measure(model, self.splits, config.recall_at), keep)

    def _splits(self, sets: Sets) -> Splits:
        config, train = self.config, sets["train"]
        images: dict[str, Images] = {}
        for name, part in sets.items():
            if isinstance(part, ImageSet):
                images[name] = part.images.to(self.device)
            else:
                reading = config.image_size, self.workers, config.cache_images, self.device
                images[name] = Photographs(part, torch.arange(len(part)), *reading)
        kept, held_out = split_classes(train.labels, config.validation, config.seed)
        if config.train_classes:
            kept = kept[some_classes(train.labels[kept], config.train_classes, config.seed)]
        labels = train.labels[kept]
        if config.label_noise:
            labels = noisy_labels(labels, config.label_noise, config.seed)
        splits = {"train": (images["train"][kept], labels.unique(return_inverse=True)[1])}
        for name in [name for name in sets if name != "train"]:
            splits["test" if name == "query" else name] = images[name], sets[name].labels
        if config.validation:
            splits["validation"] = images["train"][held_out], train.labels[held_out]
        return splits

    def _trainer(self) -> Trainer:
        c, device = self.config, self.device
        checkpoint.seed_everything(c.seed)
        with distributed.local_first():
            options = c.pretrained, c.weights, c.freeze_batch_norm, c.pooling
            model = build_embedder(c.backbone, c.dim, c.normalize, *options).to(device)
        mdr = bank = None
        if c.with_mdr:
            options = c.learn_levels, c.diagonal_in_stats, c.mdr_backend
            mdr = MDR(c.levels, c.momentum, *options).to(device)
        if c.with_mdr and c.memory_bank:
            bank = MemoryBank(c.memory_bank, c.dim).to(device)
        mining = MINERS[c.miner], self.generator
        if c.loss == "triplet":
            loss = TripletLoss(c.margin, *mining)
        else:
            from mdrlib.losses import build_loss

            classes = int(self.splits["train"][1].max()) + 1
            loss = build_loss(c.loss, classes, c.dim, c.margin, c.pair_margin, *mining).to(device)
        groups = [{"params": list(model.parameters()), "weight_decay": c.weight_decay}]
        if mdr is not None:  # level_weight alone holds the levels back
            groups.append({"params": list(mdr.parameters()), "weight_decay": 0.0})
        if proxies := list(loss.parameters()):
            groups.append({"params": proxies, "weight_decay": c.weight_decay, "lr": c.proxy_lr})
        optimizer = torch.optim.Adam(groups, lr=c.lr)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(c.lr_steps), c.lr_decay)
        options = c.mdr_weight, c.level_weight, c.bf16, c.channels_last, c.compile
        return Trainer(model, loss, optimizer, scheduler, mdr, bank, *options)

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of the iterations from `start` on."""
        (images, labels), augment = self.splits["train"], self.config.augment
        if isinstance(images, Photographs):
            seed, spent = self.config.seed, self.spent
            return images.training(labels, self.sampler, seed, augment, spent, start=start)
        return in_memory(images, labels, self.sampler, self.generator, augment, start=start)

    def fit(self, out_dir: Path, about: dict[str, Any]) -> None:
        """Train, evaluate and save to out_dir, from wherever `load_state_dict` has put the run."""
        config, saved = self.config, time.perf_counter()

        def evaluate_and_save(trainer: Trainer) -> None:
            nonlocal saved
            due = trainer.iteration in (0, self.iterations) or trainer.iteration % config.evaluate_every == 0
            if due:
                self.history.add(trainer, **self._loading())
            if distributed.rank() > 0:
                return
            if due:
                results.write_history(self.history.rows, out_dir)
            if trainer.iteration and (due or time.perf_counter() - saved > SAVE_SECONDS):
                checkpoint.save(out_dir / CHECKPOINT, about | self.state_dict())
                saved = time.perf_counter()

        shown = progress(f"{config.dataset} {config.method}", self.iterations, self.trainer.iteration)
        self.trainer.fit(self.batches, [shown, evaluate_and_save])

    def _loading(self) -> dict[str, float | None]:
        """Images per second that loading alone would give; nothing for images in memory."""
        if not isinstance(self.splits["train"][0], Photographs):
            return {}
        images = self.config.batch_size * len(self.spent) * max(self.workers, 1)
        return {"loader_images_per_second": round(images / sum(self.spent), 1) if self.spent else None}

    def state_dict(self) -> dict[str, Any]:
        random = {"generator": self.generator.get_state(), "rng": checkpoint.rng_state()}
        return self.trainer.state_dict() | self.history.state_dict() | random

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)
        self.history.load_state_dict(state)
        if len(state["generator"]) == len(self.generator.get_state()):  # a CPU's and a GPU's do not fit
            self.generator.set_state(state["generator"])
        checkpoint.set_rng_state(state["rng"])

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """What distances.npz and embeddings.npz hold, in the first process."""
        splits, rows, counts = self.splits, self.history.rows, self.history.arrays
        model, names = self.trainer.model, [name for name in ("test", "gallery") if name in splits]
        x, *gallery = (embed_all(model, splits[name][0]).cpu() for name in names)
        if distributed.rank():
            return {}
        histograms = {"edges": EDGES.numpy(), "iterations": np.array([row["iteration"] for row in rows])}
        histograms |= {k: np.stack([evaluation[k].numpy() for evaluation in counts]) for k in counts[0]}
        found = {"embeddings": x.numpy(), "labels": splits["test"][1].numpy()}
        if gallery:
            found |= {"gallery_embeddings": gallery[0].numpy()}
            found |= {"gallery_labels": splits["gallery"][1].numpy()}
        there = len(gallery[0]) if gallery else len(x) - 1
        found["neighbours"] = search(x, *gallery, k=min(NEIGHBOURS, there))[1].numpy()
        return {"distances.npz": histograms, "embeddings.npz": found}
