"""Data sets brought to their place: downloads that continue, archives unpacked safely, the command `data`."""

import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from mdrlib import __main__ as command
from mdrlib.checkpoint import temporary
from mdrlib.datasets import download, load
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.datasets.download import OMNIGLOT, data_root, state, unpack, verify

CONTENT = bytes(range(256)) * 4000
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Gives CONTENT, or the part that Range asks for.

    /file breaks off after `server.limit` bytes, if that is set, and /slow pauses there; /rangeless knows no
    ranges; /other gives something else; /chunked says no length and breaks off; /nonsense is no HTTP; /silent
    never answers. All keep what was asked in `server.asked`.
    """

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path == "/silent":
            self.server.release.wait(10)
        if self.path == "/nonsense":
            self.wfile.write(b"what?\r\n\r\n")
        if self.path in ("/silent", "/nonsense"):
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        content = CONTENT if self.path != "/other" else b"<html>Please log in</html>"
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/rangeless" else 0
        if first and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3E8\r\n" + content[:1000] + b"\r\nFFFF\r\n" + content[1000:1010])
            return
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.limit])
        if self.path == "/slow":
            self.wfile.flush()
            self.server.release.wait(30)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MDR_PROGRESS", "off")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.limit, server.asked, server.release = None, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_a_broken_download_continues(server, tmp_path, checksum):
    path = tmp_path / "new" / "file.tgz"
    server.limit = 300_000
    with pytest.raises(
        OSError, match="/file could not be read .*broke off after 300,000 of 1,024,000 bytes.*run it again"
    ):
        download.download(f"{server.url}/file", path, checksum)
    assert names(path.parent) == ["file.tgz.part"]
    with pytest.raises(OSError, match="broke off after 600,000 of 1,024,000"):
        download.download(f"{server.url}/file", path, checksum)
    server.limit = None
    download.download(f"{server.url}/file", path, checksum)
    assert path.read_bytes() == CONTENT and names(path.parent) == ["file.tgz"]
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_a_killed_download_continues(server, tmp_path):
    server.limit = 500_000
    context = multiprocessing.get_context("fork")
    arguments = (f"{server.url}/slow", tmp_path / "a", MD5)
    process = context.Process(target=download.download, args=arguments)
    process.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(path.stat().st_size for path in tmp_path.iterdir()):
        time.sleep(0.01)
    (part,) = tmp_path.iterdir()
    server.limit = None
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert names(tmp_path) == sorted(["a", part.name]), "what a running process writes is its own"
    (tmp_path / "a").unlink()
    server.asked.clear()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = part.stat().st_size
    assert 0 < kept <= 500_000 and names(tmp_path) == [part.name]
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and server.asked == [f"bytes={kept}-"]
    assert names(tmp_path) == ["a"]


def test_a_connection_that_breaks_without_a_length_keeps_what_came(server, tmp_path):
    with pytest.raises(OSError, match="/chunked could not be read"):
        download.download(f"{server.url}/chunked", tmp_path / "a", MD5)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[: (tmp_path / "a.part").stat().st_size]
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT[:5000])
    download.download(f"{server.url}/rangeless", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]


def test_a_part_that_is_whole_is_taken_and_one_that_is_wrong_is_deleted(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]
    for wrong in (CONTENT + b"more", bytes(len(CONTENT)), b"a beginning of another file"):
        (tmp_path / "b.part").write_bytes(wrong)
        with pytest.raises(OSError, match=f"/file gave a wrong file: .* its md5 is .*, expected {MD5}"):
            download.download(f"{server.url}/file", tmp_path / "b", MD5)
        assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "page, message",
    [("other", "other gave a wrong file"), ("missing", "404"), ("nonsense", "nonsense could not be read")],
)
def test_a_failed_download_leaves_nothing_and_keeps_what_was_there(server, tmp_path, page, message):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(OSError, match=message):
        download.download(f"{server.url}/{page}", tmp_path / "file", SHA256)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_silent_server_and_a_missing_one_are_errors(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    for url in (f"{server.url}/silent", "http://127.0.0.1:9/file"):
        with pytest.raises(OSError, match=f"{url} could not be read .*(timed out|refused)"):
            download.download(url, tmp_path / "a", SHA256)
    assert names(tmp_path) == []


def test_progress_is_shown_from_where_it_broke_off(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file.part").write_bytes(CONTENT[: len(CONTENT) // 2])
    monkeypatch.setenv("MDR_PROGRESS", "bar")
    download.download(f"{server.url}/file", tmp_path / "file", MD5)
    out, err = capsys.readouterr()
    assert "file" in err and "50%" in err and "100%" in err and not out
    monkeypatch.setenv("MDR_PROGRESS", "off")
    download.download(f"{server.url}/file", tmp_path / "b", SHA256)
    assert capsys.readouterr() == ("", "")


def test_a_file_without_a_published_checksum_only_has_to_be_whole(server, tmp_path):
    server.limit = 1000
    with pytest.raises(OSError, match="broke off"):
        download.download(f"{server.url}/file", tmp_path / "a", None)
    server.limit = None
    download.download(f"{server.url}/file", tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]


def test_verify(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    verify(path, MD5), verify(path, SHA256)
    with pytest.raises(ValueError, match=f"{path} is damaged: its md5 is {MD5}, expected 0000"):
        verify(path, "0" * 32)


def test_the_data_root_is_the_argument_then_the_environment_then_the_clone(tmp_path, monkeypatch):
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    default = data_root()
    assert default.name == "data" and (default.parent / "pyproject.toml").exists()
    monkeypatch.setenv("MDR_DATA_ROOT", "")
    assert data_root() == default
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "env"))
    assert data_root() == tmp_path / "env" and data_root(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/sets") == tmp_path / "sets"


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


def test_members_that_no_disk_holds_are_refused(tmp_path, monkeypatch):
    """A terabyte of holes, a terabyte that is not there, members larger than what is free."""
    sparse = tarfile.TarInfo("set/holes.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    sparse.size = 512
    path = tmp_path / "archive"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(sparse, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(ValueError, match=f"holes.jpg has a size of {2**40} or holes"):
        unpack(path, tmp_path / "set")
    large = tarfile.TarInfo("set/large.jpg")
    large.size = 2**50
    path.write_bytes(large.tobuf())
    with pytest.raises(
        OSError, match="archive could not be unpacked: .*its members need .* more than the disk"
    ):
        unpack(path, tmp_path / "set")
    for make in (tar, zipped):
        make(path, GOOD)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="need 1 bytes more than the disk"):
            patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(99, 89, 11))
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


def test_an_interrupt_leaves_nothing_or_leaves_the_annotation_out(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    path = zipped(tmp_path / "set.zip", [("set/0_list.txt", b"list"), *GOOD[:2]])
    move = os.replace

    def interrupted(source, target):
        if target.name == stop:
            raise KeyboardInterrupt
        move(source, target)

    for name, left in (("a", []), ("0_list.txt", ["a"])):
        stop = name
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupted)
            unpack(path, folder, "set/(.+)")
        assert names(folder) == left
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


SIZES = {
    "cub": {"train": (12, 3), "test": (8, 2)},
    "cars": {"train": (8, 2), "test": (12, 3)},
    "sop": {"train": (12, 3), "test": (8, 2)},
    "inshop": {"train": (8, 2), "query": (6, 3), "gallery": (6, 3)},
}


@pytest.fixture
def real(make_tree, monkeypatch):
    """Let the small trees pass as the real sets."""
    for name, sizes in SIZES.items():
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], sizes=sizes))
    monkeypatch.setenv("no_proxy", "*")
    return make_tree


def pack(folder, path, *top):
    """Archive entries of `folder`'s parent (or of `folder`) as the authors do, and remove them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = folder if top else folder.parent
    top = top or (folder.name,)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for entry in (e for name in top for e in sorted((base / name).rglob("*"))):
                file.write(entry, entry.relative_to(base))
    else:
        with tarfile.open(path, "w:gz") as file:
            for name in top:
                file.add(base / name, name)
    for name in top:
        shutil.rmtree(base / name)
    return hashlib.md5(path.read_bytes()).hexdigest()


def publish(monkeypatch, name, *changes):
    """Give the archives of a set, in their order, another checksum or url."""
    archives = BENCHMARKS[name].archives
    changed = tuple(replace(archive, **new) for archive, new in zip(archives, changes, strict=True))
    monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], archives=changed))


def content(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def call(*words, code=0):
    assert command.main(["data", *map(str, words)]) == code


def test_cub_is_downloaded_checked_and_unpacked_once(real, tmp_path, monkeypatch, capsys):
    folder = real("cub")
    md5 = pack(folder, tmp_path / "server" / "CUB_200_2011.tgz")
    url = (tmp_path / "server" / "CUB_200_2011.tgz").as_uri()
    publish(monkeypatch, "cub", {"checksum": md5, "url": url})
    call("cub")
    assert f"cub: complete (20 images) in {folder}" in capsys.readouterr().out
    assert len(load("cub", "train")) == 12
    assert names(folder) == ["CUB_200_2011.tgz", "image_class_labels.txt", "images", "images.txt"]
    before = content(folder)
    call("cub")
    assert content(folder) == before and capsys.readouterr().out == f"cub: complete (20 images) in {folder}\n"
    # What is lost is put back from the archive, without a download.
    shutil.rmtree(tmp_path / "server")
    load("cub", "train").paths[3].unlink()
    assert state("cub")[1] == "incomplete"
    call("cub")
    assert state("cub")[1] == "complete"


def test_a_download_that_fails_is_one_line_on_stderr(real, tmp_path, monkeypatch, capsys):
    publish(monkeypatch, "cub", {"url": (tmp_path / "nowhere.tgz").as_uri()})
    call("cub", code=1)
    err = capsys.readouterr().err
    assert err.startswith("mdrlib: ") and err.count("\n") == 1 and "nowhere.tgz could not be read" in err
    assert f"put the file at {tmp_path / 'CUB_200_2011' / 'CUB_200_2011.tgz'}" in err


@pytest.mark.parametrize("name", ["cars", "sop", "inshop"])
def test_what_is_fetched_by_hand_is_told(real, tmp_path, capsys, name):
    call(name, code=1)
    said, benchmark = capsys.readouterr(), BENCHMARKS[name]
    assert said.err == "" and benchmark.title in said.out and f"mdrlib data {name}" in said.out
    for archive in benchmark.archives:
        path = tmp_path / benchmark.folder / archive.name
        assert f"{path} (md5 {archive.checksum or 'not published'})\n" in said.out
    assert (tmp_path / benchmark.folder).is_dir(), "so that there is a place to put it"


def test_archives_of_cars_put_there_by_hand(real, tmp_path, monkeypatch, capsys):
    folder = real("cars")
    annotation = hashlib.md5((folder / "cars_annos.mat").read_bytes()).hexdigest()
    md5 = pack(folder, folder / "car_ims.tgz", "car_ims")
    publish(monkeypatch, "cars", {"checksum": annotation}, {"checksum": md5})
    kept = (folder / "cars_annos.mat").rename(tmp_path / "kept.mat")
    call("cars", code=1)
    assert "cars: absent (cars_annos.mat is missing)" in capsys.readouterr().out
    assert len(list((folder / "car_ims").iterdir())) == 20, "what is there is unpacked"
    kept.rename(folder / "cars_annos.mat")
    call("cars")
    assert load("cars", "test")[0][1] == 0 and "cars: complete" in capsys.readouterr().out


def test_an_archive_of_sop_put_there_by_hand(real, tmp_path, monkeypatch):
    folder = real("sop")
    archive = tmp_path / "Stanford_Online_Products.zip"
    publish(monkeypatch, "sop", {"checksum": pack(folder, archive)})
    folder.mkdir()
    archive.rename(folder / archive.name)
    call("sop", "--root", tmp_path)
    assert len(load("sop", "test")) == 8 and names(folder)[0] == "Ebay_test.txt"


@pytest.mark.parametrize("layout, images", [("inshop", ""), ("inshop apart", "Img")])
def test_inshop_in_both_layouts(real, layout, images):
    folder = real(layout)
    pack(folder / images, folder / images / "img.zip", "img")
    with zipfile.ZipFile(folder / images / "img.zip", "a") as file:
        for name in ("list_eval_partition.txt", "Eval/list_eval_partition.txt", ".bashrc"):
            file.writestr(name, "another one")
    before = names(folder)
    call("inshop")
    assert names(folder) == sorted({*before, "img"} if not images else before)
    assert len(load("inshop", "gallery")) == 6 and (folder / images / "img" / "WOMEN").is_dir()


@pytest.mark.parametrize("name, file", [("sop", "Stanford_Online_Products.zip"), ("cars", "car_ims.tgz")])
def test_an_archive_with_another_md5_is_refused(real, tmp_path, capsys, name, file):
    path = tmp_path / BENCHMARKS[name].folder / file
    path.parent.mkdir()
    path.write_bytes(b"not what was published")
    call(name, code=1)
    said = capsys.readouterr()
    assert f"{path} is damaged: its md5 is" in said.err and said.err.count("\n") == 1
    assert names(path.parent) == [file]


def test_a_miniature_is_left_alone(make_tree, capsys):
    folder = make_tree("cub")
    before = content(folder)
    call("cub")
    assert f"cub: miniature (20 images) in {folder}" in capsys.readouterr().out
    assert content(folder) == before


def table(capsys):
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


def test_check_lists_every_set(real, tmp_path, capsys):
    call("check")
    rows = table(capsys)
    assert list(rows) == ["cub", "cars", "sop", "inshop", "grocery", "omniglot"]
    for name, folder in (("cub", "CUB_200_2011"), ("inshop", "Inshop"), ("omniglot", "omniglot")):
        assert re.match(rf"{name} +absent +0\.0 MB  {tmp_path / folder} \(.* is missing\)$", rows[name])
    folder = real("cub")
    (folder / "more").write_bytes(bytes(1_500_000))
    call("check")
    assert re.match(rf"cub +complete +1\.5 MB  {folder} \(20 images\)$", table(capsys)["cub"])
    first = load("cub", "train").paths[0]
    first.unlink()
    call("check", code=1)
    row = table(capsys)["cub"]
    assert re.match(r"cub +incomplete ", row) and f"1 of 20 images are missing, such as {first}" in row
    path = folder / "images.txt"
    path.write_text("<html>")
    call("check", code=1)
    assert f"({path}, line 1: expected" in table(capsys)["cub"]


def test_check_knows_a_miniature(make_tree, capsys):
    make_tree("sop")
    call("check")
    row = table(capsys)["sop"]
    assert re.match(r"sop +miniature ", row) and row.endswith("(20 images)")


def test_omniglot_is_brought_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MDR_PROGRESS", "off")
    for split, archive in OMNIGLOT.items():
        (tmp_path / archive.name).write_bytes(split.encode())
        sha256, url = hashlib.sha256(split.encode()).hexdigest(), (tmp_path / archive.name).as_uri()
        monkeypatch.setitem(OMNIGLOT, split, replace(archive, checksum=sha256, url=url))
    # Where the server is lies beside the root, not above: archives there do not count as put by hand.
    call("omniglot")
    folder = tmp_path / "root" / "omniglot"
    assert (
        len(names(folder)) == 2 and f"omniglot: complete (2 archives) in {folder}" in capsys.readouterr().out
    )
    call("check")
    assert re.match("omniglot +complete", table(capsys)["omniglot"])
    (folder / OMNIGLOT["test"].name).write_bytes(b"other")
    call("check", code=1)
    assert "is damaged" in table(capsys)["omniglot"]


@pytest.mark.parametrize("words", ["data", "data mnist", "data cub sop", "data glyphs"])
def test_wrong_usage_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(words.split())
    assert caught.value.code == 2 and "usage: mdrlib" in capsys.readouterr().err
