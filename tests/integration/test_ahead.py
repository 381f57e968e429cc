"""Embedding ahead of the stager, on a real database."""

import threading
from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa

from orchestrator.runs import runs
from orchestrator.runs.staging.ahead import PIECE, PIECES_AHEAD, Ahead
from orchestrator.settings import Settings
from orchestrator.storage import database
from skills.evidence import Floats
from tests import seeds
from tests.waiting import until

LINES = PIECE * PIECES_AHEAD + 10


class Gate:
    """An embedder that waits to be let through, and knows what it has embedded."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Floats:
        assert self.opened.wait(10)
        self.texts += texts
        return seeds.WordEmbedder().embed(texts)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def embedding(gate: Gate) -> Iterator[Ahead]:
    made = Ahead(load_embedder=lambda: gate)
    yield made
    gate.opened.set()
    made.close()


@pytest.fixture
def run_id(engine: sa.Engine, settings: Settings) -> str:
    with database.session(engine) as session:
        pool = seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"})
        asked = seeds.questions(LINES)
        return runs.submit_benchmark(session, settings=settings, pool=pool, name="t", questions=asked, k=2).id


def test_nothing_can_be_taken_before_it_is_embedded(
    engine: sa.Engine, embedding: Ahead, gate: Gate, run_id: str
) -> None:
    taken: list[int] = []

    def take() -> int:
        with database.session(engine) as session:
            count = embedding.embedded(session, run_id, "annotate")
            session.execute(
                sa.text(
                    "UPDATE instance SET ready = false WHERE id IN"
                    " (SELECT id FROM instance WHERE ready AND run_id = :run ORDER BY id LIMIT :count)"
                ),
                {"run": run_id, "count": count},
            )
        taken.append(count)
        return sum(taken)

    assert [take(), take()] == [0, 0]
    gate.opened.set()
    until(lambda: take() == LINES, timeout_s=10)
    assert sorted(gate.texts) == sorted(question.text for question in seeds.questions(LINES))


def test_what_was_not_taken_after_all_is_offered_again(
    engine: sa.Engine, embedding: Ahead, gate: Gate, run_id: str
) -> None:
    gate.opened.set()
    offered: list[int] = []

    def offer() -> int:
        with database.session(engine) as session:
            offered.append(embedding.embedded(session, run_id, "annotate"))
        return sum(offered)

    until(lambda: offer() > LINES, timeout_s=10)
