import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tokenizers

from skills import embed
from skills.embed import Embedder, EmbedderMissing


class Input(NamedTuple):
    name: str


class Session:
    """A model whose vector of a token is the axis of the token's id."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def get_inputs(self) -> Sequence[Input]:
        return [Input("input_ids"), Input("attention_mask")]

    def run(self, outputs: None, feeds: Mapping[str, Any]) -> list[Any]:
        ids = feeds["input_ids"]
        self.shapes.append(ids.shape)
        states = np.zeros((*ids.shape, embed.DIMENSIONS), np.float32)
        np.put_along_axis(states, ids[:, :, None], 1.0, axis=2)
        return [states]


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


def test_padding_of_a_batch_changes_nothing_and_order_is_kept() -> None:
    embedder, _ = small()
    texts = ["poem", "algebra law cat cat cat", "law", "algebra poem"]
    together = embedder.embed(texts)
    for row, text in zip(together, texts, strict=True):
        assert row == pytest.approx(small()[0].embed([text])[0])


def test_batches_hold_texts_of_like_length() -> None:
    embedder, session = small()
    long, short = [f"{'law ' * 50}{n}" for n in range(16)], [f"poem {n}" for n in range(16)]
    embedder.embed([text for pair in zip(long, short, strict=True) for text in pair])
    assert sorted(columns for _, columns in session.shapes) == [2, 51]


def test_repeated_texts_are_computed_once() -> None:
    embedder, session = small()
    first = embedder.embed(["law", "law", "poem"])
    again = embedder.embed(["poem", "law"])
    assert session.shapes == [(2, 1)]
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
