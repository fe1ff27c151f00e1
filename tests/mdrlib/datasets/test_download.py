"""Downloads that continue and are checked, and the folder that they go to."""

import hashlib
import http.server
import multiprocessing
import os
import signal
import threading
import time

import pytest

from mdrlib.checkpoint import temporary
from mdrlib.datasets import download
from mdrlib.datasets.download import data_root, verify

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
    assert names(path.parent) == [temporary(path).name]
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
    came = temporary(tmp_path / "a").read_bytes()
    assert came == CONTENT[: len(came)]
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    temporary(tmp_path / "a").write_bytes(CONTENT[:5000])
    download.download(f"{server.url}/rangeless", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]


def test_a_part_that_is_whole_is_taken_and_one_that_is_wrong_is_deleted(server, tmp_path):
    temporary(tmp_path / "a").write_bytes(CONTENT)
    download.download(f"{server.url}/file", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT and names(tmp_path) == ["a"]
    for wrong in (CONTENT + b"more", bytes(len(CONTENT)), b"a beginning of another file"):
        temporary(tmp_path / "b").write_bytes(wrong)
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
    temporary(tmp_path / "file").write_bytes(CONTENT[: len(CONTENT) // 2])
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
