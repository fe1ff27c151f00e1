"""An experiment from its Config to its Result."""

import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from mdrlib import checkpoint, distributed, results
from mdrlib.allocator import keep_freed_memory
from mdrlib.config import MINERS, PLACE, Config
from mdrlib.datasets import ImageSet, PKBatchSampler, load
from mdrlib.datasets.images import ImageFiles
from mdrlib.datasets.loader import Photographs, default_workers, in_memory
from mdrlib.datasets.sampling import noisy_labels, some_classes, split_classes
from mdrlib.evaluation import EDGES, Evaluation, embed_all
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MDR, MemoryBank
from mdrlib.models import build_embedder
from mdrlib.results import Result
from mdrlib.retrieval import search
from mdrlib.trainer import Trainer

NEIGHBOURS = 10  # kept of each test image, for galleries


def pick_device(name: str) -> torch.device:
    """The torch device for "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Of several processes each has its own GPU, by its number on its machine. Raises ValueError where there are
    more of them than GPUs.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f'device must be "auto", "cpu", "cuda" or one GPU as "cuda:1", got {name!r}')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f'device is {name!r} but torch sees {gpus or "no"} GPU; use "auto" or "cpu"')
    if device.type == "cuda" and distributed.world_size() > 1:
        count = distributed.local_world_size()
        if device.index is not None or count > gpus:
            raise ValueError(
                f"device is {name!r}, with {count} processes on a machine with {gpus} GPU: each takes one of "
                'its own; start no more than there are GPUs, with device "auto" or "cuda", or use "cpu"'
            )
        device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(device)
    return device


def run(config: Config, out_dir: str | Path) -> Result:
    """Train and evaluate `config`; leave result.json, history.csv, checkpoint.pt and arrays in `out_dir`.

    With mode "evaluate" nothing is trained, and there is no checkpoint. In-Shop is tested by its queries in
    its gallery. The same call goes on with an interrupted run and returns the Result of a finished one at
    once. On a CPU an interrupted run ends with the same bits as an uninterrupted one.
    distances.npz holds histograms of normalized distances per evaluation; embeddings.npz the test
    embeddings, labels and nearest neighbours, and the gallery's embeddings and labels where there is one.
    Started by torchrun in several processes, these share each batch and end with the Result of one, within
    rounding. The first reads and writes `out_dir`; any number of processes goes on with what others left.
    Raises ValueError when out_dir holds another experiment, naming what differs.
    """
    distributed.join()
    distributed.agree("the config", _plain(config))
    out_dir = Path(out_dir)
    path = out_dir / "checkpoint.pt"
    result, state = distributed.from_first(lambda: _left(config, out_dir, path))
    if result is not None:
        return result
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    names = ("train", "query", "gallery") if config.dataset == "inshop" else ("train", "test")
    with distributed.local_first():
        sets = {name: load(config.dataset, name, config.data_root) for name in names}
    data = {name: {"images": len(part), "fingerprint": part.fingerprint} for name, part in sets.items()}
    if config.weights is not None:
        data["weights"] = {"fingerprint": _fingerprint(config.weights)}
    distributed.agree("the data", data)
    if state is not None and state["data"] != data:
        raise ValueError(f"{path} was trained on {state['data']}, which is now {data}; choose another folder")
    trainer = _trainer(config, sets, device, 0 if state is None else state["iteration"])
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
    chosen = len(trainer.history) - 1
    if trainer.keep_best:
        chosen = trainer.best
        trainer.model.load_state_dict(trainer.best_weights)
    arrays = _arrays(trainer)
    processes = {"processes": distributed.world_size()} if distributed.world_size() > 1 else {}
    result = Result(
        config=_plain(config),
        metrics={k: v for k, v in trainer.history[chosen].items() if k.startswith(("recall", "r_", "map"))},
        selected_by="validation" if config.validation else "test" if config.select_by_test else "last",
        seconds=round(trainer.seconds, 3),
        environment=results.environment(device) | processes,
        git=results.git(),
        data=data,
        history=trainer.history,
    )

    def write() -> Result:
        if config.mode == "train" and trainer.keep_best:
            checkpoint.save(path, about | trainer.state_dict())  # its model is the one that the result is of
        for name, found in arrays.items():
            checkpoint.write_atomically(out_dir / name, lambda file, a=found: np.savez_compressed(file, **a))
        results.write(result, out_dir)
        return result

    return distributed.from_first(write)


def _left(config: Config, out_dir: Path, path: Path) -> tuple[Result | None, dict[str, Any] | None]:
    """The Result of a finished run, else the checkpoint of an interrupted one, of this very config."""
    if (out_dir / "result.json").exists():
        result = results.load_run(out_dir)
        _refuse_other(config, result.config, out_dir)
        return result, None
    if not path.exists():
        return None, None
    state = checkpoint.load(path)
    _refuse_other(config, state.get("config", {}), out_dir)
    return None, state


def _trainer(
    config: Config, sets: dict[str, ImageSet | ImageFiles], device: torch.device, start: int = 0
) -> Trainer:
    checkpoint.seed_everything(config.seed)
    with distributed.local_first():
        model = build_embedder(
            config.backbone,
            config.dim,
            config.normalize,
            pretrained=config.pretrained,
            weights=config.weights,
            freeze_batch_norm=config.freeze_batch_norm,
            pooling=config.pooling,
        )
    mdr = bank = None
    if config.with_mdr:
        mdr = MDR(
            config.levels, config.momentum, config.learn_levels, config.diagonal_in_stats, config.mdr_backend
        ).to(device)
    if config.with_mdr and config.memory_bank:
        bank = MemoryBank(config.memory_bank, config.dim).to(device)
    generator = Generator(device=device).manual_seed(config.seed)
    workers = config.workers
    if workers < 0:  # a CPU's cores are all busy training
        workers = default_workers() // distributed.local_world_size() if device.type == "cuda" else 0

    def images_of(part: ImageSet | ImageFiles) -> Tensor | Photographs:
        if isinstance(part, ImageSet):
            return part.images.to(device)
        every = torch.arange(len(part))
        return Photographs(part, every, config.image_size, workers, config.cache_images, device)

    images = {name: images_of(part) for name, part in sets.items()}
    train = sets["train"]
    kept, held_out = split_classes(train.labels, config.validation, config.seed)
    if config.train_classes:
        kept = kept[some_classes(train.labels[kept], config.train_classes, config.seed)]
    labels = train.labels[kept]
    if config.label_noise:
        labels = noisy_labels(labels, config.label_noise, config.seed)
    splits = {"train": (images["train"][kept], labels.unique(return_inverse=True)[1])}
    test = "query" if "query" in sets else "test"
    splits["test"] = (images[test], sets[test].labels)
    if "gallery" in sets:
        splits["gallery"] = (images["gallery"], sets["gallery"].labels)
    if config.validation:
        splits["validation"] = (images["train"][held_out], train.labels[held_out])
    iterations = config.iterations if config.mode == "train" else 0
    pictures, labels = splits["train"]
    # Without iterations nothing is shared: any number of processes can evaluate.
    processes = (distributed.rank(), distributed.world_size()) if iterations else (0, 1)
    sampler = PKBatchSampler(labels, config.batch_size, config.per_class, iterations, config.seed, *processes)
    loading_rate = None
    if isinstance(pictures, Photographs):
        spent: list[float] = []  # by a process on each batch
        batches = pictures.training(labels, sampler, config.seed, config.augment, spent, start)

        def loading_rate() -> float:
            return config.batch_size * len(spent) / sum(spent) * max(workers, 1)
    else:
        batches = in_memory(pictures, labels, sampler, generator, config.augment, start)
    keep_best = "validation_recall@1" if config.validation else "recall@1" if config.select_by_test else None
    return Trainer(
        model=model.to(device),
        loss=_loss(config, int(labels.max()) + 1, generator).to(device),
        mdr=mdr,
        batches=batches,
        sampler=sampler,
        evaluate=Evaluation(splits, config.recall_at),
        generator=generator,
        lr=config.lr,
        lr_steps=config.lr_steps,
        lr_decay=config.lr_decay,
        loss_lr=config.proxy_lr,
        weight_decay=config.weight_decay,
        mdr_weight=config.mdr_weight,
        level_weight=config.level_weight,
        evaluate_every=config.evaluate_every,
        bf16=config.bf16,
        channels_last=config.channels_last,
        compile=config.compile,
        bank=bank,
        keep_best=keep_best,
        loading_rate=loading_rate,
    )


def _loss(config: Config, classes: int, generator: Generator) -> nn.Module:
    miner = MINERS[config.miner]
    if config.loss == "triplet":
        return TripletLoss(config.margin, miner, generator)
    from mdrlib import pml  # an extra

    return pml.build_loss(
        config.loss, classes, config.dim, config.margin, config.pair_margin, miner, generator
    )


def _arrays(trainer: Trainer) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of distances.npz and embeddings.npz, by file; in the first process alone."""
    splits = trainer.evaluate.splits
    embedded = {
        split: embed_all(trainer.model, splits[split][0]).cpu()
        for split in ("test", "gallery")
        if split in splits
    }
    if distributed.rank():
        return {}
    stacked = {k: np.stack([s[k].numpy() for s in trainer.snapshots]) for k in trainer.snapshots[0]}
    iterations = np.array([row["iteration"] for row in trainer.history])
    histograms = {"edges": EDGES.numpy(), "iterations": iterations} | stacked
    x, gallery = embedded["test"], embedded.get("gallery")
    found = {"embeddings": x.numpy(), "labels": splits["test"][1].numpy()}
    if gallery is not None:
        found |= {"gallery_embeddings": gallery.numpy(), "gallery_labels": splits["gallery"][1].numpy()}
    there = len(x) - 1 if gallery is None else len(gallery)
    found["neighbours"] = search(x, gallery, k=min(NEIGHBOURS, there))[1].numpy()
    return {"distances.npz": histograms, "embeddings.npz": found}


def _fingerprint(weights: str) -> str:
    """16 hex digits of the sha256 of a file of weights."""
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _plain(config: Config) -> dict[str, Any]:
    """The Config as JSON, without what names a place on a machine: data_root, the folder of weights."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    weights = None if config.weights is None else Path(config.weights).name
    return values | {"data_root": None, "weights": weights}


def _refuse_other(config: Config, found: dict[str, Any], out_dir: Path) -> None:
    wanted = _plain(config)
    found = _plain(Config()) | found  # defaults of fields newer than what was found do what was done before
    keys = sorted((wanted.keys() | found.keys()) - set(PLACE))
    differ = [k for k in keys if wanted.get(k) != found.get(k)]
    if differ:
        lines = ", ".join(f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} now" for k in differ)
        raise ValueError(f"{out_dir} holds another experiment ({lines}); choose another folder or delete it")
