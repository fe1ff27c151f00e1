"""Export of an embedder to one file for other programs, as ONNX or by torch.export."""

import copy
import io
import json
from dataclasses import asdict
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

    The file takes "images", uint8 (N, C, H, W) for any N, and returns "embeddings" (N, D). It scales images
    to [0, 1] and normalizes them for the backbone, but does not resize them: `about`, which the file holds as
    metadata of ONNX or as about.json, says how to resize.

    Args:
        embedder: The network to export.
        path: Ends in ".onnx" or ".pt2" (read by `torch.export.load`).

    Returns:
        The largest difference from the embedder's output on random images, divided by the largest value of
        that output if it is above 1.

    Raises:
        ValueError: The path has another ending, or the difference is above 1e-4. Nothing is written.
        ImportError: ONNX needs packages of the extra `export`.
    """
    path = checks.path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"the path of an export must end in .onnx or .pt2, got {path}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, *embedder.shape), generator=generator, dtype=torch.uint8)
    network = copy.deepcopy(embedder.network).to("cpu", memory_format=torch.contiguous_format)
    module = _Pixels(network).eval()
    make = _onnx if path.suffix == ".onnx" else _program
    content, embed = make(module, images, about(embedder))
    with torch.no_grad():
        wanted = module(images)
        found = torch.cat((embed(images[:1]), embed(images[1:])))  # of any number
    difference = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1)).item()
    if not difference <= TOLERANCE:
        allowed = f"at most {TOLERANCE:g} is allowed, so nothing was written"
        raise ValueError(f"the exported network differs by {difference:.1e} on random images; {allowed}")
    write_atomically(path, lambda file: file.write(content))
    return difference


def about(embedder: Embedder) -> dict[str, str]:
    """Describe the input and the output of an exported file."""
    seen, (channels, side, _) = embedder.preprocessing, embedder.shape
    kind = "RGB from 0 to 255, upright" if seen else "grey, as in the data set"
    notes = {"input": f"images: uint8 (N, {channels}, {side}, {side}), {kind}"}
    if seen is not None:
        square = "take the middle square" if seen.keep_aspect else "stretch to a square"
        stored = f"{seen.stored_size} x {seen.stored_size} pixels (Lanczos)"
        notes["resize"] = f"{square} of {stored}, then take its middle {side} x {side}"
        notes |= {name: str(value) for name, value in asdict(seen).items()}
    notes["output"] = f"embeddings: float32 (N, {embedder.dim}), to compare by Euclidean distance"
    more = {"dim": str(embedder.dim), "head": embedder.network.normalize, "embedder": embedder.fingerprint}
    return notes | more


def _onnx(module: nn.Module, images: Tensor, notes: dict[str, str]) -> tuple[bytes, Any]:
    for package in ("onnx", "onnxscript"):  # which torch needs
        optional(package, "export")
    runtime = optional("onnxruntime", "export")
    names = {"input_names": ["images"], "output_names": ["embeddings"]}
    shapes = {"images": {0: "batch"}}
    program = torch.onnx.export(module, (images,), **names, dynamic_shapes=shapes, dynamo=True, verbose=False)
    model = program.model_proto
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda part: torch.from_numpy(session.run(None, {"images": part.numpy()})[0])


def _program(module: nn.Module, images: Tensor, notes: dict[str, str]) -> tuple[bytes, Any]:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (images,), dynamic_shapes={"images": batch})
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"about.json": json.dumps(notes)})
    content = stream.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()
