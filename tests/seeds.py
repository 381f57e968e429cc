"""A pool for tests: experts with profiles on a small question set, written straight to the database."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from sqlmodel import Session

from orchestrator.pool import experts, pool, question_sets
from orchestrator.pool.definition import Definition
from orchestrator.pool.pool import Pool
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.storage.tables import ExpertRow, ProfileRow, QuestionSetRow
from skills.evidence import Floats
from skills.question import Question

SET_NAME = "tiny"
SKILLS = ("algebra", "history", "chemistry")
PER_SKILL = 6


class WordEmbedder:
    """Texts to vectors by their words: texts that share words are near. No weights, no model."""

    dimensions = 64

    def embed(self, texts: Sequence[str]) -> Floats:
        rows = np.full((len(texts), self.dimensions), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % self.dimensions] += 1.0
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def question(number: int, skill: str, *, marks: str = "", prefix: str = "q") -> Question:
    """A labelled question about a skill; the stub engine reads its gold answer from the marks in it."""
    gold = "ABCD"[number % 4]
    text = f"About {skill}: what is number {number}? [stub:gold={gold}][stub:skill={skill}]{marks}"
    return Question(
        id=f"{prefix}{number}", text=text, options=("one", "two", "three", "four"), answer=gold, category=skill,
        skills=(skill,),
    )  # fmt: skip


def questions(count: int, *, prefix: str = "line", marks: str = "") -> list[Question]:
    """Lines for a run, their skills in turn."""
    return [question(n, SKILLS[n % len(SKILLS)], marks=marks, prefix=prefix) for n in range(count)]


def question_set(session: Session, embedder: TextEmbedder | None = None) -> QuestionSetRow:
    """The small question set, stored."""
    labelled = [question(n, SKILLS[n % len(SKILLS)]) for n in range(PER_SKILL * len(SKILLS))]
    return question_sets.store(session, SET_NAME, labelled, embedder or WordEmbedder())


def live_pool(
    session: Session,
    sources: Mapping[str, str],
    *,
    good: Mapping[str, Sequence[str]] | None = None,
    embedder: TextEmbedder | None = None,
) -> Pool:
    """Live experts (name -> model source), each right on questions of the skills it is `good` at, and on no other."""
    set_row = question_set(session, embedder)
    assert set_row.id is not None
    labelled = question_sets.labelled(session, set_row).questions
    for number, (name, source) in enumerate(sources.items()):
        strong = (good or {}).get(name, SKILLS[: 1 + number % len(SKILLS)])
        row = expert(session, name, source, state="live")
        outcomes = {
            each.id: {
                "answer": each.answer if each.category in strong else "A",
                "correct": each.category in strong,
                "finish_reason": "stop",
                "tokens": 5,
            }
            for each in labelled
        }
        assert row.id is not None
        session.add(ProfileRow(expert_id=row.id, question_set_id=set_row.id, outcomes=outcomes))
    session.flush()
    return pool.load(session, question_set=SET_NAME)


def expert(session: Session, name: str, source: str, *, state: str) -> ExpertRow:
    """One expert in some state."""
    row = experts.register(session, Definition.model_validate({"name": name, "model": source}))
    row.state = state
    session.add(row)
    session.flush()
    return row
