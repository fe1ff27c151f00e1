"""Run an experiment: from a Config to a Result."""

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from mdrlib import checkpoint, checks, distributed, miners, results
from mdrlib.checkpoint import write_atomically
from mdrlib.config import PLACE, Config
from mdrlib.datasets import ImageSet, PKBatchSampler, load, split_names
from mdrlib.datasets.images import ImageFiles
from mdrlib.datasets.loader import Photographs, default_workers, in_memory
from mdrlib.datasets.preprocessing import Preprocessing
from mdrlib.datasets.sampling import noisy_labels, some_classes, split_classes, split_group
from mdrlib.diagnostics import DIAGNOSTICS
from mdrlib.evaluation import EDGES, History, Images, Measured, Splits, embed, measure
from mdrlib.losses import SpreadOut, TripletLoss, build_loss
from mdrlib.mdr import MDR, MemoryBank
from mdrlib.models import build_embedder
from mdrlib.models.backbones import freeze_stages
from mdrlib.models.small import SMALL
from mdrlib.results import Result
from mdrlib.retrieval import search
from mdrlib.trainer import Trainer, progress

NEIGHBOURS = 10  # stored for each test image
SAVE_SECONDS = 15  # between checkpoints
CHECKPOINT = "checkpoint.pt"
#: The metrics of a result, with Recall@K; other columns of its history describe training.
METRICS = ("r_precision", "map@r", "train_recall@1", "train_map@r", *DIAGNOSTICS)
State = dict[str, Any]  # of a run, as its checkpoint has it


def run(config: Config, out_dir: str | Path) -> Result:
    """Train and evaluate, or continue an interrupted run, or return the Result of a finished one.

    On a CPU an interrupted run ends with the same bits as an uninterrupted one.

    Args:
        config: What to run.
        out_dir: Folder for result.json, history.csv, checkpoint.pt (the weights of the result), distances.npz
            (histograms per evaluation) and embeddings.npz (of test images and gallery, with labels and
            nearest neighbours).

    Raises:
        ValueError: The folder holds another experiment; the message names the fields that differ.
        BlockingIOError: Another process uses the folder.
        FloatingPointError: A loss, a metric or a weight is not finite.
        OSError: Data or weights are missing or cannot be read.
    """
    distributed.join()
    out_dir = checks.path(out_dir, "out_dir")
    with ExitStack() as stack:

        def look() -> tuple[Result | None, State | None]:
            if not (out_dir / "result.json").exists():  # a finished run is only read
                stack.enter_context(checkpoint.locked(out_dir))
            return _found(config, out_dir)

        result, state = distributed.from_first(look)
        return result or _make(config, out_dir, state)


def _make(config: Config, out_dir: Path, state: State | None) -> Result:
    """Do the work of `run` in a folder that no other process uses."""
    device = pick_device(config.device)
    sets, data = _read(config)
    about = {"config": config.stored(), "data": data}
    distributed.agree("the run", about)
    if state is not None:
        _refuse_other(out_dir, state.get("data", {}), data)
    splits = _splits(config, sets, device)
    with deterministic(device.type == "cpu"):
        trainer, history = _train(config, splits, device, out_dir, about, state)

        def finish() -> Result:
            for name, arrays in _arrays(trainer.model, splits, history).items():
                write_atomically(out_dir / name, lambda file, a=arrays: np.savez_compressed(file, **a))
            row = history.rows[history.best]
            by = "validation" if "validation" in splits else "test" if config.select_by_test else "last"
            result = Result(
                **about,
                metrics={k: v for k, v in row.items() if k in METRICS or k.startswith("recall@")},
                selected_by=by,
                seconds=round(trainer.seconds, 3),
                environment=results.environment(device),
                git=results.git(),
                history=history.rows,
                per_class=_per_class(history, sets),
                schema=results.SCHEMA,
            )
            results.write(result, out_dir)
            return result

        return distributed.from_first(finish)


def _per_class(history: History, sets: dict[str, ImageSet | ImageFiles]) -> dict[str, Any]:
    """Return the metrics of each query class; None for a class without queries that count."""
    classes = sets["query" if "query" in sets else "test"].classes

    def at(evaluation: int, name: str) -> list[float | None]:
        values = history.arrays[evaluation][f"class_{name}"].tolist()
        return [None if value != value else value for value in values]

    found: dict[str, Any] = {"class": [classes[k] for k in history.arrays[0]["class_class"].tolist()]}
    found |= {name: at(history.best, name) for name in ("queries", "recall@1", "map@r")}
    along = {name: [at(k, name) for k in range(len(history.rows))] for name in ("recall@1", "map@r")}
    return found | {"history": {"iteration": [row["iteration"] for row in history.rows]} | along}


def pick_device(name: str) -> torch.device:
    """Return the device "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1"; ValueError if missing."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f'device must be "auto", "cpu", "cuda" or one GPU as "cuda:1", got {name!r}')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    shared = device.type == "cuda" and distributed.world_size() > 1
    if shared:  # a GPU for each process
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda" and (device.index or 0) >= gpus:
        advice = "start one process per GPU" if shared else 'use "auto" or "cpu"'
        raise ValueError(f"device is {name!r} but torch sees {gpus or 'no'} GPU; {advice}")
    if shared:
        torch.cuda.set_device(device)
    return device


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic algorithms if `wanted`: without them a CPU's index_put has no fixed order."""
    mode = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if wanted:
        torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would cost a sixth of a training step
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _found(config: Config, out_dir: Path) -> tuple[Result | None, State | None]:
    """Return the Result of a finished run of this config, or the checkpoint of an interrupted one."""
    result = state = None
    if (out_dir / "result.json").exists():
        result = results.load_run(out_dir)
    elif (out_dir / CHECKPOINT).exists():
        state = checkpoint.load(out_dir / CHECKPOINT)
    else:
        return None, None
    try:
        there = Config.of(result.config if result else state.get("config")).stored()
    except (TypeError, ValueError) as error:  # of another version, or of something else
        raise ValueError(f"{out_dir} holds another experiment ({error}); choose another folder") from error
    _refuse_other(out_dir, there, config.stored(), PLACE)
    if result and config.dataset == "folder":  # whose name does not say which photographs it has
        _refuse_other(out_dir, result.data, _read(config)[1])
    elif result and config.weights and checks.path(config.weights).exists():
        _refuse_other(out_dir, result.data, {"weights": _weights(config)})
    return result, state


def _refuse_other(out_dir: Path, there: State, now: State, but: Sequence[str] = ()) -> None:
    """Raise ValueError if a folder's contents differ from those of the present experiment."""
    differ = [key for key in sorted(now) if key not in but and there.get(key) != now[key]]
    if differ:
        words = ", ".join(f"{key}: {there.get(key)!r} there, {now[key]!r} now" for key in differ)
        raise ValueError(f"{out_dir} holds another experiment ({words}); choose another folder")


def _weights(config: Config) -> dict[str, str]:
    with open(checks.path(config.weights, "weights"), "rb") as file:
        return {"fingerprint": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


def _read(config: Config) -> tuple[dict[str, ImageSet | ImageFiles], dict[str, Any]]:
    names = split_names(config.dataset, config.data_root)
    sets = {name: load(config.dataset, name, config.data_root, config.class_split) for name in names}
    data = {name: {"images": len(part), "fingerprint": part.fingerprint} for name, part in sets.items()}
    return sets, data | ({"weights": _weights(config)} if config.weights else {})


def _splits(config: Config, sets: dict[str, ImageSet | ImageFiles], device: torch.device) -> Splits:
    workers = config.workers
    if workers < 0:  # on a CPU all cores are busy with training
        workers = default_workers() // distributed.local_world_size() if device.type == "cuda" else 0
    images: dict[str, Images] = {}
    for name, part in sets.items():
        if isinstance(part, ImageSet):
            images[name] = part.images.to(device)
        else:
            settings = Preprocessing.of(config), workers, config.cache_images, device
            crops = {"scale": config.crop_scale, "ratio": config.crop_ratio}
            images[name] = Photographs(part, torch.arange(len(part)), *settings, **crops)
    train = sets["train"]
    if config.held_out_group < 0:
        kept, held_out = split_classes(train.labels, config.validation, config.seed)
    else:
        kept, held_out = split_group(_groups(train), config.held_out_group)
    if config.train_classes:
        kept = kept[some_classes(train.labels[kept], config.train_classes, config.seed)]
    labels = train.labels[kept]
    if config.label_noise:
        labels = noisy_labels(labels, config.label_noise, config.seed)
    splits = {"train": (images["train"][kept], labels.unique(return_inverse=True)[1])}
    for name in [name for name in sets if name != "train"]:
        splits["test" if name == "query" else name] = images[name], sets[name].labels
    if len(held_out):
        splits["validation"] = images["train"][held_out], train.labels[held_out]
    return splits


def _groups(part: ImageSet | ImageFiles) -> Tensor:
    """Return the coarse class of each image."""
    if part.groups is None:
        raise ValueError(f"held_out_group needs coarse classes, which {part.name} lacks: use validation")
    return part.groups if isinstance(part, ImageSet) else part.groups[part.labels]


def _trainer(c: Config, classes: int, generator: Generator, device: torch.device) -> Trainer:
    torch.manual_seed(c.seed)
    network = c.backbone, c.dim, c.normalize, c.pretrained, c.weights, c.freeze_batch_norm, c.pooling
    model = build_embedder(*network).to(device)
    if c.frozen_stages:
        freeze_stages(model.backbone, c.frozen_stages)
    miner = getattr(miners, c.miner)
    if c.switch:
        miner = miners.switched(miner, c.switch)
    if c.loss == "triplet":
        loss = TripletLoss(c.margin, miner, generator)
    else:
        loss = build_loss(c.loss, classes, model.dim, c.margin, c.pair_margin, miner, generator).to(device)
    if c.spread_weight:
        loss = SpreadOut(loss, c.spread_weight)
    groups = [{"params": list(model.parameters()), "weight_decay": c.weight_decay}]
    mdr = bank = None
    if c.with_mdr:
        mdr = MDR(c.levels, c.momentum, c.learn_levels, c.diagonal_in_stats, c.mdr_backend).to(device)
        levels = {"params": list(mdr.parameters()), "weight_decay": 0.0}  # level_weight holds them back
        groups.append(levels | {"lr": c.lr if c.level_lr is None else c.level_lr})
        if c.memory_bank:
            bank = MemoryBank(c.memory_bank, model.dim).to(device)
    if proxies := list(loss.parameters()):
        groups.append({"params": proxies, "weight_decay": c.weight_decay, "lr": c.proxy_lr})
    optimizer = torch.optim.Adam(groups, lr=c.lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(c.lr_steps), c.lr_decay)
    # On a CPU channels last is up to 1.6 times as fast with these networks (the small ones have it anyway).
    channels_last = c.channels_last or (device.type == "cpu" and c.backbone not in SMALL)
    settings = {"bf16": c.bf16, "channels_last": channels_last, "compile": c.compile}
    weights = c.mdr_weight, c.level_weight, c.mdr_in_distance
    return Trainer(model, loss, optimizer, scheduler, mdr, bank, *weights, **settings)


def _train(
    config: Config, splits: Splits, device: torch.device, out_dir: Path, about: State, state: State | None
) -> tuple[Trainer, History]:
    """Train from the start or from a checkpoint's `state`, evaluate and save; end with the best weights."""
    images, labels = splits["train"]
    generator = Generator(device=device).manual_seed(config.seed)
    iterations = config.iterations if config.mode == "train" else 0
    # Without iterations nothing is shared: any number of processes can evaluate.
    place = (distributed.rank(), distributed.world_size()) if iterations else (0, 1)
    sampler = PKBatchSampler(labels, config.batch_size, config.per_class, iterations, config.seed, *place)
    trainer = _trainer(config, int(labels.max()) + 1, generator, device)
    by = "validation_recall@1" if "validation" in splits else "recall@1" if config.select_by_test else None
    spent: list[float] = []  # seconds that a loading process took for each batch

    def measured(model: nn.Module) -> Measured:
        # What fine-tuning adds shows against the features that it starts from.
        features = isinstance(images, Photographs) and not history.rows
        return distributed.from_first(lambda: measure(model, splits, config.recall_at, features))

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(images, Photographs):
            return images.training(labels, sampler, config.seed, config.augment, spent, start=start)
        return in_memory(images, labels, sampler, generator, config.augment, start=start)

    def save() -> None:
        random = {"generator": generator.get_state(), "rng": checkpoint.rng_state()}
        checkpoint.save(out_dir / CHECKPOINT, about | trainer.state_dict() | history.state_dict() | random)

    def evaluate_and_save(trainer: Trainer) -> None:
        nonlocal saved
        due = trainer.iteration in (0, iterations) or trainer.iteration % config.evaluate_every == 0
        if due:
            more = {}
            if isinstance(images, Photographs):  # what loading alone would give
                count = config.batch_size * len(spent) * max(images.workers, 1)
                more["loader_images_per_second"] = round(count / sum(spent), 1) if spent else None
            history.add(trainer, **more)
        if distributed.rank() > 0:
            return
        if due:
            results.write_csv(history.rows, out_dir / "history.csv")
        if trainer.iteration and (due or time.perf_counter() - saved > SAVE_SECONDS):
            save()
            saved = time.perf_counter()

    history, saved = History(measured, by), time.perf_counter()
    if state is not None:
        try:
            trainer.load_state_dict(state)
            history.load_state_dict(state)
            if len(state["generator"]) == len(generator.get_state()):  # a CPU's and a GPU's do not fit
                generator.set_state(state["generator"])
            checkpoint.set_rng_state(state["rng"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            problem = f"does not fit this run: {type(error).__name__} {' '.join(str(error).split())[:300]}"
            raise ValueError(f"{out_dir / CHECKPOINT} {problem}; choose another folder") from error
    shown = progress(f"{config.dataset} {config.method}", iterations, trainer.iteration)
    trainer.fit(batches, [shown, evaluate_and_save])
    history.select(trainer.model)
    if iterations and history.keep_best:
        distributed.from_first(save)
    return trainer, history


def _arrays(model: nn.Module, splits: Splits, history: History) -> dict[str, dict[str, np.ndarray]]:
    distances = {"edges": EDGES.numpy(), "iterations": np.array([row["iteration"] for row in history.rows])}
    for name in history.arrays[0]:
        distances[name] = np.stack([arrays[name].numpy() for arrays in history.arrays])
    x, gallery = embed(model, splits["test"][0]).cpu(), None
    found = {"embeddings": x.numpy(), "labels": splits["test"][1].numpy()}
    if "gallery" in splits:
        gallery = embed(model, splits["gallery"][0]).cpu()
        found |= {"gallery_embeddings": gallery.numpy(), "gallery_labels": splits["gallery"][1].numpy()}
    there = len(x) - 1 if gallery is None else len(gallery)
    found["neighbours"] = search(x, gallery, k=min(NEIGHBOURS, there))[1].numpy()
    return {"distances.npz": distances, "embeddings.npz": found}
