"""What models were measured to take, loading and per token: kept in the database, so that no restart forgets it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlmodel import Session

from workers.messages import Completion

_LOADED = sa.text(
    """
    INSERT INTO model_cost (model_key, load_s) VALUES (:model_key, :seconds)
    ON CONFLICT (model_key) DO UPDATE SET
        load_s = coalesce((model_cost.load_s + excluded.load_s) / 2, excluded.load_s), at = now()
    """
)
_ANSWERED = """
    INSERT INTO model_cost (model_key, {column}) VALUES (:model_key, :token_s)
    ON CONFLICT (model_key) DO UPDATE SET
        {column} = coalesce(
            model_cost.{column} + (excluded.{column} - model_cost.{column}) * :weight, excluded.{column}
        ), at = now()
    """
_ANSWERED_ONLINE = sa.text(_ANSWERED.format(column="token_s"))
_ANSWERED_IN_BULK = sa.text(_ANSWERED.format(column="bulk_token_s"))
_ALL = sa.text("SELECT model_key, load_s, coalesce(token_s, bulk_token_s / :slower) AS token_s FROM model_cost")
BULK_SLOWER = 4.0
"""An answer takes so much longer among many bulk ones than alone: SmolLM2-135M on one CPU thread makes 42 tokens a
second for one request, 332 for 32."""
MEMORY_ANSWERS = 16.0
"""So many new answers count as much as all before them: a slow hour is forgotten soon."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """By model key; models that were never measured are missing."""

    load_s: Mapping[str, float] = field(default_factory=dict)
    token_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds in the engine per completion token of an online answer, its prompt's share included."""


def read(session: Session) -> Measured:
    """All that is known."""
    rows = session.execute(_ALL, {"slower": BULK_SLOWER}).all()
    return Measured(
        load_s={row.model_key: row.load_s for row in rows if row.load_s is not None},
        token_s={row.model_key: row.token_s for row in rows if row.token_s is not None},
    )


def note_load(session: Session, model_key: str, seconds: float) -> None:
    """A load that was done."""
    session.execute(_LOADED, {"model_key": model_key, "seconds": seconds})


def note_answers(session: Session, answers: Iterable[tuple[str, Completion]], *, online: bool) -> None:
    """Model keys and what they answered; failures and empty answers tell nothing of speed."""
    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    count: dict[str, int] = {}
    for key, completion in answers:
        if completion.error is None and completion.completion_tokens and completion.engine_s:
            seconds[key] = seconds.get(key, 0.0) + completion.engine_s
            tokens[key] = tokens.get(key, 0) + completion.completion_tokens
            count[key] = count.get(key, 0) + 1
    for key in sorted(seconds):  # always in this order: two processes must not wait for each other's rows
        weight = count[key] / (count[key] + MEMORY_ANSWERS)
        statement = _ANSWERED_ONLINE if online else _ANSWERED_IN_BULK
        session.execute(statement, {"model_key": key, "token_s": seconds[key] / tokens[key], "weight": weight})
