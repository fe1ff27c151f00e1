"""Archives unpacked: only wanted members, into their folder, whole or not at all."""

import gzip
import io
import os
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest

from mdrlib.checkpoint import temporary
from mdrlib.datasets.download import unpack


def names(folder):
    return sorted(path.name for path in folder.iterdir())


SPECIAL = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)


def tar(path, members, mode="w:gz"):
    """A tar of (name, bytes or the kind of a special member, where it links to)."""
    with tarfile.open(path, mode) as file:
        for name, content, *link in members:
            info = tarfile.TarInfo(name)
            if content not in SPECIAL:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, (link or [""])[0]
                file.addfile(info)
    return path


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content)
    return path


GOOD = [("set/a/1.jpg", b"one"), ("set/a/2.jpg", b"two"), ("set/list.txt", b"list"), ("notes.txt", b"no")]


@pytest.mark.parametrize("make, name", [(tar, "set.tgz"), (zipped, "set.zip")])
def test_only_what_is_wanted_is_taken_and_other_files_stay(tmp_path, make, name):
    folder = tmp_path / "set"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "mine.jpg").write_bytes(b"the user's")
    (folder / "a" / "1.jpg").write_bytes(b"of an attempt before")
    (folder / "notes.txt").write_bytes(b"the user's too")
    (folder / ".bashrc").write_bytes(b"and this")
    path = make(
        tmp_path / name, [*GOOD, ("set/.bashrc", b"x"), ("set/a/.profile", b"x"), ("set/lists.txt", b"x")]
    )
    unpack(path, folder, r"(?:set/)?(a/\w+\.jpg|list\.txt)")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {
        "a/1.jpg": b"one",
        "a/2.jpg": b"two",
        "a/mine.jpg": b"the user's",
        "list.txt": b"list",
        "notes.txt": b"the user's too",
        ".bashrc": b"and this",
    }
    unpack(path, tmp_path / "all")
    assert names(tmp_path / "all") == ["notes.txt", "set"]
    with pytest.raises(ValueError, match="it has none of the wanted files"):
        unpack(path, tmp_path / "none", "img/(.+)")
    assert names(tmp_path / "none") == []


EVIL = [
    (tar, [("../out.txt", b"x")]),
    (tar, [("set/../../out.txt", b"x")]),
    (tar, [("set/link", tarfile.SYMTYPE, "/etc"), ("set/link/x", b"x")]),
    (tar, [("set/link", tarfile.SYMTYPE, ".."), ("set/link/x", b"x")]),
    (tar, [("set/link", tarfile.LNKTYPE, "../../secret")]),
    (tar, [("set/device", tarfile.CHRTYPE)]),
    (tar, [("set/pipe", tarfile.FIFOTYPE)]),
]


@pytest.mark.parametrize("make, members", EVIL)
def test_a_member_that_would_do_harm_is_refused(tmp_path, make, members):
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    path = make(folder / "archive", [*GOOD, *members])
    with pytest.raises(ValueError, match=f"{path} is damaged or unsafe"):
        unpack(path, folder)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()] == ["archive"]
    assert names(folder) == ["archive"]


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(
    "name", ["../out.txt", "set/../../out.txt", "/OUTSIDE/out.txt", "..\\out.txt", "C:/out.txt"]
)
def test_whatever_its_name_a_member_stays_in_the_folder(tmp_path, make, name):
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    path = make(tmp_path / "archive", [*GOOD, (name.replace("/OUTSIDE", str(tmp_path)), b"x")])
    with pytest.raises(ValueError, match="archive is damaged or unsafe .*is no plain file in the folder"):
        unpack(path, folder)
    assert names(tmp_path) == ["archive", "deep"] and names(tmp_path / "deep") == ["set"]
    unpack(path, folder, "set/(a/.+)")  # it is not asked for
    assert names(folder) == ["a"]


def flips(content, count=60):
    """Copies of `content`, each with another bit flipped, evenly spaced."""
    for k in range(count):
        place, bit = divmod(k * (8 * len(content) - 1) // (count - 1), 8)
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def tarred(mode):
    return lambda path, members: tar(path, members, mode)


@pytest.mark.parametrize("make", [*map(tarred, ("w:gz", "w:bz2", "w:xz")), zipped])
def test_an_archive_with_a_flipped_bit_is_refused_or_unpacks_to_the_same(tmp_path, make):
    noise = np.random.default_rng(0).bytes(3000)
    whole = make(tmp_path / "whole", [("a/1.jpg", noise), *GOOD, ("z", b"z" * 2000)])
    unpack(whole, tmp_path / "wanted")

    def files(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    refused = 0
    for number, content in enumerate(flips(whole.read_bytes())):
        path, folder = tmp_path / "archive", tmp_path / str(number)
        path.write_bytes(content)
        try:
            unpack(path, folder)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged or unsafe (") and "\n" not in str(error)
            assert names(folder) == []
            refused += 1
        else:
            assert files(folder) == files(tmp_path / "wanted")  # such as a flip in a date
    assert refused > 30


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, mode):
    plain = tar(tmp_path / "plain", GOOD, "w").read_bytes()
    for place in range(512 + 512, len(plain) - 10_240 % 512, 1024):
        if place < 1024 * len(GOOD):
            damaged = plain[:place] + b"\xff" + plain[place + 1 :]
            path = tmp_path / "archive"
            path.write_bytes(damaged if mode == "w" else gzip.compress(damaged))
            with pytest.raises(ValueError, match="damaged or unsafe .a header is damaged"):
                unpack(path, tmp_path / "set")
            path.write_bytes(plain[:place] if mode == "w" else gzip.compress(plain[:place]))
            with pytest.raises(ValueError, match="damaged or unsafe .a header is damaged"):
                unpack(path, tmp_path / "set")
    assert names(tmp_path / "set") == []


def test_members_that_no_disk_holds_are_refused(tmp_path):
    """A terabyte of holes, and one that is not there."""
    sparse = tarfile.TarInfo("set/holes.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    sparse.size = 512
    path = tmp_path / "archive"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(sparse, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(ValueError, match="holes.jpg has holes or a size below 0"):
        unpack(path, tmp_path / "set")
    large = tarfile.TarInfo("set/large.jpg")
    large.size = 2**50
    path.write_bytes(large.tobuf())
    with pytest.raises(ValueError, match="archive is damaged or unsafe"):
        unpack(path, tmp_path / "set")
    assert names(tmp_path / "set") == []


@pytest.mark.parametrize("make", [*map(tarred, ("w", "w:gz", "w:bz2", "w:xz")), zipped])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" * 999])
def test_a_damaged_archive_leaves_nothing(tmp_path, make, damage):
    path = make(tmp_path / "archive", [*GOOD, ("set/big", bytes(range(256)) * 4000)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} is damaged or unsafe"):
        unpack(path, tmp_path)
    assert names(tmp_path) == ["archive"]


def test_an_interrupt_leaves_the_annotation_out(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    path = zipped(tmp_path / "set.zip", [("set/0_list.txt", b"list"), *GOOD[:2]])
    move = os.replace

    def interrupted(source, target):
        if target.name == stop:
            raise KeyboardInterrupt
        move(source, target)

    for name in ("1.jpg", "0_list.txt"):
        stop = name
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupted)
            unpack(path, folder, "set/(.+)")
        assert names(folder) == ["a"]
    # A process that was killed leaves its staging folder, which the next one removes; another one works.
    dead, alive = (temporary_of(folder / "unpacked", process) for process in (ended(), os.getppid()))
    for staging in (dead, alive):
        (staging / "new").mkdir(parents=True)
    unpack(path, folder, "set/(.+)")
    assert names(folder) == [alive.name, "0_list.txt", "a"]


def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def temporary_of(path, process):
    own = temporary(path)
    return own.with_name(own.name.replace(f".{os.getpid()}.", f".{process}."))
