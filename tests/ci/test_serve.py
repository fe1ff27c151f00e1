"""`make serve`: what it says, and when."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import serve

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    "import sys, serve; from pathlib import Path; serve.ROOT = Path(sys.argv.pop(1)); sys.exit(serve.main())"
)


@pytest.fixture
def taken():
    """A port that another program listens on, and one that is free."""
    with socket.socket() as other, socket.socket() as free:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
        free.close()
        yield other.getsockname()[1], number


@pytest.fixture
def house(tmp_path):
    (tmp_path / "_build/html").mkdir(parents=True)
    (tmp_path / "_build/html/index.html").write_text("the book")
    return tmp_path


def begin(house, port):
    env = os.environ | {"PYTHONPATH": str(ROOT / "ci")}
    words = [sys.executable, "-c", COMMAND, str(house), "--port", str(port)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_taken_port_is_told_and_nothing_is_promised(house, taken):
    process = begin(house, taken[0])
    out, err = process.communicate()
    assert process.returncode == 1 and out == "" and err.count("\n") == 1
    assert f"Port {taken[0]} of 127.0.0.1 is not available (Address already in use)" in err
    assert f"make serve PORT={taken[0] % 65535 + 1}" in err


def test_the_address_is_told_once_the_book_is_there_and_ctrl_c_ends_it(house, taken):
    process = begin(house, taken[1])
    said = process.stdout.readline()
    address = f"http://127.0.0.1:{taken[1]}/"
    assert address in said
    assert urllib.request.urlopen(address).read() == b"the book"
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate()[1] and process.returncode == 0


@pytest.mark.parametrize("port", ["0", "65536", "http", "²"])
def test_what_is_no_port_is_refused(port, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve.py", "--port", port])
    with pytest.raises(SystemExit):
        serve.main()
    assert f"a port is a number from 1 to 65535, got '{port}'" in capsys.readouterr().err


def test_without_pages_it_says_what_to_call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["serve.py"])
    assert serve.main() == 1 and "call `make book` first" in capsys.readouterr().err
