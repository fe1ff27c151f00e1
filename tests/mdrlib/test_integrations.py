"""The examples of book/integrations with the real libraries: batches, levels, checkpoints, two processes.

This file is also what is started as a script, to be killed or to be one of two processes.
"""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mdrlib import MDR, distributed
from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.transforms import to_float

pytest.importorskip("lightning")
pytest.importorskip("transformers")
pytest.importorskip("pytorch_metric_learning")

from integrations import lightning_loop, pml_loop, transformers_loop  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
STEPS, EPOCH = 30, 15  # of 901 images in batches of 64
# Lightning evaluates before it trains: MDR has to do without statistics.
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
PLAIN = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "eval_strategy": "epoch"}


def recording(monkeypatch):
    """Return a list that gets the indices of the images of each batch that a network is trained on."""
    images = to_float(load("digits", "train").images)
    numbers = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    assert len(numbers) == len(images)
    seen, forward = [], torch.nn.Sequential.forward

    def record(self, images):
        if self.training:
            seen.append([numbers[image.numpy().tobytes()] for image in images])
        return forward(self, images)

    monkeypatch.setattr(torch.nn.Sequential, "forward", record)
    return seen


def drawn(steps=STEPS, **place):
    """The batches that have to come."""
    sampler = PKBatchSampler(load("digits", "train").labels, 64, 16, **place)
    return [sampler.batch(t) for t in range(steps)]


def assert_moved(state, prefix=""):
    levels, std = state[f"{prefix}levels"], state[f"{prefix}running_std"]
    assert all(abs(a - b) > 0.002 for a, b in zip(levels.tolist(), (-3, 0, 3), strict=True))
    assert state[f"{prefix}initialized"] and 0.1 < std < 1


def test_every_batch_of_the_examples_is_another_one():
    assert len({tuple(batch) for batch in drawn()}) == STEPS


def lightning_killed(folder):
    """A run that saves at each step and is killed in the middle of its second epoch, with a worker."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    step = lightning_loop.Retrieval.training_step

    def step_or_die(self, batch, index):
        if self.global_step == EPOCH + 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    lightning_loop.Retrieval.training_step = step_or_die
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1)
    lightning_loop.DataLoader = partial(lightning_loop.DataLoader, num_workers=1)
    lightning_loop.fit(max_epochs=2, callbacks=[saving], **QUIET)


def test_lightning_trains_on_every_batch_and_goes_on_after_a_kill(monkeypatch, tmp_path):
    kept = {"default_root_dir": tmp_path / "whole"}
    with monkeypatch.context() as inner:
        seen = recording(inner)
        model, trainer = lightning_loop.fit(max_epochs=2, **QUIET, **kept)
    assert seen == drawn()
    assert_moved(model.mdr.state_dict())
    network, levels = trainer.optimizers[0].param_groups
    assert (levels["lr"], levels["weight_decay"]) == (1e-3, 0) and levels["params"] == [model.mdr.levels]
    assert network["lr"] == 1e-3 and network["weight_decay"] > 0

    assert script("lightning_killed", tmp_path) == -signal.SIGKILL
    (left,) = tmp_path.glob("step=*.ckpt")
    state = torch.load(left, weights_only=False)
    assert state["global_step"] == EPOCH + 5 and state["sampler"] == {"epoch": 1, "position": 5}
    restored = {}

    def restore(self):
        restored.update({k: v.clone() for k, v in self.mdr.state_dict().items()})

    monkeypatch.setattr(lightning_loop.Retrieval, "on_train_start", restore, raising=False)
    seen = recording(monkeypatch)
    lightning_loop.fit(left, max_epochs=2, **QUIET, **kept)
    assert seen == drawn()[EPOCH + 5 :]
    assert_moved(restored)
    for name, value in restored.items():
        assert torch.equal(value, state["state_dict"][f"mdr.{name}"])


def lightning_two(folder):
    """One of two processes of Lightning, which starts the other."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = recording(monkeypatch)
        settings = {"devices": 2, "strategy": "ddp", "default_root_dir": folder}
        model, _ = lightning_loop.fit(max_epochs=2, **QUIET, **settings)
    torch.save({"seen": seen, "mdr": model.mdr.state_dict()}, Path(folder) / f"{distributed.rank()}.pt")


def test_two_processes_of_lightning_share_each_batch_and_have_one_mdr(tmp_path):
    assert script("lightning_two", tmp_path) == 0
    assert_alike(tmp_path, lightning_loop.fit(max_epochs=2, default_root_dir=tmp_path, **QUIET)[0].mdr)


def assert_alike(folder, alone):
    """Two processes share the batches of one, and end with its levels and statistics up to rounding."""
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    for rank, found in enumerate((first, second)):
        assert found["seen"] == drawn(rank=rank, world_size=2)
        assert_moved(found["mdr"])
    assert not any(set(a) & set(b) for a, b in zip(first["seen"], second["seen"], strict=True))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["mdr"][name], second["mdr"][name], rtol=0, atol=0)
        torch.testing.assert_close(first["mdr"][name], value, rtol=1e-2, atol=1e-2)


def test_transformers_trains_on_every_batch_and_goes_on_from_a_checkpoint(monkeypatch, tmp_path):
    settings = {"num_train_epochs": 2, "save_steps": EPOCH + 5, **PLAIN}
    with monkeypatch.context() as inner:
        seen = recording(inner)
        whole = transformers_loop.trainer(tmp_path, **settings)
        whole.train()
    assert seen == drawn()
    assert_moved(whole.model.mdr.state_dict())
    network, levels = whole.optimizer.param_groups
    assert levels["initial_lr"] == 1e-3 and levels["weight_decay"] == 0 and network["initial_lr"] == 1e-3
    assert [id(p) for p in levels["params"]] == [id(whole.model.mdr.levels)]
    before = whole.model.mdr.running_std.clone()
    assert whole.evaluate()["eval_loss"] > 0
    assert torch.equal(whole.model.mdr.running_std, before), "evaluation moves no statistics"

    resumed = transformers_loop.trainer(tmp_path, **settings)
    seen = recording(monkeypatch)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{EPOCH + 5}"))
    assert seen == drawn()[EPOCH + 5 :]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)


def test_a_loop_around_pytorch_metric_learning_gets_every_batch_and_its_state_back(monkeypatch):
    model, loss, miner = pml_loop.build()
    seen = recording(monkeypatch)
    state = pml_loop.train(model, loss, miner, 2)
    assert seen == drawn()
    assert state["sampler"] == {"epoch": 2, "position": 0}
    prefix = "embedding_regularizer.mdr."
    assert_moved(state["loss"], prefix)
    network, levels = state["optimizer"]["param_groups"]
    assert (levels["lr"], levels["weight_decay"], len(levels["params"])) == (1e-3, 0, 1)
    other = pml_loop.build()[1]
    other.load_state_dict(state["loss"])
    x = torch.randn(20, 32)
    assert torch.equal(other.eval().embedding_regularizer(x), loss.eval().embedding_regularizer(x))


def torchrun_two(folder):
    """One of two processes that torchrun has started: the Trainer of Transformers, then a loop of our own."""
    for name in ("transformers", "pml"):
        Path(folder, name).mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = recording(monkeypatch)
        trainer = transformers_loop.trainer(
            folder, num_train_epochs=2, save_strategy="no", ddp_backend="gloo", **PLAIN
        )
        trainer.train()
    place = f"{distributed.rank()}.pt"
    torch.save({"seen": seen, "mdr": trainer.model.mdr.state_dict()}, Path(folder, "transformers", place))
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = recording(monkeypatch)
        state = pml_loop.train(*pml_loop.build(), 2)["loss"]
    mdr = {name.removeprefix("embedding_regularizer.mdr."): value for name, value in state.items()}
    torch.save({"seen": seen, "mdr": mdr}, Path(folder, "pml", place))


def test_two_processes_of_torchrun_share_each_batch_and_have_one_mdr(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert script("torchrun_two", tmp_path, launcher) == 0
    state = pml_loop.train(*pml_loop.build(), 2)["loss"]
    alone = MDR()
    alone.load_state_dict({name.removeprefix("embedding_regularizer.mdr."): v for name, v in state.items()})
    assert_alike(tmp_path / "pml", alone)
    trainer = transformers_loop.trainer(tmp_path / "alone", num_train_epochs=2, save_strategy="no", **PLAIN)
    trainer.train()
    assert_alike(tmp_path / "transformers", trainer.model.mdr)


def script(function, folder, launcher=()):
    """Run a function of this file in other processes, one thread each, and return their exit status."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "book")))  # and not this folder, which has a datasets/
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": paths}
    words = [sys.executable, *launcher, __file__, function, str(folder)]
    return subprocess.run(words, cwd=ROOT, env=environment, timeout=500).returncode


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
