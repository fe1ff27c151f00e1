"""A gallery of photographs that you can search."""

import io
import os
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mdrlib import checks, retrieval, sharded_search
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.folder import KINDS, listed, walk
from mdrlib.inference import Embedder, is_one

SPLITS = {"train", "val", "test", "query", "gallery"}  # folders that are no part of a class's name


class Match(NamedTuple):
    """One neighbour of a query."""

    rank: int  #: from 1
    distance: float  #: Euclidean, between embeddings
    path: str
    class_name: str | None  #: None for a photograph without a class


class Gallery:
    """Photographs to search: their embeddings, their paths and, where known, their classes.

    Args:
        embedder: Embeds the photographs and the queries.
        index: None searches exactly. A string for `faiss.index_factory` such as "HNSW32" builds a faiss
            index at the first search, for galleries of hundreds of thousands of photographs.
    """

    def __init__(self, embedder: Embedder, index: str | None = None) -> None:
        self.embedder, self.index = embedder, index
        self.paths: list[str] = []  #: N, as they were given
        self.classes: list[str | None] = []  #: N
        self.embeddings = torch.empty(0, embedder.dim)  #: (N, D)
        self._made: Any = None  # the faiss index
        blank = torch.zeros(1, embedder.dim)
        retrieval.search(blank, blank)  # importing faiss takes longer than a search

    def __len__(self) -> int:
        return len(self.paths)

    def add(
        self, paths: str | Path | Sequence[str | Path], classes: Sequence[str | None] | None = None
    ) -> None:
        """Embed photographs and add them; after an error the gallery is unchanged.

        Args:
            paths: A list of files, or a folder whose images are added, at any depth. The class of an image is
                the path of its folder, without a leading split such as test; images at the top have no class.
            classes: The class of each file in the list, or None for a file without a class.

        Raises:
            ValueError: A file is already in the gallery, or there is not one class per file.
            OSError: Images cannot be read; the message lists them.
        """
        if is_one(paths):
            if classes is not None:
                raise ValueError("classes need a list of files: in a folder, its sub-folders are the classes")
            found = _images_below(checks.path(paths))
            files, classes = list(found), list(found.values())
        else:
            files = [str(path) for path in paths]
            classes = [None] * len(files) if classes is None else list(classes)
        if len(classes) != len(files):
            raise ValueError(f"there are {len(classes)} classes for {len(files)} files: give one for each")
        if again := sorted(set(files) & set(self.paths)):
            raise ValueError(f"{len(again)} photographs are already in the gallery: {listed(again)}")
        self.embeddings = torch.cat((self.embeddings, self.embedder(files)))
        self.paths += files
        self.classes += classes
        self._made = None

    def search(self, query: Any, k: int = 10) -> list[Match] | list[list[Match]]:
        """Find the k photographs that are nearest to each query, nearest first.

        Args:
            query: A path, a Pillow image or pixels (C, H, W), or a list of these: see `Embedder`. A query
                that is a file of the gallery is left out of its own result.
            k: Number of neighbours, at least 1; a smaller gallery returns all its photographs.

        Returns:
            The list of matches of one image, or one such list for each image of a list.

        Raises:
            ValueError: The gallery is empty, or k is below 1.
            OSError: Queries cannot be read; the message lists them.
        """
        k = checks.whole(k, "k", 1)
        if not self.paths:
            raise ValueError("the gallery is empty: add photographs before you search")
        queries = [query] if is_one(query) else list(query)
        x = self.embedder(queries)
        if self.index is not None and self._made is None:
            self._made = sharded_search.build(self.embeddings, self.index)
        count = min(k + 1, len(self))  # one more than k, as a query may find itself
        distances, indices = retrieval.search(x, self.embeddings, count, self._made)
        results = []
        for one, *row in zip(queries, distances.tolist(), indices.tolist(), strict=True):
            own = os.path.realpath(checks.path(one)) if isinstance(one, str | PathLike) else None
            near = [(d, i) for d, i in zip(*row, strict=True) if os.path.realpath(self.paths[i]) != own]
            found = enumerate(near[:k], 1)
            results.append([Match(rank, d, self.paths[i], self.classes[i]) for rank, (d, i) in found])
        return results[0] if is_one(query) else results

    def save(self, path: str | Path) -> None:
        """Write an .npz file: "embeddings" (N, D), "files" and "classes" (N,), and the "embedder" used."""
        arrays = {
            "embeddings": self.embeddings.numpy(),
            "files": np.array(self.paths, dtype=str),
            "classes": np.array([name or "" for name in self.classes], dtype=str),
            "embedder": np.array(self.embedder.fingerprint),
        }
        write_atomically(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: str | Path, embedder: Embedder, index: str | None = None) -> "Gallery":
        """Load a file of `save`; ValueError if it is damaged, or if another embedder made it."""
        content = checks.path(path).read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                x, files, classes, made_by = (file[k] for k in ("embeddings", "files", "classes", "embedder"))
        except Exception as error:  # numpy and zipfile raise several kinds for a damaged file
            raise ValueError(f"{path} is damaged or not a gallery: write it again") from error
        if made_by != embedder.fingerprint:
            both = f"the embedder {made_by} of {x.shape[-1]} dimensions, this is {embedder.fingerprint}"
            raise ValueError(f"{path} was made by {both} of {embedder.dim}: embed its photographs again")
        gallery = cls(embedder, index)
        gallery.embeddings, gallery.paths = torch.from_numpy(x), files.tolist()
        gallery.classes = [name or None for name in classes.tolist()]
        return gallery


def _images_below(folder: Path) -> dict[str, str | None]:
    """List the images below a folder by their paths, with their classes."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}: give a folder of photographs, or a list of files")
    listing = walk(folder)
    if not listing.images:
        raise ValueError(f"{folder} holds no images: give a folder with files {', '.join(KINDS)}")
    if listing.problems:  # such as a folder that may not be read
        print(f"mdrlib: left out of {folder}: {listed(listing.problems)}", file=sys.stderr)
    found: dict[str, str | None] = {}
    several = len({here.partition("/")[0].lower() for here in listing.images} & SPLITS) > 1
    for here, files in sorted(listing.images.items()):
        split, _, rest = here.partition("/")
        name = rest if several and split.lower() in SPLITS else here
        found |= {str(folder / file): name or None for file in files}
    return found
