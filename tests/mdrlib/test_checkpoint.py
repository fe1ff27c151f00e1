"""Files that are whole or absent, and what a checkpoint may hold."""

import multiprocessing
import os
import pickle
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from mdrlib import checkpoint

STATE = {
    "model": {"weight": torch.arange(6.0).view(2, 3), "flag": torch.tensor(True)},
    "numbers": [1, 2.5, None, float("inf")],
    "pair": (3, "three"),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(size):
    """Inside, the kernel lets no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_whole_in_a_folder_made_for_it_and_readable_by_all(tmp_path):
    path = tmp_path / "new" / "deep" / "file"
    seen = []

    def write(file):
        file.write(b"whole")
        file.flush()
        seen.append(path.exists())

    checkpoint.write_atomically(path, write)
    assert seen == [False] and path.read_bytes() == b"whole" and names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644
    checkpoint.write_atomically(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("no"), OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_writer_that_fails_midway_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the ne")
        raise error

    with pytest.raises(type(error)) as caught:
        checkpoint.write_atomically(path, write)
    assert caught.value is error and path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_what_a_killed_process_left_goes_and_what_others_write_stays(tmp_path):
    path = tmp_path / "checkpoint.pt"
    ready = multiprocessing.get_context("fork").Event()

    def write(file):
        file.write(b"half")
        file.flush()
        ready.set()
        time.sleep(60)

    writer = multiprocessing.get_context("fork").Process(
        target=checkpoint.write_atomically, args=(path, write)
    )
    writer.start()
    assert ready.wait(60)
    (own,) = names(tmp_path)
    elsewhere = own.replace(socket.gethostname(), "another-machine")
    (tmp_path / elsewhere).touch()
    checkpoint.save(path, STATE)
    assert names(tmp_path) == sorted([elsewhere, own, path.name])
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    checkpoint.save(path, STATE)
    assert names(tmp_path) == sorted([elsewhere, path.name])


@pytest.mark.parametrize("size", [0, 700, 20_000])
def test_a_full_disk_is_an_oserror_and_leaves_the_old_checkpoint(tmp_path, size):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    with pytest.raises(OSError), full_disk(size):
        checkpoint.save(path, {"large": torch.zeros(50_000)})
    assert names(tmp_path) == ["checkpoint.pt"]
    assert checkpoint.load(path)["numbers"] == STATE["numbers"]


def test_readers_meet_only_whole_files_while_one_is_rewritten(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": torch.zeros(1000)})

    def rewrite():
        for value in range(30):
            checkpoint.save(path, {"x": torch.full((1000,), float(value))})

    thread = threading.Thread(target=rewrite)
    thread.start()
    while thread.is_alive():
        assert checkpoint.load(path)["x"].unique().numel() == 1
    thread.join()


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    found = checkpoint.load(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found["model"][key], value) for key, value in STATE["model"].items())
    assert found["numbers"] == STATE["numbers"] and found["pair"] == STATE["pair"]


class Evil:
    """Unpickled, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, write):
    evil = Evil()
    evil.folder = str(tmp_path / "run")
    path = tmp_path / "checkpoint.pt"
    write({"model": evil}, path)
    with pytest.raises(ValueError, match="checkpoint.pt is damaged or not a checkpoint") as refusal:
        checkpoint.load(path)
    assert "weights_only" not in str(refusal.value)  # torch's advice to execute it
    assert names(tmp_path) == ["checkpoint.pt"]


def test_a_file_cut_or_changed_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "checkpoint.pt"
    x = torch.randn(2000)
    checkpoint.save(path, {"x": x, "numbers": list(range(50))})
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="checkpoint.pt is damaged.*delete it"):
            checkpoint.load(path)
    start = whole.index(x.numpy().tobytes())
    for place in range(start, start + 8000, 333):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]])
def test_another_thing_of_torch_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="weights.pt is damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "weights.pt")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        checkpoint.load(tmp_path / "missing.pt")
    with pytest.raises(IsADirectoryError):
        checkpoint.load(tmp_path)


def test_the_generator_goes_on_from_a_saved_state(tmp_path):
    torch.manual_seed(5)
    torch.randn(3)
    checkpoint.save(tmp_path / "rng.pt", checkpoint.rng_state())
    expected = torch.randn(3)
    torch.manual_seed(6)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "rng.pt"))
    assert torch.equal(torch.randn(3), expected)
