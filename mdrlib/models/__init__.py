"""Embedding networks: a backbone, a linear head, and what is done to the embedding's length."""

from mdrlib.models.embedder import EmbeddingNetwork, build_embedder

__all__ = ["EmbeddingNetwork", "build_embedder"]
