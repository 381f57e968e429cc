"""Question sets in the database: labelled questions with their embeddings, versioned by content."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.settings import PROJECT_DIR
from orchestrator.storage.tables import LabelledQuestionRow, QuestionSetRow, SkillRow
from skills import question_set
from skills.evidence import Floats
from skills.question import Question

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHIPPED_DIR = PROJECT_DIR / "skills" / "sets"
MAX_QUESTIONS = 20_000
"""Per set: a profile asks every expert every question, and the evidence is held in memory."""
_STORE_LOCK = 0x71736574
"""Advisory lock: two uploads of one name must not make the same version ("qset" in ASCII)."""


class TextEmbedder(Protocol):
    """Texts to unit vectors: `skills.embed.Embedder`, or a test's own."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """(n, d), unit rows."""
        ...


class UnknownQuestionSet(LookupError):
    """There is no question set of this name (or version)."""

    def __init__(self, name: str, version: int | None = None) -> None:
        which = f"{name!r}" if version is None else f"{name!r} version {version}"
        super().__init__(f"there is no question set {which}; GET /v1/question-sets lists them")
        self.name = name


class BadQuestionSet(ValueError):
    """The set as a whole cannot be used; `line` is the offending line where one is to blame."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A question set as recruiting reads it. n questions, v skills, d embedding dimensions."""

    questions: tuple[Question, ...]
    embeddings: Floats
    """(n, d), unit rows."""
    skill_names: tuple[str, ...]
    skill_embeddings: Floats
    """(v, d), unit rows."""


def parse(lines: Iterable[str]) -> list[Question]:
    """Questions of a JSONL text. Raises `BadQuestionSet` with the line number."""
    try:
        questions: list[Question] = question_set.parse(lines)
    except question_set.QuestionSetError as error:
        raise BadQuestionSet(error.message, error.line) from None
    if not questions:
        raise BadQuestionSet("there is no question in it")
    if len(questions) > MAX_QUESTIONS:
        raise BadQuestionSet(f"{len(questions)} questions are more than the {MAX_QUESTIONS} a set may hold")
    return questions


def newest(session: Session, name: str) -> QuestionSetRow:
    """The newest version. Raises `UnknownQuestionSet`."""
    query = select(QuestionSetRow).where(QuestionSetRow.name == name).order_by(col(QuestionSetRow.version).desc())
    row = session.exec(query).first() if NAME.fullmatch(name) else None
    if row is None:
        raise UnknownQuestionSet(name)
    return row


def get(session: Session, name: str, version: int) -> QuestionSetRow:
    """One version. Raises `UnknownQuestionSet`."""
    query = select(QuestionSetRow).where(QuestionSetRow.name == name, QuestionSetRow.version == version)
    row = session.exec(query).first()
    if row is None:
        raise UnknownQuestionSet(name, version)
    return row


def listed(session: Session) -> list[tuple[QuestionSetRow, int]]:
    """Every version with its number of questions, by name and version."""
    query = (
        select(QuestionSetRow, sa.func.count(col(LabelledQuestionRow.id)))
        .join(LabelledQuestionRow)
        .group_by(col(QuestionSetRow.id))
        .order_by(QuestionSetRow.name, col(QuestionSetRow.version))
    )
    return [(row, count) for row, count in session.exec(query)]


def store(session: Session, name: str, questions: Sequence[Question], embedder: TextEmbedder) -> QuestionSetRow:
    """Keep a set, embedded; the same questions under the same name are the same version. Raises `BadQuestionSet`."""
    if not NAME.fullmatch(name):
        raise BadQuestionSet(f"the name {name[:80]!r} must be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    digest = digest_of(questions)
    if (same := _same(session, name, digest)) is not None:
        return same
    vectors = embedder.embed([question.text for question in questions])
    vocabulary = sorted({skill for question in questions for skill in skills_of(question)})
    skill_vectors = embedder.embed(vocabulary) if vocabulary else np.zeros((0, vectors.shape[1]), np.float32)
    session.exec(select(sa.func.pg_advisory_xact_lock(_STORE_LOCK))).one()
    if (same := _same(session, name, digest)) is not None:
        return same
    return _insert(session, name, digest, questions, vectors, dict(zip(vocabulary, skill_vectors, strict=True)))


def ensure_shipped(session: Session, name: str, embedder: "LazyEmbedder") -> QuestionSetRow | None:
    """The set `name` if it is one that ships with Muster, stored if it was not; None if it is not ours.

    `embedder` is only called (and loaded) if there is something to store.
    """
    shipped = _shipped(SHIPPED_DIR / f"{name}.jsonl")
    if shipped is None:
        return None
    return _same(session, name, digest_of(shipped)) or store(session, name, shipped, embedder())


class LazyEmbedder(Protocol):
    def __call__(self) -> TextEmbedder: ...


def labelled(session: Session, row: QuestionSetRow) -> Labelled:
    """The questions of one version in their order, with embeddings."""
    query = select(LabelledQuestionRow).where(LabelledQuestionRow.question_set_id == row.id)
    rows = session.exec(query.order_by(col(LabelledQuestionRow.position))).all()
    skill_query = select(SkillRow).where(SkillRow.question_set_id == row.id).order_by(SkillRow.name)
    skill_rows = session.exec(skill_query).all()
    embeddings = _vectors([question.embedding for question in rows])
    skill_embeddings = _vectors([skill.embedding for skill in skill_rows])
    return Labelled(
        questions=tuple(_question(question) for question in rows),
        embeddings=embeddings,
        skill_names=tuple(skill.name for skill in skill_rows),
        skill_embeddings=skill_embeddings if skill_rows else embeddings[:0],
    )


def skills_of(question: Question) -> tuple[str, ...]:
    """Its annotated skills; a question that nobody annotated needs what its category names."""
    return question.skills or ((question.category,) if question.category else ())


def digest_of(questions: Sequence[Question]) -> str:
    """SHA-256 over the questions' canonical lines: spacing and key order do not make another version."""
    lines = (
        json.dumps([q.id, q.text, q.options, q.answer, q.category, q.skills], ensure_ascii=False) for q in questions
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _insert(
    session: Session,
    name: str,
    digest: str,
    questions: Sequence[Question],
    vectors: Floats,
    skill_vectors: dict[str, Floats],
) -> QuestionSetRow:
    last = session.exec(select(sa.func.max(QuestionSetRow.version)).where(QuestionSetRow.name == name)).one()
    row = QuestionSetRow(name=name, version=(last or 0) + 1, digest=digest)
    session.add(row)
    session.flush()
    assert row.id is not None
    session.add_all(
        LabelledQuestionRow(
            question_set_id=row.id,
            position=position,
            external_id=question.id,
            text=question.text,
            options=list(question.options),
            answer=question.answer or "",
            category=question.category,
            skills=list(skills_of(question)),
            embedding=_bytes(vector),
        )
        for position, (question, vector) in enumerate(zip(questions, vectors, strict=True))
    )
    session.add_all(
        SkillRow(question_set_id=row.id, name=skill, embedding=_bytes(vector))
        for skill, vector in skill_vectors.items()
    )
    session.flush()
    return row


def _same(session: Session, name: str, digest: str) -> QuestionSetRow | None:
    query = select(QuestionSetRow).where(QuestionSetRow.name == name, QuestionSetRow.digest == digest)
    return session.exec(query).first()


@functools.lru_cache(maxsize=8)
def _shipped(path: Path) -> tuple[Question, ...] | None:
    """A set that ships; read once, since it changes with a release alone."""
    if not path.is_file():
        return None
    return tuple(parse(path.read_text(encoding="utf-8").splitlines()))


def _question(row: LabelledQuestionRow) -> Question:
    return Question(
        id=row.external_id,
        text=row.text,
        options=tuple(row.options),
        answer=row.answer,
        category=row.category,
        skills=tuple(row.skills),
    )


def _bytes(vector: Floats) -> bytes:
    return np.asarray(vector, dtype="<f4").tobytes()


def _vectors(rows: Sequence[bytes | None]) -> Floats:
    """(n, d) of stored vectors."""
    if not rows:
        return np.zeros((0, 0), np.float32)
    if any(row is None for row in rows):
        raise BadQuestionSet("it is not embedded yet")
    return np.stack([np.frombuffer(row or b"", dtype="<f4") for row in rows]).astype(np.float32)
