import hashlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdrlib.datasets import load
from mdrlib.datasets.download import OMNIGLOT

ROOTS = [os.environ.get("MDR_DATA_ROOT"), Path(__file__).resolve().parents[4] / "shared" / "data"]
REAL = next((r for r in ROOTS if r and (Path(r) / "omniglot" / OMNIGLOT["train"].name).exists()), None)
needs_omniglot = pytest.mark.skipif(REAL is None, reason="Omniglot is neither in MDR_DATA_ROOT nor in shared")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch):
    """No test reads or writes the user's data."""
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    monkeypatch.setenv("MDR_PROGRESS", "off")


def png(drawer):
    """A drawing of 105 x 105, one bit: black ink, a bar 9 pixels wide at a place of the drawer's own."""
    from PIL import Image

    image = Image.new("1", (105, 105), 1)
    image.paste(0, (20 + 2 * drawer, 10, 29 + 2 * drawer, 95))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def archive(path, characters, drawers=3):
    """Write an archive like the authors', entries in no order; return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{path.stem}/", b"")
        for number, character in enumerate(characters):
            for drawer in reversed(range(drawers)):
                file.writestr(f"{path.stem}/{character}/{number:04d}_{drawer + 1:02d}.png", png(drawer))
        file.writestr(f"{path.stem}/README", b"not a drawing")
    return hashlib.sha256(path.read_bytes()).hexdigest()


TRAIN = ["Latin/character02", "Greek/character01", "Latin/character01"]
TEST = ["Tagalog/character01", "Greek/character01", "Sanskrit/character03", "Tagalog/character02"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with small archives in place of the real ones; their address is in tmp_path/server."""
    for split, characters in (("train", TRAIN), ("test", TEST)):
        name = OMNIGLOT[split].name
        sha256 = archive(tmp_path / "root" / "omniglot" / name, characters)
        url = (tmp_path / "server" / name).as_uri()
        monkeypatch.setitem(OMNIGLOT, split, replace(OMNIGLOT[split], checksum=sha256, url=url))
    return tmp_path / "root"


def content(folder):
    """Every file below the folder with its bytes and time."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_drawings_are_read_in_order_with_all_that_is_known_of_them(root):
    data = load("omniglot", "test", root)
    assert data.classes == ["Sanskrit/character03", "Tagalog/character01", "Tagalog/character02"]
    assert data.group_names == ["Sanskrit", "Tagalog"], "the archives share Greek: train keeps it"
    assert data.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.groups.tolist() == [0] * 3 + [1] * 6
    assert data.writers.tolist() == [0, 1, 2] * 3
    assert load("omniglot", "train", root).group_names == ["Greek", "Latin"]


def test_ink_is_bright_and_edges_are_anti_aliased(root):
    images = load("omniglot", "train", root).images
    assert images.dtype == torch.uint8 and images.shape == (9, 1, 32, 32)
    assert torch.equal(images.unique(dim=0), images[:3].unique(dim=0)), "drawers alone differ here"
    ink = images[:3].double().mean((1, 2, 3)) / 255
    torch.testing.assert_close(ink, torch.full((3,), 9 * 85 / 105**2, dtype=torch.float64), atol=2e-3, rtol=0)
    assert (images[:, :, :, :4] == 0).all() and images.max() == 255
    assert ((images > 0) & (images < 255)).any()
    middle = (images[:3].double().sum((1, 2)) * (torch.arange(32) + 0.5)).sum(1) / images[:3].sum((1, 2, 3))
    wanted = (24.5 + 2 * torch.arange(3.0, dtype=torch.float64)) * 32 / 105
    torch.testing.assert_close(middle, wanted, atol=0.05, rtol=0)


def test_a_root_with_the_archives_is_only_read(root, monkeypatch):
    before = content(root)
    monkeypatch.setenv("MDR_DATA_ROOT", str(root))
    load("omniglot", "train")
    load("omniglot", "test")
    assert content(root) == before


def test_a_damaged_archive_is_named_and_left_alone(root):
    path = root / "omniglot" / OMNIGLOT["test"].name
    path.write_bytes(path.read_bytes()[:-100])
    before = content(root)
    with pytest.raises(ValueError, match=f"{path} is damaged.*sha256"):
        load("omniglot", "test", root)
    assert content(root) == before


def test_missing_archives_are_downloaded_into_the_root(root, tmp_path):
    expected = load("omniglot", "test", root).fingerprint
    (root / "omniglot").rename(tmp_path / "server")
    assert load("omniglot", "test", root).fingerprint == expected
    assert [path.name for path in (root / "omniglot").iterdir()] == [OMNIGLOT["test"].name]
    kept = content(root)
    load("omniglot", "train", root)
    assert kept.items() <= content(root).items(), "the archive that was there is not written again"


def test_neither_archive_nor_network_says_where_to_put_it(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "empty"))
    for split in ("train", "test"):
        with pytest.raises(OSError) as caught:
            load("omniglot", split)
        for words in (tmp_path / "empty" / "omniglot" / OMNIGLOT[split].name, "MDR_DATA_ROOT"):
            assert str(words) in str(caught.value)
    assert not content(tmp_path / "empty")


def test_a_wrong_download_is_not_kept(root, tmp_path):
    (root / "omniglot").rename(tmp_path / "server")
    (tmp_path / "server" / OMNIGLOT["train"].name).write_bytes(b"<html>Please log in</html>")
    with pytest.raises(OSError, match="small1.zip gave a wrong file: .*its sha256 is"):
        load("omniglot", "train", root)
    assert not content(root)


@pytest.fixture(scope="module")
def real():
    return load("omniglot", "train", REAL), load("omniglot", "test", REAL)


@needs_omniglot
def test_the_real_drawings_are_those_of_the_published_results(real):
    # Change these only with the committed results: results name their data by them.
    assert [data.fingerprint for data in real] == ["da5fa8d9d75c096c", "549b36c893175a1a"]


@needs_omniglot
def test_the_real_split_is_zero_shot_and_complete(real):
    train, test = real
    assert (len(train.classes), len(train)) == (136, 2720) and (len(test.classes), len(test)) == (106, 2120)
    assert train.group_names == ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"]
    assert test.group_names == ["Japanese_(katakana)", "Sanskrit", "Tagalog"]
    assert not set(train.classes) & set(test.classes)
    for data in real:
        assert (data.labels.bincount() == 20).all()
        assert torch.equal(data.writers, torch.arange(20).repeat(len(data.classes)))
        names = [data.group_names[g] for g in data.groups]
        assert names == [data.classes[y].split("/")[0] for y in data.labels]


@needs_omniglot
def test_the_real_drawings_are_white_on_black_and_none_comes_twice(real):
    for data in real:
        images = data.images.flatten(1)
        ink = images.double().mean(1) / 255
        assert 0.005 < ink.min() and ink.max() < 0.3
        # Nearest in pixels is often the same character: the labels belong to the images.
        x = images.double()
        d = torch.cdist(x, x).fill_diagonal_(torch.inf)
        assert 0.2 < (data.labels[d.argmin(1)] == data.labels).double().mean() < 0.6
        assert d.min() > 0
