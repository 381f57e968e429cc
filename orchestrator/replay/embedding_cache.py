"""Embeddings kept on disk by text, so that a recorded folder is embedded once (10,000 questions take six minutes)."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from skills.evidence import Floats

_BLOCK = 512
"""Texts embedded between two savings."""


class TextEmbedder(Protocol):
    def embed(self, texts: Sequence[str]) -> Floats: ...


class EmbeddingCache:
    """Embeds through `embedder`, but every text once only. Not for several processes at a time: the last one wins."""

    def __init__(self, path: Path, embedder: Callable[[], TextEmbedder]) -> None:
        self._path = path
        self._embedder = embedder
        self._kept: dict[bytes, Floats] = {}
        if path.is_file():
            with np.load(path) as stored:
                keys, vectors = stored["keys"], stored["vectors"]
            self._kept = {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Floats:
        """(len(texts), d) unit rows. `progress(done, missing)` is called as texts are embedded."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}.items())
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            vectors = self._embedder().embed([text for _, text in block])
            self._kept.update({key: vector for (key, _), vector in zip(block, vectors, strict=True)})
            self._save()
            if progress is not None:
                progress(start + len(block), len(missing))
        return np.stack([self._kept[key] for key in keys]).astype(np.float32)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}.tmp.npz")
        keys = np.frombuffer(b"".join(self._kept), np.uint8).reshape(len(self._kept), 16)
        np.savez(draft, keys=keys, vectors=np.stack(list(self._kept.values())))
        draft.replace(self._path)
