import hashlib
import http.server
import threading

import pytest

from mdrlib.datasets import sources
from mdrlib.datasets.sources import data_root, download, verify

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """/whole gives CONTENT, /cut breaks off in the middle, /nonsense is no HTTP, /slow never answers."""

    def do_GET(self):
        if self.path == "/slow":
            self.server.release.wait(10)
        elif self.path == "/nonsense":
            self.wfile.write(b"what?\r\n\r\n")
        elif self.path in ("/whole", "/cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:1000])
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.release = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.release.set()
    server.shutdown()
    server.server_close()


def test_a_download_arrives_whole_in_a_folder_made_for_it(url, tmp_path):
    download(f"{url}/whole", tmp_path / "new" / "file.bin", SHA256)
    assert (tmp_path / "new" / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    "page, sha256, message",
    [
        ("whole", "0" * 64, "expected 0000"),
        ("cut", SHA256, "sha256"),
        ("missing", SHA256, "404"),
        ("nonsense", SHA256, "nonsense"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(url, tmp_path, page, sha256, message):
    with pytest.raises(OSError, match=message):
        download(f"{url}/{page}", tmp_path / "file.bin", sha256)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_keeps_the_file_that_was_there(url, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"before")
    with pytest.raises(OSError, match=f"{url}/cut"):
        download(f"{url}/cut", tmp_path / "file.bin", SHA256)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_silent_server_is_given_up(url, tmp_path, monkeypatch):
    assert sources.TIMEOUT == 20
    monkeypatch.setattr(sources, "TIMEOUT", 0.1)
    with pytest.raises(OSError, match="timed out"):
        download(f"{url}/slow", tmp_path / "file.bin", SHA256)


def test_progress_is_shown_on_stderr_unless_asked_otherwise(url, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MDR_PROGRESS", raising=False)
    download(f"{url}/whole", tmp_path / "a", SHA256)
    out, err = capsys.readouterr()
    assert "whole" in err and "100%" in err and not out
    monkeypatch.setenv("MDR_PROGRESS", "off")
    download(f"{url}/whole", tmp_path / "b", SHA256)
    assert capsys.readouterr() == ("", "")


def test_verify(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    verify(path, SHA256)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"{path} is damaged.*expected {SHA256}"):
        verify(path, SHA256)
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "missing", SHA256)


def test_the_data_root_is_the_argument_then_the_environment_then_the_clone(tmp_path, monkeypatch):
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    default = data_root()
    assert default.name == "data" and (default.parent / "pyproject.toml").exists()
    monkeypatch.setenv("MDR_DATA_ROOT", "")
    assert data_root() == default
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "env"))
    assert data_root() == tmp_path / "env"
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/sets") == tmp_path / "sets"
