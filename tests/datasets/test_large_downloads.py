"""Downloads that go on where they broke off, and archives unpacked safely."""

import hashlib
import http.server
import io
import stat
import tarfile
import threading
import zipfile

import pytest

from mdrlib.datasets import sources
from mdrlib.datasets.sources import STAGING, Archive, download_large, extract, unpack, verify

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Gives CONTENT, or the part that Range asks for.

    /file breaks off after `server.limit` bytes, if that is set; /rangeless knows no ranges; /other gives
    something else; /chunked says no length and breaks off; all keep what was asked in `server.asked`.
    """

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
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

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MDR_PROGRESS", "off")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.limit, server.asked = None, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_download_goes_on(server, tmp_path):
    path = tmp_path / "new" / "file.tgz"
    server.limit = 300_000
    with pytest.raises(
        OSError, match="/file broke off after 300,000 of 1,024,000 bytes; call again to go on"
    ):
        download_large(f"{server.url}/file", path, MD5)
    assert names(path.parent) == ["file.tgz.part"]
    with pytest.raises(OSError, match="broke off after 600,000 of 1,024,000"):
        download_large(f"{server.url}/file", path, MD5)
    server.limit = None
    download_large(f"{server.url}/file", path, MD5)
    assert path.read_bytes() == CONTENT and names(path.parent) == ["file.tgz"]
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_a_connection_that_breaks_without_a_length_keeps_what_came(server, tmp_path):
    with pytest.raises(OSError, match="/chunked could not be read"):
        download_large(f"{server.url}/chunked", tmp_path / "a", MD5)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[: (tmp_path / "a.part").stat().st_size]
    download_large(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_anew(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT[:5000])
    download_large(f"{server.url}/rangeless", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", bytes(len(CONTENT))])
def test_a_part_that_is_as_long_as_the_file(server, tmp_path, part):
    (tmp_path / "a.part").write_bytes(part)
    download_large(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]
    assert server.asked == [f"bytes={len(part)}-"] + [None] * (part != CONTENT)


def test_a_file_with_another_md5_is_not_kept(server, tmp_path):
    for start in (None, b"a beginning of another file"):
        if start:
            (tmp_path / "a.part").write_bytes(start)
        with pytest.raises(OSError, match=f"gave a file with md5 .*, expected {MD5}; try again later"):
            download_large(f"{server.url}/{'file' if start else 'other'}", tmp_path / "a", MD5)
        assert names(tmp_path) == []
    download_large(f"{server.url}/file", tmp_path / "a", MD5)


def test_an_interrupt_keeps_the_part(server, tmp_path, monkeypatch):
    copy = sources._copy

    def interrupted(response, file, *rest, **more):
        file.write(response.read(1000))
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_large(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1000]
    monkeypatch.setattr(sources, "_copy", copy)
    download_large(f"{server.url}/file", tmp_path / "a", MD5)
    assert server.asked == [None, "bytes=1000-"] and (tmp_path / "a").read_bytes() == CONTENT


def test_no_server_is_an_oserror(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(OSError):
        download_large("http://127.0.0.1:9/file", tmp_path / "a", MD5)
    assert names(tmp_path) == []


def test_progress_starts_where_it_broke_off(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file.part").write_bytes(CONTENT[: len(CONTENT) // 2])
    monkeypatch.setenv("MDR_PROGRESS", "bar")
    download_large(f"{server.url}/file", tmp_path / "file", MD5)
    out, err = capsys.readouterr()
    assert "file" in err and "50%" in err and "100%" in err and not out


def test_verify_knows_md5(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    verify(tmp_path / "a", MD5)
    with pytest.raises(ValueError, match=f"its md5 is {MD5}, expected 0000"):
        verify(tmp_path / "a", "0" * 32)


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
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode or [0])[0] << 16
            file.writestr(info, content)
    return path


GOOD = [("set/a/1.jpg", b"one"), ("set/a/2.jpg", b"two"), ("set/list.txt", b"list"), ("notes.txt", b"no")]


@pytest.mark.parametrize("make, name", [(tar, "set.tgz"), (zipped, "set.zip")])
def test_an_archive_is_unpacked(tmp_path, make, name, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    extract(make(tmp_path / name, GOOD), tmp_path / "out")
    got = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert got == dict(GOOD)
    folder = tmp_path / "target"
    folder.mkdir()
    unpack(tmp_path / name, Archive(name, inside="set", last=("list.txt",)), folder)
    assert names(folder) == ["a", "list.txt"] and names(folder / "a") == ["1.jpg", "2.jpg"]


LINK = stat.S_IFLNK | 0o777
EVIL = [
    (tar, [("../out.txt", b"x")], "would leave"),
    (tar, [("set/../../out.txt", b"x")], "would leave"),
    (tar, [("/tmp/mdr-out.txt", b"x")], "would leave"),
    (tar, [("set/link", tarfile.SYMTYPE, "/etc"), ("set/link/x", b"x")], "neither file nor folder"),
    (tar, [("set/link", tarfile.SYMTYPE, ".."), ("set/link/x", b"x")], "neither file nor folder"),
    (tar, [("set/link", tarfile.LNKTYPE, "../../secret")], "neither file nor folder"),
    (tar, [("set/device", tarfile.CHRTYPE)], "neither file nor folder"),
    (tar, [("set/pipe", tarfile.FIFOTYPE)], "neither file nor folder"),
    (zipped, [("../out.txt", b"x")], "would leave"),
    (zipped, [("set/../../out.txt", b"x")], "would leave"),
    (zipped, [("/tmp/mdr-out.txt", b"x")], "would leave"),
    (zipped, [("..\\out.txt", b"x")], "would leave"),
    (zipped, [("C:/out.txt", b"x")], "would leave"),
    (zipped, [("set/link", b"/etc", LINK)], "neither file nor folder"),
]


@pytest.mark.parametrize("make, members, message", EVIL)
def test_a_member_that_would_do_harm_is_refused(tmp_path, make, members, message, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    path = make(folder / "archive", [*GOOD, *members])
    with pytest.raises(ValueError, match=f"{path} is refused: its member .* {message}"):
        unpack(path, Archive("archive", inside="set", last=("list.txt",)), folder)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()] == ["archive"]
    assert names(folder) == ["archive"]


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" * 999])
def test_a_damaged_archive_leaves_nothing(tmp_path, make, damage, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    path = make(tmp_path / "archive", [*GOOD, ("set/big", bytes(range(256)) * 4000)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} is damaged or no archive"):
        unpack(path, Archive("archive", inside="set", last=("list.txt",)), tmp_path)
    assert names(tmp_path) == ["archive"]


def test_another_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    path = zipped(tmp_path / "set.zip", GOOD)
    with pytest.raises(ValueError, match="another archive: expected it to hold photos/list.txt, found"):
        unpack(path, Archive("set.zip", inside="photos", last=("list.txt",)), tmp_path)
    with pytest.raises(ValueError, match=r"expected it to hold img, found \['notes.txt', 'set'\]"):
        unpack(path, Archive("set.zip", last=("img",)), tmp_path)
    assert names(tmp_path) == ["set.zip"]


def test_an_interrupt_while_unpacking_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    path = zipped(tmp_path / "set.zip", GOOD)
    archive = Archive("set.zip", inside="set", last=("list.txt",))
    take = zipfile.ZipFile.extract

    def interrupted(self, member, folder):
        if member.filename.endswith("2.jpg"):
            raise KeyboardInterrupt
        return take(self, member, folder)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, archive, tmp_path)
    assert names(tmp_path) == ["set.zip"]
    # A process that was killed leaves its folder, which the next one removes.
    (tmp_path / STAGING / "new" / "set" / "b").mkdir(parents=True)
    unpack(path, archive, tmp_path)
    assert names(tmp_path) == ["a", "list.txt", "set.zip"]


def test_an_interrupt_between_entries_leaves_the_annotation_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_PROGRESS", "off")
    path = zipped(tmp_path / "set.zip", [("set/0_list.txt", b"list"), *GOOD[:2]])
    archive = Archive("set.zip", inside="set", last=("0_list.txt",))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.jpg").write_bytes(b"of an attempt before")
    replace = sources.os.replace

    def interrupted(source, target):
        if target.name == "0_list.txt":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(sources.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, archive, tmp_path)
    assert names(tmp_path) == ["a", "set.zip"] and names(tmp_path / "a") == ["1.jpg", "2.jpg"]
    unpack(path, archive, tmp_path)
    assert names(tmp_path) == ["0_list.txt", "a", "set.zip"]
