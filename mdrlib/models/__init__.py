"""Embedding networks: a backbone, a linear layer and a head that normalizes the embedding."""

from mdrlib.models.embedder import EmbeddingNetwork, build_embedder

__all__ = ["EmbeddingNetwork", "build_embedder"]
