"""Exported networks against the embedder, in processes that have neither mdrlib nor timm."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mdrlib import Embedder, checkpoint
from mdrlib import export as exporting
from mdrlib.experiment import Config
from mdrlib.export import about, export
from mdrlib.models import build_embedder

ALONE = """
import sys
sys.modules.update(dict.fromkeys(("mdrlib", "timm", "torchvision", "onnx", "onnxscript")))
import numpy as np
path, given, made = sys.argv[1:]
images = np.load(given)
if path.endswith(".onnx"):
    sys.modules["torch"] = None
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    run = lambda part: session.run(["embeddings"], {"images": part})[0]
else:
    import json, torch
    extra = {"about.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra["about.json"])
    run = lambda part: module(torch.from_numpy(part)).detach().numpy()
print(about["input"], "|", about["resize"], "|", about["dim"])
np.save(made, np.concatenate([run(images[:4]), run(images[4:])]))
"""


def elsewhere(path, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    words = [sys.executable, "-I", "-c", ALONE, path, tmp_path / "images.npy", tmp_path / "made.npy"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout, np.load(tmp_path / "made.npy")


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "squeezenet1_1"])
def test_an_exported_network_runs_elsewhere(photo_config, tmp_path, backbone, suffix):
    if suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    if backbone == "efficientnet_lite0":
        pytest.importorskip("timm")
    config = photo_config.to_dict() | {"backbone": backbone}
    torch.manual_seed(0)
    state = build_embedder(backbone, 8, "l2").state_dict()
    checkpoint.save(tmp_path / "checkpoint.pt", {"config": config, "model": state})
    embedder = Embedder.load(tmp_path)
    path = tmp_path / f"model{suffix}"
    assert 0 <= export(embedder, path) <= 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", path.name}, "one file"
    images = pixels(5, 3, 48, 48)
    said, found = elsewhere(path, images, tmp_path)
    with torch.no_grad():
        wanted = embedder.network(torch.from_numpy(images) / 255).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert said == (
        "images: uint8 (N, 3, 48, 48), RGB from 0 to 255, upright | stretch to a square of 64 x 64 pixels "
        "(Lanczos), then take its middle 48 x 48 | 8\n"
    )


def test_a_network_for_drawings_is_exported_too(tmp_path):
    config = Config(dataset="digits", backbone="tiny", dim=4, method="triplet")
    state = build_embedder("tiny", 4).state_dict()
    checkpoint.save(tmp_path / "checkpoint.pt", {"config": config.to_dict(), "model": state})
    embedder = Embedder.load(tmp_path)
    export(embedder, tmp_path / "model.pt2")
    images = torch.from_numpy(pixels(7, 1, 32, 32))
    extra = {"about.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    torch.testing.assert_close(module(images), embedder(images))
    assert json.loads(extra["about.json"]) == about(embedder)
    assert about(embedder)["input"].startswith("images: uint8 (N, 1, 32, 32)")


def test_what_differs_is_refused_and_leaves_the_old_file(photo_run, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def wrong(module, images, notes):
        return b"new", lambda part: module(part) + 2e-4

    monkeypatch.setattr(exporting, "_program", wrong)
    with pytest.raises(ValueError, match=r"differs by 2\.\de-04 on random images; at most 0.0001 is allowed"):
        export(Embedder.load(photo_run), path)
    monkeypatch.setattr(exporting, "_program", lambda m, i, n: (b"new", lambda part: m(part) * torch.nan))
    with pytest.raises(ValueError, match="differs by nan"):
        export(Embedder.load(photo_run), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx_the_extra_is_named(photo_run, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is missing: pip install 'mdrlib\[export\]'"):
        export(Embedder.load(photo_run), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_kinds_of_files_are_refused(photo_run, tmp_path):
    with pytest.raises(ValueError, match=r"must end in .onnx or .pt2, got .*model.pth"):
        export(Embedder.load(photo_run), tmp_path / "model.pth")


def test_torch_jit_script_says_what_to_do_instead():
    with pytest.raises(TypeError, match="torch.jit.script.*mdrlib export"):
        torch.jit.script(build_embedder("tiny"))
