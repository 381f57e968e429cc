import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from skills import embed, minilm
from skills.embed import Embedder, EmbedderMissing


class Session:
    """A model whose vector of a token is the axis of the token's id."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        (ids,) = feeds[minilm.INPUT]
        self.lengths.append(len(ids))
        counted = np.bincount(ids, minlength=embed.DIMENSIONS).astype(np.float32)
        return [(counted / np.linalg.norm(counted))[None]]


WORDS = ["[UNK]", "algebra", "law", "poem", "cat"]


def small() -> tuple[Embedder, Session]:
    model = tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    session = Session()
    return Embedder(session, tokenizer), session


def test_a_text_is_the_normalised_mean_of_its_tokens() -> None:
    embedder, _ = small()
    (row,) = embedder.embed(["algebra law law"])
    assert row[1:3] == pytest.approx(np.array([1, 2]) / np.sqrt(5))
    assert float(np.linalg.norm(row)) == pytest.approx(1)


def test_texts_are_embedded_one_by_one_and_order_is_kept() -> None:
    embedder, session = small()
    texts = ["poem", "algebra law cat cat cat", "law", "algebra poem"]
    together = embedder.embed(texts)
    assert session.lengths == [1, 5, 1, 2]
    for row, text in zip(together, texts, strict=True):
        assert (row == small()[0].embed([text])[0]).all()


def test_repeated_texts_are_computed_once() -> None:
    embedder, session = small()
    first = embedder.embed(["law", "law", "poem"])
    again = embedder.embed(["poem", "law"])
    assert session.lengths == [1, 1]
    assert (again == first[[2, 0]]).all()


def test_nothing_and_empty_texts_are_embedded_without_ado() -> None:
    embedder, _ = small()
    assert embedder.embed([]).shape == (0, embed.DIMENSIONS)
    assert np.isfinite(embedder.embed([""])).all()


def test_threads_share_one_embedder() -> None:
    embedder, _ = small()
    texts = [f"{a} {b}" for a in WORDS[1:] for b in WORDS[1:]]
    wanted = small()[0].embed(texts)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(bool((embedder.embed(texts) == wanted).all()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_missing_weights_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EmbedderMissing, match=re.escape(str(tmp_path))) as caught:
        Embedder.load(tmp_path)
    assert "make run" in str(caught.value)
    assert "muster doctor" in str(caught.value)
