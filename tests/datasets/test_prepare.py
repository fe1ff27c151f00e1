"""The command `data`: sets brought to their places, and the table of what is there."""

import dataclasses
import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile

import pytest

from mdrlib import __main__ as command
from mdrlib.datasets import cars, cub, inshop, load, omniglot, prepare, sop

SIZES = {
    cub: {"train": (12, 3), "test": (8, 2)},
    cars: {"train": (8, 2), "test": (12, 3)},
    sop: {"train": (12, 3), "test": (8, 2)},
    inshop: {"train": (8, 2), "query": (6, 3), "gallery": (6, 3)},
}


@pytest.fixture
def real(make_tree, tmp_path, monkeypatch):
    """Let the small trees pass as the real sets, whose archives have the checksums given."""
    for module, sizes in SIZES.items():
        monkeypatch.setattr(module, "SIZES", sizes)
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


def change(monkeypatch, module, **md5):
    """Give archives, named by their place in ARCHIVES, another md5 and url."""
    archives = list(module.ARCHIVES)
    for at, changes in md5.items():
        index = int(at.removeprefix("_"))
        archives[index] = dataclasses.replace(archives[index], **changes)
    monkeypatch.setattr(module, "ARCHIVES", tuple(archives))


def content(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def call(*words, code=0):
    assert command.main(["data", *map(str, words)]) == code


def test_cub_is_downloaded_checked_and_unpacked_once(real, tmp_path, monkeypatch, capsys):
    folder = real("cub")
    md5 = pack(folder, tmp_path / "server" / "CUB_200_2011.tgz")
    url = (tmp_path / "server" / "CUB_200_2011.tgz").as_uri()
    change(monkeypatch, cub, _0={"md5": md5, "url": url})
    call("cub")
    out = capsys.readouterr().out
    assert f"downloading {url}" in out and f"cub: complete; in {folder}" in out
    assert load("cub", "train").whole
    assert sorted(p.name for p in folder.iterdir()) == [
        "CUB_200_2011.tgz",
        "image_class_labels.txt",
        "images",
        "images.txt",
    ]
    before = content(folder)
    call("cub")
    assert content(folder) == before and capsys.readouterr().out == f"cub: complete; in {folder}\n"
    # What is lost is put back from the archive, without a download.
    shutil.rmtree(tmp_path / "server")
    load("cub", "train").paths[3].unlink()
    assert prepare.state("cub").kind == "incomplete"
    call("cub")
    assert prepare.state("cub").kind == "complete"


def test_a_download_that_fails_is_one_line_on_stderr(real, tmp_path, monkeypatch, capsys):
    change(monkeypatch, cub, _0={"url": (tmp_path / "nowhere.tgz").as_uri()})
    call("cub", code=1)
    err = capsys.readouterr().err
    assert err.startswith("mdrlib: ") and err.count("\n") == 1 and "nowhere.tgz could not be read" in err
    assert f"or put CUB_200_2011.tgz at {tmp_path / cub.FOLDER / 'CUB_200_2011.tgz'} by hand" in err
    with pytest.raises(FileNotFoundError):
        load("cub", "train")


def test_the_sources_are_the_published_ones():
    (archive,) = cub.ARCHIVES
    assert archive.url == "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
    md5 = {a.name: a.md5 for module in SIZES for a in module.ARCHIVES}
    assert md5 == {
        "CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78",
        "cars_annos.mat": "b407c6086d669747186bd1d764ff9dbc",
        "car_ims.tgz": "d5c8f0aa497503f355e17dc7886c3f14",
        "Stanford_Online_Products.zip": "7f73d41a2f44250d4779881525aea32e",
        "list_eval_partition.txt": None,
        "img.zip": None,
    }


@pytest.mark.parametrize("name, module", [("cars", cars), ("sop", sop), ("inshop", inshop)])
def test_what_is_fetched_by_hand_is_told(real, tmp_path, capsys, name, module):
    call(name, code=1)
    said = capsys.readouterr()
    assert said.err == "" and module.PAGE in said.out and f"python -m mdrlib data {name}" in said.out
    for archive in module.ARCHIVES:
        assert f"put {archive.name} (md5 {archive.md5 or 'not published'})" in said.out
        assert f"at  {tmp_path / module.FOLDER / archive.name}\n" in said.out
    assert (tmp_path / module.FOLDER).is_dir(), "so that there is a place to put it"


def test_archives_of_cars_put_there_by_hand(real, tmp_path, monkeypatch, capsys):
    folder = real("cars")
    annotation = hashlib.md5((folder / "cars_annos.mat").read_bytes()).hexdigest()
    md5 = pack(folder, folder / "car_ims.tgz", "car_ims")
    change(monkeypatch, cars, _0={"md5": annotation}, _1={"md5": md5})
    kept = (folder / "cars_annos.mat").rename(tmp_path / "kept.mat")
    call("cars", code=1)
    out = capsys.readouterr().out
    assert "put cars_annos.mat" in out and "put car_ims.tgz" not in out
    assert len(list((folder / "car_ims").iterdir())) == 20, "what is there is unpacked"
    kept.rename(folder / "cars_annos.mat")
    call("cars")
    assert load("cars", "test")[0][1] == 0 and "cars: complete" in capsys.readouterr().out


def test_sop_is_found_in_its_folder_or_beside(real, tmp_path, monkeypatch):
    folder = real("sop")
    md5 = pack(folder, tmp_path / "Stanford_Online_Products.zip")
    change(monkeypatch, sop, _0={"md5": md5})
    call("sop", "--root", tmp_path)
    assert load("sop", "train").whole
    shutil.rmtree(folder)
    folder.mkdir()
    (tmp_path / "Stanford_Online_Products.zip").rename(folder / "Stanford_Online_Products.zip")
    call("sop")
    assert load("sop", "test").whole and not (folder / ".extracting").exists()


@pytest.mark.parametrize("layout, images", [("inshop", ""), ("inshop apart", "Img")])
def test_inshop_in_both_layouts(real, layout, images, capsys):
    folder = real(layout)
    pack(folder / images, folder / images / "img.zip", "img")
    call("inshop")
    assert len(load("inshop", "gallery")) == 6 and (folder / images / "img" / "WOMEN").is_dir()


@pytest.mark.parametrize(
    "name, module, file", [("sop", sop, "Stanford_Online_Products.zip"), ("cars", cars, "car_ims.tgz")]
)
def test_an_archive_with_another_md5_is_refused(real, tmp_path, capsys, name, module, file):
    path = tmp_path / module.FOLDER / file
    path.parent.mkdir()
    path.write_bytes(b"not what was published")
    call(name, code=1)
    said = capsys.readouterr()
    assert f"{path} is damaged: its md5 is" in said.err and said.err.count("\n") == 1
    assert [p.name for p in path.parent.iterdir()] == [file]


def test_another_process_at_work_is_not_disturbed(real, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / sop.FOLDER
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        call("sop", code=1)
        assert f"at work in {folder}" in capsys.readouterr().err
    finally:
        os.close(handle)
    call("sop", code=1)
    assert "put Stanford_Online_Products.zip" in capsys.readouterr().out


def test_a_miniature_is_left_alone(make_tree, capsys):
    folder = make_tree("cub")
    before = content(folder)
    call("cub")
    assert "cub: miniature: 20 images of 11,788; in" in capsys.readouterr().out
    assert content(folder) == before


def table(capsys):
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["set", "present", "complete", "size", "path"]
    return {line.split()[0]: line for line in lines[1:]}


def test_check_lists_every_set(real, tmp_path, capsys):
    call("check")
    rows = table(capsys)
    assert list(rows) == ["glyphs", "digits", "cub", "cars", "sop", "inshop", "omniglot"]
    assert all(re.match(rf"{name} +yes +yes ", rows[name]) for name in ("glyphs", "digits"))
    for name, folder in (("cub", cub.FOLDER), ("inshop", "Inshop"), ("omniglot", "omniglot")):
        assert re.match(rf"{name} +no +no +0 MB  {tmp_path / folder}$", rows[name])
    folder = real("cub")
    (folder / "more").write_bytes(bytes(1_500_000))
    call("check")
    assert re.match(rf"cub +yes +yes +1\.5 MB  {folder}$", table(capsys)["cub"])
    first = load("cub", "train").paths[0]
    first.unlink()
    call("check", code=1)
    row = table(capsys)["cub"]
    assert re.match(r"cub +yes +no ", row) and f"1 of 20 images are missing, such as {first}" in row
    path = folder / "images.txt"
    path.write_text("<html>")
    call("check", code=1)
    assert f"incomplete: {path}, line 1: expected" in table(capsys)["cub"]


def test_check_knows_a_miniature(make_tree, capsys):
    make_tree("sop")
    call("check")
    assert "(miniature: 20 images of 120,053)" in table(capsys)["sop"]


def test_omniglot_is_brought_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MDR_PROGRESS", "off")
    monkeypatch.setattr(omniglot, "URL", tmp_path.as_uri() + "/")
    found = {}
    for split, (name, _) in omniglot.FILES.items():
        (tmp_path / name).write_bytes(name.encode())
        found[split] = (name, hashlib.sha256(name.encode()).hexdigest())
    monkeypatch.setattr(omniglot, "FILES", found)
    call("omniglot")
    folder = tmp_path / "root" / "omniglot"
    assert len(list(folder.iterdir())) == 2 and f"omniglot: complete; in {folder}" in capsys.readouterr().out
    call("check")
    assert re.match("omniglot +yes +yes", table(capsys)["omniglot"])
    (folder / found["test"][0]).write_bytes(b"other")
    assert prepare.state("omniglot").kind == "incomplete"
    (folder / found["test"][0]).unlink()
    call("check", code=1)
    assert "an archive is missing" in table(capsys)["omniglot"]


@pytest.mark.parametrize("words", ["data", "data mnist", "data cub sop", "data glyphs", "--out d data x"])
def test_wrong_usage_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(words.split())
    assert caught.value.code == 2 and "usage: mdrlib" in capsys.readouterr().err


def test_it_is_a_command_of_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mdrlib", "data", "inshop", "--root", str(tmp_path / "a")])
    assert command.main() == 1
    assert f"at  {tmp_path / 'a' / 'Inshop' / 'img.zip'}" in capsys.readouterr().out
