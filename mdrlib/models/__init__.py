"""Embedding networks: a backbone, a linear head, and what is done to the embedding's length."""

from mdrlib.models.embedder import Embedder, build_embedder

__all__ = ["Embedder", "build_embedder"]
