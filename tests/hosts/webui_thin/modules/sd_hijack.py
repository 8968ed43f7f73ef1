"""The embeddings that AUTOMATIC1111 knows."""

from __future__ import annotations

from types import SimpleNamespace


class EmbeddingDatabase:
    """Counts how often it was told to look again."""

    def __init__(self) -> None:
        self.reloads = 0

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        self.reloads += force_reload


model_hijack = SimpleNamespace(embedding_db=EmbeddingDatabase())
