"""An embedder as one file for other programs: ONNX, or a program of torch.export."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdrlib import checks
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.preprocessing import optional
from mdrlib.inference import Embedder

TOLERANCE = 1e-4  # of embeddings, relative to the largest value where that is above 1


class _Pixels(nn.Module):
    """Pixels uint8 (N, C, H, W) -> embeddings (N, D)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() / 255)


def export(embedder: Embedder, path: str | Path) -> float:
    """Write an embedder to a file that needs neither mdrlib nor timm, if it gives the same embeddings.

    The file takes "images", uint8 (N, C, H, W), RGB from 0 to 255, of any number N, and gives "embeddings"
    (N, D). Scaling to [0, 1] and the backbone's normalization are inside, resizing is not: `about` says how
    to do it, and is in the file, as metadata of ONNX or as about.json.

    Args:
        path: Ends in ".onnx" or ".pt2" (read by `torch.export.load`).

    Returns:
        The largest difference to the embedder's on random images, relative to the largest value above 1.

    Raises:
        ValueError: The name has another ending, or the difference is above 1e-4; nothing is written.
        ImportError: ONNX needs packages of the extra `export`.
    """
    path = checks.path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"an export is written as .onnx or .pt2, got {path}")
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            optional(package, "export")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, *embedder.shape), generator=generator, dtype=torch.uint8)
    network = copy.deepcopy(embedder.network).to("cpu", memory_format=torch.contiguous_format)
    module = _Pixels(network).eval()
    try:
        content, embed = (_onnx if path.suffix == ".onnx" else _program)(module, images, about(embedder))
    except RuntimeError as error:
        raise ValueError(f"torch cannot export this network as {path.suffix}: {error}") from error
    with torch.no_grad():
        wanted = module(images)
        found = torch.cat((embed(images[:1]), embed(images[1:])))  # of any number
    difference = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1)).item()
    if not difference <= TOLERANCE:
        advice = f"at most {TOLERANCE:g} is allowed, so nothing was written"
        raise ValueError(f"the exported network differs by {difference:.1e} on random images; {advice}")
    write_atomically(path, lambda file: file.write(content))
    return difference


def about(embedder: Embedder) -> dict[str, str]:
    """Say what an exported file takes and gives."""
    seen, found = embedder.preprocessing, {}
    if seen is None:
        found["input"] = "images: uint8 (N, 1, 32, 32), grey, as the data set has them"
    else:
        square = "take the middle square" if seen.keep_aspect else "stretch to a square"
        stored, side = seen.stored_size, seen.image_size
        found["input"] = f"images: uint8 (N, 3, {side}, {side}), RGB from 0 to 255, upright"
        then = f"then take its middle {side} x {side}"
        found["resize"] = f"{square} of {stored} x {stored} pixels (Lanczos), {then}"
        found |= {"image_size": str(side), "stored_size": str(stored), "keep_aspect": str(seen.keep_aspect)}
    found["output"] = f"embeddings: float32 (N, {embedder.dim}), to compare by Euclidean distance"
    found |= {"dim": str(embedder.dim), "head": embedder.network.normalize}
    return found | {"embedder": embedder.fingerprint}


def _onnx(module: nn.Module, images: Tensor, notes: dict[str, str]) -> tuple[bytes, Any]:
    program = torch.onnx.export(
        module,
        (images,),
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_shapes={"images": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    session = optional("onnxruntime", "export").InferenceSession(content, providers=["CPUExecutionProvider"])

    def embed(part: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["embeddings"], {"images": part.numpy()})[0])

    return content, embed


def _program(module: nn.Module, images: Tensor, notes: dict[str, str]) -> tuple[bytes, Any]:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (images,), dynamic_shapes={"images": batch})
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"about.json": json.dumps(notes)})
    content = stream.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()
