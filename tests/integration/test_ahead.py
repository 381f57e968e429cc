"""Embedding ahead of the stager, on a real database."""

import threading
from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa

from orchestrator.runs import runs
from orchestrator.runs.staging.ahead import PIECE, PIECES_AHEAD, THREADS, Ahead
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
    assert [take(engine, embedding, run_id), take(engine, embedding, run_id)] == [0, 0]
    gate.opened.set()
    until(lambda: take(engine, embedding, run_id) == LINES, timeout_s=10)
    assert sorted(gate.texts) == sorted(question.text for question in seeds.questions(LINES))


def test_what_waits_for_a_run_that_was_called_off_is_let_go(
    engine: sa.Engine, embedding: Ahead, gate: Gate, run_id: str
) -> None:
    assert take(engine, embedding, run_id) == 0
    embedding.keep({"another"})
    gate.opened.set()
    until(lambda: take(engine, embedding, run_id) == LINES, timeout_s=10)  # as if it were a new one
    assert len(gate.texts) <= LINES + THREADS * PIECE  # those under way were finished, no others


def take(engine: sa.Engine, embedding: Ahead, run_id: str) -> int:
    """Take what can be; returns how many of the run's instances were taken in all."""
    with database.session(engine) as session:
        values = {"run": run_id, "count": embedding.embedded(session, run_id, "annotate")}
        session.execute(
            sa.text(
                "UPDATE instance SET ready = false WHERE id IN"
                " (SELECT id FROM instance WHERE ready AND run_id = :run ORDER BY id LIMIT :count)"
            ),
            values,
        )
        return int(session.scalars(sa.text("SELECT count(*) FROM instance WHERE NOT ready"), params={}).one())


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
