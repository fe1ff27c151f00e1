"""The command `data`: sets fetched, checked, unpacked once, and what it says of each."""

import hashlib
import re
import shutil
import tarfile
import zipfile
from dataclasses import replace

import pytest

from mdrlib import __main__ as command
from mdrlib.datasets import load
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.datasets.download import OMNIGLOT, state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
