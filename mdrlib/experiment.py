"""An experiment from its Config to its Result."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from mdrlib import checkpoint, results
from mdrlib.allocator import keep_freed_memory
from mdrlib.config import METHODS, PLACE, Config
from mdrlib.datasets import ImageSet, PKBatchSampler, load
from mdrlib.datasets.catalog import IN_MEMORY, ON_DISK
from mdrlib.datasets.sampling import split_classes
from mdrlib.evaluation import EDGES, Evaluation, embed
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MDR
from mdrlib.models import build_embedder
from mdrlib.results import Result
from mdrlib.retrieval import search
from mdrlib.trainer import Trainer

NEIGHBOURS = 10  # kept of each test image, for galleries


def pick_device(name: str) -> torch.device:
    """The torch device for "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1"."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f'device must be "auto", "cpu", "cuda" or one GPU as "cuda:1", got {name!r}')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f'device is {name!r} but torch sees {gpus or "no"} GPU; use "auto" or "cpu"')
    return device


def run(config: Config, out_dir: str | Path) -> Result:
    """Train and evaluate `config`; leave result.json, history.csv, checkpoint.pt and arrays in `out_dir`.

    The same call goes on with an interrupted run and returns the Result of a finished one at once. On a CPU
    an interrupted run ends with the same bits as an uninterrupted one. distances.npz holds histograms of
    normalized distances per evaluation; embeddings.npz the test embeddings, labels and nearest neighbours.
    Raises ValueError when out_dir holds another experiment, naming what differs.
    """
    if config.dataset in ON_DISK:
        raise ValueError(
            f"{config.dataset} cannot be trained on yet: its photographs stay on disk, and the trainer takes "
            f"images in memory; choose one of {sorted(IN_MEMORY)}"
        )
    out_dir = Path(out_dir)
    path = out_dir / "checkpoint.pt"
    if (out_dir / "result.json").exists():
        result = results.load_run(out_dir)
        _refuse_other(config, result.config, out_dir)
        return result
    state = checkpoint.load(path) if path.exists() else None
    if state is not None:
        _refuse_other(config, state.get("config", {}), out_dir)
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    train, test = (load(config.dataset, split, config.data_root) for split in ("train", "test"))
    data = {split.split: {"images": len(split), "fingerprint": split.fingerprint} for split in (train, test)}
    if state is not None and state["data"] != data:
        raise ValueError(f"{path} was trained on {state['data']}, which is now {data}; choose another folder")
    trainer = _trainer(config, train, test, device)
    if state is not None:
        trainer.load_state_dict(state)
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    # On a CPU, index_put with accumulation adds in no fixed order otherwise: no two runs would be alike.
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    # Determinism does not need empty tensors filled, which took a sixth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        about = {"config": _plain(config), "data": data}
        name = f"{config.dataset} {config.method}"
        trainer.fit(path, name, about, lambda history: results.write_history(history, out_dir))
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
    chosen = trainer.best if config.validation else len(trainer.history) - 1
    if config.validation:
        trainer.model.load_state_dict(trainer.best_weights)
        checkpoint.save(path, about | trainer.state_dict())  # its model is the one that the result is of
    _write_arrays(trainer, test, out_dir)
    result = Result(
        config=_plain(config),
        metrics={k: v for k, v in trainer.history[chosen].items() if k.startswith(("recall", "r_", "map"))},
        selected_by="validation" if config.validation else "last",
        seconds=round(trainer.seconds, 3),
        environment=results.environment(device),
        git=results.git(),
        data=data,
        history=trainer.history,
    )
    results.write(result, out_dir)
    return result


def _trainer(config: Config, train: ImageSet, test: ImageSet, device: torch.device) -> Trainer:
    checkpoint.seed_everything(config.seed)
    normalize, with_mdr = METHODS[config.method]
    model = build_embedder(config.backbone, config.dim, normalize, freeze_batch_norm=config.freeze_batch_norm)
    mdr = None
    if with_mdr:
        mdr = MDR(config.levels, config.momentum, config.learn_levels, config.diagonal_in_stats).to(device)
    generator = Generator(device=device).manual_seed(config.seed)
    kept, held_out = split_classes(train.labels, config.validation, config.seed)
    images, labels = train.images[kept].to(device), train.labels[kept].unique(return_inverse=True)[1]
    splits = {"train": (images, labels), "test": (test.images.to(device), test.labels)}
    if config.validation:
        splits["validation"] = (train.images[held_out].to(device), train.labels[held_out])
    sampler = PKBatchSampler(labels, config.batch_size, config.per_class, config.iterations, seed=config.seed)
    return Trainer(
        model=model.to(device),
        loss=TripletLoss(config.margin, generator=generator),
        mdr=mdr,
        images=images,
        labels=labels.to(device),
        sampler=sampler,
        evaluate=Evaluation(splits),
        generator=generator,
        lr=config.lr,
        lr_steps=config.lr_steps,
        weight_decay=config.weight_decay,
        mdr_weight=config.mdr_weight,
        level_weight=config.level_weight,
        evaluate_every=config.evaluate_every,
        augment=config.augment,
        keep_best="validation_recall@1" if config.validation else None,
    )


def _write_arrays(trainer: Trainer, test: ImageSet, out_dir: Path) -> None:
    stacked = {k: np.stack([s[k].numpy() for s in trainer.snapshots]) for k in trainer.snapshots[0]}
    iterations = np.array([row["iteration"] for row in trainer.history])
    histograms = {"edges": EDGES.numpy(), "iterations": iterations} | stacked
    x = embed(trainer.model, test.images.to(trainer.images.device)).cpu()
    neighbours = search(x, k=min(NEIGHBOURS, len(x) - 1))[1]
    found = {"embeddings": x.numpy(), "labels": test.labels.numpy(), "neighbours": neighbours.numpy()}
    for name, arrays in (("distances.npz", histograms), ("embeddings.npz", found)):
        checkpoint.write_atomically(out_dir / name, lambda file, a=arrays: np.savez_compressed(file, **a))


def _plain(config: Config) -> dict[str, Any]:
    """The Config as JSON knows it; data_root is left out, as it names a place on a machine."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    return values | {"data_root": None}


def _refuse_other(config: Config, found: dict[str, Any], out_dir: Path) -> None:
    wanted = _plain(config)
    keys = sorted((wanted.keys() | found.keys()) - set(PLACE))
    differ = [k for k in keys if wanted.get(k) != found.get(k)]
    if differ:
        lines = ", ".join(f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} now" for k in differ)
        raise ValueError(f"{out_dir} holds another experiment ({lines}); choose another folder or delete it")
