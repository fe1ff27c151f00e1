"""`mdrlib search`, `mdrlib embed` and `mdrlib export` from the shell's side."""

import re
import sys

import numpy as np
import pytest

from mdrlib import Embedder, Gallery, after_training
from mdrlib.__main__ import main


def test_search_prints_matches_and_writes_a_page(photo_run, album, tmp_path, capsys):
    query = album / "milk/e.PNG"
    words = ["search", photo_run, album, query, album / "loose.jpg", "-k", 3, "--out", tmp_path / "p.html"]
    assert main(list(map(str, words))) == 0
    said = capsys.readouterr().out.splitlines()
    gallery = Gallery(Embedder.load(photo_run))
    gallery.add(album)
    first, second = gallery.search([query, album / "loose.jpg"], 3)
    rows = [line for line in said if re.match(r" +\d", line)]
    for line, match in zip(rows, first + second, strict=True):
        rank, distance, rest = line.split(maxsplit=2)
        assert (int(rank), float(distance)) == (match.rank, pytest.approx(match.distance, abs=1e-4))
        name, path = rest.split("  ", 1)
        assert (name, path.strip()) == (match.class_name or "-", match.path)
    assert said[0] == f"{query} among 8 photographs" and said[-1] == str(tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text().count("<img ") == 8


def test_a_saved_gallery_is_searched_without_its_folder(photo_run, album, tmp_path, capsys):
    gallery = Gallery(Embedder.load(photo_run))
    gallery.add(album)
    gallery.save(tmp_path / "g.npz")
    (album / "milk/e.PNG").rename(tmp_path / "query.png")
    words = ["search", photo_run, tmp_path / "g.npz", tmp_path / "query.png", "-k", 1]
    assert main(list(map(str, words))) == 0
    assert "milk/e.PNG" in capsys.readouterr().out.splitlines()[-1]


def test_a_gallery_of_the_query_alone_has_no_matches(photo_run, album, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (album / "loose.jpg").rename(tmp_path / "one/a.jpg")
    words = ["search", photo_run, tmp_path / "one", tmp_path / "one/a.jpg", "--out", tmp_path / "p.png"]
    assert main(list(map(str, words))) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 and (tmp_path / "p.png").exists()


def test_embed_writes_what_others_can_index(photo_run, album, tmp_path, capsys):
    out = tmp_path / "embeddings.npz"
    assert main(["embed", str(photo_run), str(album), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: embeddings (8, 8) float32, files and classes\n"
    with np.load(out, allow_pickle=False) as file:
        files, classes, x = (file[name] for name in ("files", "classes", "embeddings"))
    assert x.dtype == np.float32 and files.dtype.kind == classes.dtype.kind == "U"
    assert set(files) == {str(path) for path in album.rglob("*.*")}
    class_of = dict(zip(files, classes, strict=True))
    assert class_of[str(album / "milk/fresh/a.jpg")] == "milk/fresh"
    assert class_of[str(album / "loose.jpg")] == ""
    np.testing.assert_allclose(x, Embedder.load(photo_run)([album / name for name in files]), atol=1e-6)


def test_what_embed_wrote_is_searched_from_anywhere_without_embedding_it_again(
    photo_run, album, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(album.parent)
    assert main(["embed", str(photo_run), "album", "--out", "e.npz"]) == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    words = ["search", str(photo_run), "../e.npz", "../album/milk/e.PNG", "-k", "7", "--out", "page.html"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert str(album / "loose.jpg") in said and f"  {album / 'milk/e.PNG'}" not in said
    assert (tmp_path / "other/page.html").read_text().count("<img ") == 8


@pytest.mark.slow
def test_export_prints_the_difference(photo_run, tmp_path, capsys):
    out = tmp_path / "model.pt2"
    assert main(["export", str(photo_run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(rf"{re.escape(str(out))}: differs by \d\.\de[-+]\d\d on random images .*\n", said)
    assert out.stat().st_size > 1e6


@pytest.mark.parametrize(
    "words, message",
    [
        ("search RUN/gone ALBUM ALBUM/loose.jpg", "gone does not exist: give the folder of a run"),
        ("search ALBUM ALBUM ALBUM/loose.jpg", "checkpoint.pt does not exist"),
        ("search RUN ALBUM/gone ALBUM/loose.jpg", "gone does not exist: give a folder of photographs"),
        ("search RUN ALBUM/loose.jpg ALBUM/loose.jpg", "loose.jpg is damaged or not a gallery"),
        ("search RUN ALBUM ALBUM/gone.jpg", "1 of 1 images are unreadable: .*gone.jpg"),
        ("search RUN ALBUM ALBUM/loose.jpg -k 0", "-k must be"),
        ("search RUN ALBUM ALBUM/loose.jpg --out OUT/page.pdf", r"must end in .html or .png, got .*page.pdf"),
        ("embed RUN ALBUM/milk/empty --out OUT/e.npz", "empty holds no images"),
        ("embed RUN ALBUM --out OUT/e.npy", r"--out must end in .npz, got .*e.npy"),
        ("export RUN --out OUT/model.pth", r"must end in .onnx or .pt2, got .*model.pth"),
        ("export RUN --out OUT/model.onnx", r"onnx is missing: pip install 'mdrlib\[export\]'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    photo_run, album, tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (album / "milk/empty").mkdir()
    places = {"RUN": photo_run, "ALBUM": album, "OUT": tmp_path / "out"}
    given = [re.sub("^(RUN|ALBUM|OUT)", lambda m: str(places[m[0]]), word) for word in words.split()]
    assert main(given) == 1
    said = capsys.readouterr()
    assert said.out == "" and re.search(message, said.err), said.err
    assert said.err.startswith("mdrlib: ") and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache/mdrlib").exists()


def test_wrong_queries_end_a_search_before_the_gallery_is_embedded(photo_run, album, monkeypatch, capsys):
    monkeypatch.setattr(after_training, "Gallery", None)
    assert main(["search", str(photo_run), str(album), str(album / "gone.jpg")]) == 1
    assert "gone.jpg" in capsys.readouterr().err
