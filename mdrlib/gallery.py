"""A gallery of photographs to search in, and its embeddings on disk."""

import contextlib
import io
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdrlib import checks, retrieval, sharded_search
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.folder import KINDS, listed, walk
from mdrlib.datasets.images import cache_root, digest
from mdrlib.inference import Embedder, is_one


class Match(NamedTuple):
    """One neighbour of a query."""

    rank: int  #: from 1
    distance: float  #: Euclidean, between embeddings
    path: str
    class_name: str | None  #: None for a photograph without a class


class Gallery:
    """Photographs by their embeddings, with paths and, where they are known, classes.

    Args:
        embedder: Embeds what is added and what is searched for.
        index: None searches exactly. A string for `faiss.index_factory` such as "HNSW32" makes a faiss index
            at the first search, for galleries of hundreds of thousands.
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
        self,
        paths: str | Path | Sequence[str | Path],
        classes: Sequence[str | None] | None = None,
    ) -> None:
        """Embed photographs and keep them; after an error the gallery is as it was.

        Args:
            paths: Files, in a list; or one folder, of which all images are added, at any depth. A folder that
                holds images is their class, named by its path; images at the top have none. Embeddings of
                folders stay in the cache, by file name, time and size.
            classes: The class of each file in the list, or None for those without one.

        Raises:
            ValueError: A path is there already, or the number of classes is another than that of the files.
            OSError: Images cannot be read; the message lists them.
        """
        folder = checks.path(paths) if is_one(paths) else None
        if folder is not None:
            if classes is not None:
                raise ValueError("classes go with a list of files: in a folder, folders are the classes")
            found = images_below(folder)
            files, classes = [str(folder / name) for name in found], list(found.values())
        else:
            files = [str(path) for path in paths]
            classes = [None] * len(files) if classes is None else list(classes)
        if len(classes) != len(files):
            raise ValueError(f"there are {len(classes)} classes for {len(files)} files: give one for each")
        count = Counter(map(os.path.abspath, self.paths + files))
        again = [path for path in count if count[path] > 1]
        if again:
            raise ValueError(f"{len(again)} photographs would be in the gallery twice: {listed(again)}")
        x = self.embedder(files) if folder is None else embed_folder(self.embedder, folder, list(found))
        self.embeddings = torch.cat((self.embeddings, x))
        self.paths += files
        self.classes += classes
        self._made = None

    def search(self, query: Any, k: int = 10) -> list[Match] | list[list[Match]]:
        """Find the k photographs that are nearest to each query, nearest first.

        Args:
            query: A path, an image of pillow or pixels (C, H, W), or a list of such: see `Embedder`. A query
                that is a file of the gallery is left out of its own result.
            k: Neighbours; all of a smaller gallery.

        Returns:
            Matches of one image, or a list of those of each in the list.

        Raises:
            ValueError: The gallery is empty, or k is below 1.
            OSError: Queries cannot be read.
        """
        k = checks.whole(k, "k", 1)
        if not self.paths:
            raise ValueError("the gallery is empty: add photographs before you search in it")
        queries = [query] if is_one(query) else list(query)
        x = self.embedder(queries)
        if self.index is not None and self._made is None:
            self._made = sharded_search.build(self.embeddings, self.index)
        count = min(k + 1, len(self))  # one more than k, as a query may find itself
        found = retrieval.search(x, self.embeddings, count, self._made)
        results = [
            self._matches(one, *(part.tolist() for part in row), k)
            for one, *row in zip(queries, *found, strict=True)
        ]
        return results[0] if is_one(query) else results

    def _matches(self, query: Any, distances: list[float], indices: list[int], k: int) -> list[Match]:
        own = os.path.realpath(checks.path(query)) if isinstance(query, str | PathLike) else None
        matches: list[Match] = []
        for distance, i in zip(distances, indices, strict=True):
            if len(matches) < k and (own is None or os.path.realpath(self.paths[i]) != own):
                matches.append(Match(len(matches) + 1, distance, self.paths[i], self.classes[i]))
        return matches

    def save(self, path: str | Path) -> None:
        """Write the gallery to a file .npz, without its photographs; a killed process leaves the old one."""
        save_arrays(
            path,
            embeddings=self.embeddings.numpy(),
            files=np.array(self.paths, dtype=str),
            classes=np.array([name or "" for name in self.classes], dtype=str),
            embedder=np.array(self.embedder.fingerprint),
        )

    @classmethod
    def load(cls, path: str | Path, embedder: Embedder, index: str | None = None) -> "Gallery":
        """Read a gallery that `save` wrote; nothing in the file is executed.

        Raises:
            ValueError: It was made by another embedder, or the file is damaged.
        """
        path = checks.path(path)
        arrays = _arrays(path, "embeddings", "files", "classes", "embedder")
        if arrays["embedder"] != embedder.fingerprint:
            theirs = f"the embedder {arrays['embedder']} of {arrays['embeddings'].shape[-1]} dimensions"
            own = f"{embedder.fingerprint} of {embedder.dim}"
            raise ValueError(f"{path} was made by {theirs}, this is {own}: embed its photographs again")
        gallery = cls(embedder, index)
        gallery.embeddings = torch.from_numpy(arrays["embeddings"])
        gallery.paths = arrays["files"].tolist()
        gallery.classes = [name or None for name in arrays["classes"].tolist()]
        return gallery


def images_below(folder: Path) -> dict[str, str | None]:
    """List the images below a folder by their paths from it, with the folders that hold them as classes."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}: give a folder of photographs, or a list of files")
    listing = walk(folder)
    if not listing.images:
        kinds = ", ".join(KINDS)
        raise ValueError(f"{folder} holds no images: give a folder with files {kinds}, at any depth")
    if listing.problems:  # such as a folder that may not be read
        print(f"mdrlib: left out of {folder}: {listed(listing.problems)}", file=sys.stderr)
    every = sorted(listing.images.items())
    return {name: here or None for here, names in every for name in names}


def embed_folder(embedder: Embedder, folder: Path, names: Sequence[str]) -> Tensor:
    """Embed the images `names` of a folder; embeddings of unchanged files come from the cache.

    Returns:
        Embeddings (N, D), in the order of `names`.
    """
    kept = cache_root() / f"embeddings-{embedder.fingerprint}-{digest(str(folder.resolve()))}.npz"
    files = [folder / name for name in names]
    # Before the files are read, which may be replaced meanwhile. A link may lead nowhere.
    stats = [file.stat() if file.exists() else file.lstat() for file in files]
    keys = [(name, s.st_mtime_ns, s.st_size) for name, s in zip(names, stats, strict=True)]
    rows: dict[tuple, Tensor] = {}
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
        old = _arrays(kept, "embeddings", "files", "stamps")
        stamps = zip(old["files"].tolist(), *old["stamps"].T.tolist(), strict=True)
        rows = dict(zip(stamps, torch.from_numpy(old["embeddings"]), strict=True))
    lacking = [i for i, key in enumerate(keys) if key not in rows]
    if lacking:
        found = embedder([files[i] for i in lacking])
        rows |= {keys[i]: x for i, x in zip(lacking, found, strict=True)}
    x = torch.stack([rows[key] for key in keys])
    if lacking:
        stamps = np.array([key[1:] for key in keys])
        try:
            save_arrays(kept, embeddings=x.numpy(), files=np.array(names, dtype=str), stamps=stamps)
        except OSError as error:  # costs time, not the search
            print(f"mdrlib: {kept} cannot keep embeddings ({error}); set XDG_CACHE_HOME", file=sys.stderr)
    return x


def save_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Write arrays to a file .npz atomically."""
    write_atomically(checks.path(path), lambda file: np.savez(file, **arrays))


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` of a file; ValueError for a damaged one."""
    content = path.read_bytes()
    try:
        if not zipfile.is_zipfile(io.BytesIO(content)):  # numpy advises to execute what the file holds
            raise ValueError("it is no file .npz")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
        if len({len(array) for array in arrays.values() if array.ndim}) != 1:
            raise ValueError("its arrays differ in length")
        return arrays
    except Exception as error:  # numpy and zipfile raise several kinds for a damaged file
        raise ValueError(f"{path} is damaged or not a gallery of mdrlib ({error}); make it again") from error
