import numpy as np
import pytest

from skills.embed import DIMENSIONS, Embedder
from tests.stack import WEIGHTS

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no embedder in {WEIGHTS}: run `make run` once")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(WEIGHTS)


def test_related_skills_are_near_and_others_far(embedder: Embedder) -> None:
    rows = embedder.embed(["algebra", "linear equations", "organic chemistry", "poetry"])
    assert rows.shape == (4, DIMENSIONS)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.4 > similarity[0, 2]
    assert similarity[0, 1] > similarity[0, 3]


def test_a_text_has_the_same_vector_alone_and_among_others(embedder: Embedder) -> None:
    texts = ["law", "What is the capital of Japan?", "a " * 2000]
    together = embedder.embed(texts)
    for text, row in zip(texts, together, strict=True):
        assert Embedder.load(WEIGHTS).embed([text])[0] @ row == pytest.approx(1, abs=1e-4)


def test_what_stands_beyond_the_model_s_reach_is_left_out(embedder: Embedder) -> None:
    first, second = embedder.embed(["law " * 400, "law " * 400 + "poetry"])
    assert first @ second == pytest.approx(1, abs=1e-5)
