"""ci/install.py with a stand-in for the environment's Python: no network, nothing large."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import install

# Stands where .venv/bin/python would: notes how it was called, says $SAYS, exits with $CODE.
FAKE_PYTHON = '#!/bin/sh\necho "$@" >> "$PWD/calls"\necho "$SAYS"\nexit ${CODE:-0}\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose .venv is made in no time. Whatever is deleted or called must lie in it."""
    inside = tmp_path.parent  # a test moves the project to a folder next to it
    rmtree, popen = install.shutil.rmtree, install.subprocess.Popen

    def guarded_rmtree(path, *rest):
        assert Path(path).resolve().is_relative_to(inside), path
        rmtree(path, *rest)

    def guarded_popen(command, **words):
        assert Path(command[0]).resolve().is_relative_to(inside), command
        return popen(command, **words)

    monkeypatch.setattr(
        install, "shutil", SimpleNamespace(rmtree=guarded_rmtree, disk_usage=shutil.disk_usage)
    )
    fakes = SimpleNamespace(PIPE=-1, STDOUT=-2, Popen=guarded_popen)
    monkeypatch.setattr(install, "subprocess", fakes)
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    (tmp_path / "book").mkdir()
    for name in ("pyproject.toml", "book/pyproject.toml"):
        (tmp_path / name).write_text("[project]\n")

    def make_venv(command, **_):
        assert command[:3] == [sys.executable, "-m", "venv"]
        assert Path(command[3]).resolve().is_relative_to(inside), command
        fake = Path(command[3]) / "bin/python"
        fake.parent.mkdir(parents=True)
        fake.write_text(FAKE_PYTHON)
        fake.chmod(0o755)
        return SimpleNamespace(returncode=0)

    fakes.run = make_venv
    monkeypatch.setattr(install, "ROOT", tmp_path)
    return tmp_path


def calls(project: Path) -> list[str]:
    """What pip was called with since the last look."""
    path = project / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split("--disable-pip-version-check ")[1] for line in lines]


BOTH = ["-r requirements.txt", "--no-deps -e . -e ./book"]


def test_installs_once_and_again_when_the_requirements_change(project):
    assert install.install(project, needed_gb=0) is True
    assert calls(project) == BOTH
    assert install.install(project, needed_gb=0) is False
    assert calls(project) == []
    (project / ".venv/kept").touch()
    (project / "requirements.txt").write_text("numpy==2\n")
    assert install.install(project, needed_gb=0) is True
    assert calls(project) == BOTH
    (project / "book/pyproject.toml").write_text("[project]\nname = 'mdrbook'\n")
    assert install.install(project, needed_gb=0) is True
    assert calls(project) == BOTH and (project / ".venv/kept").exists()
    assert install.install(project, needed_gb=0) is False


def test_an_interrupted_install_starts_clean(project, capsys):
    (project / ".venv").mkdir()
    (project / ".venv/half").touch()
    assert install.install(project, needed_gb=0) is True
    assert not (project / ".venv/half").exists() and calls(project) == BOTH
    assert "unfinished" in capsys.readouterr().out


def test_a_venv_whose_python_is_gone_or_that_was_moved_is_mended(project, tmp_path):
    install.install(project, needed_gb=0)
    (project / ".venv/bin/python").unlink()
    assert install.install(project, needed_gb=0) is True
    moved = project.rename(tmp_path.parent / (tmp_path.name + "-moved"))
    calls(moved)
    assert install.install(moved, needed_gb=0) is True and calls(moved) == BOTH


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("ERROR: [Errno 28] No space left on device", "The disk is full"),
        ("Failed to establish a new connection: Temporary failure in name resolution", "check the network"),
        ("Looking\nERROR: No matching distribution found for numpy==1\nmore", "No matching distribution"),
        ("", "pip failed"),
    ],
)
def test_a_pip_failure_is_one_line_and_leaves_no_stamp(project, monkeypatch, capsys, says, told):
    monkeypatch.setattr(install, "check_disk", lambda *_: None)
    monkeypatch.setenv("SAYS", says)
    monkeypatch.setenv("CODE", "1")
    assert install.main() == 1
    error = capsys.readouterr().err
    assert told in error and "call make again" in error and error.count("\n") == 1
    assert not (project / ".venv/.ready").exists()
    monkeypatch.setenv("CODE", "0")
    assert install.main() == 0 and (project / ".venv/.ready").exists()


def test_without_a_network_a_working_venv_is_kept_but_the_update_is_not_forgotten(project, monkeypatch):
    install.install(project, needed_gb=0)
    (project / ".venv/kept").touch()
    (project / "requirements.txt").write_text("numpy==2\n")
    monkeypatch.setenv("SAYS", "Max retries exceeded")
    monkeypatch.setenv("CODE", "1")
    with pytest.raises(install.NetworkError):
        install.install(project, needed_gb=0)
    monkeypatch.setenv("CODE", "0")
    assert install.install(project, needed_gb=0) is True and (project / ".venv/kept").exists()


def test_a_full_disk_is_told_before_anything_is_made(project):
    with pytest.raises(
        install.InstallError, match=r"needs 1e\+09 GB and the disk of .* has \d+\.\d GB free: free"
    ):
        install.install(project, needed_gb=1e9)
    assert not (project / ".venv").exists()


def test_a_disk_that_fills_elsewhere_and_ctrl_c_are_one_line_too(project, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, os.strerror(28))

    def interrupted(*_):
        raise KeyboardInterrupt

    for what, code, told in (
        (full, 1, "The disk is full"),
        (interrupted, 130, "Interrupted. Call make again"),
    ):
        monkeypatch.setattr(install, "install", what)
        assert install.main() == code
        error = capsys.readouterr().err.strip()
        assert told in error and error.count("\n") == 0


def test_refuses_a_python_that_is_too_old_or_without_venv():
    install.check_python((3, 11, 0), has_pip=True)
    with pytest.raises(install.InstallError, match="Python 3.10.12 is too old: install 3.11 or later"):
        install.check_python((3, 10, 12), has_pip=True)
    with pytest.raises(install.InstallError, match="apt-get install python3.12-venv"):
        install.check_python((3, 12, 1), has_pip=False)
