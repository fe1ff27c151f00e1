"""Commands that use a trained run: `mdrlib search`, `mdrlib embed` and `mdrlib export`."""

import argparse
import os
from collections.abc import Sequence

from mdrlib import checks, search_page
from mdrlib.export import export as export_embedder
from mdrlib.gallery import Gallery
from mdrlib.inference import Embedder

RUN = "folder of a run, or its checkpoint.pt"


def search(words: Sequence[str]) -> None:
    """Print the nearest photographs of a gallery for each query, and write a page of them if asked."""
    parser = argparse.ArgumentParser("mdrlib search", description="Find the photographs nearest to others")
    parser.add_argument("run", help=RUN)
    parser.add_argument("gallery", help="folder of photographs, or a file of `mdrlib embed`")
    parser.add_argument("query", nargs="+", help="photographs to search for")
    parser.add_argument("-k", type=int, default=10, help="neighbours of each query (10)")
    parser.add_argument("--out", help="write the pictures to a page (.html) or a picture (.png)")
    given = parser.parse_intermixed_args(words)
    checks.whole(given.k, "-k", 1)
    if given.out is not None:
        search_page.checked(given.out)  # before the work, as the queries
    embedder = Embedder.load(given.run)
    embedder(given.query)
    if checks.path(given.gallery).is_file():
        gallery = Gallery.load(given.gallery, embedder)
    else:
        gallery = Gallery(embedder)
        gallery.add(given.gallery)
    results = gallery.search(given.query, given.k)
    wide = max([5, *(len(match.class_name or "-") for matches in results for match in matches)])
    for query, matches in zip(given.query, results, strict=True):
        print(f"{query} among {len(gallery):,} photographs")
        print(f"rank  distance  {'class':{wide}}  path")
        for rank, distance, path, name in matches:
            line = f"{rank:4}  {distance:8.4f}  {name or '-':{wide}}  {path}"
            print(os.fsencode(line).decode("utf8", "replace"))  # not every name can be printed
    if given.out is not None:
        search_page.write(given.out, given.query, results)
        print(given.out)


def embed(words: Sequence[str]) -> None:
    """Write the embeddings of a folder's photographs to a file that `search` also takes."""
    parser = argparse.ArgumentParser("mdrlib embed", description="Embed the photographs of a folder")
    parser.add_argument("run", help=RUN)
    parser.add_argument("folder", help="folder of photographs, at any depth")
    parser.add_argument("--out", required=True, help="file .npz: embeddings (N, D), files and classes (N,)")
    given = parser.parse_args(words)
    if checks.path(given.out).suffix != ".npz":
        raise ValueError(f"--out must end in .npz, got {given.out}")
    gallery = Gallery(Embedder.load(given.run))
    gallery.add(checks.path(given.folder).absolute())
    gallery.save(given.out)
    print(f"{given.out}: embeddings {tuple(gallery.embeddings.shape)} float32, files and classes")


def export(words: Sequence[str]) -> None:
    """Write the network of a run to a file for other programs."""
    parser = argparse.ArgumentParser("mdrlib export", description="Write the network for other programs")
    parser.add_argument("run", help=RUN)
    parser.add_argument("--out", required=True, help="file .onnx, or .pt2 of torch.export")
    given = parser.parse_args(words)
    difference = export_embedder(Embedder.load(given.run, "cpu"), given.out)
    print(f"{given.out}: differs by {difference:.1e} on random images (at most 1e-4 is allowed)")
