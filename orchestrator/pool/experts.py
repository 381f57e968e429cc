"""The experts as the database knows them: versions, states, and which state may follow which."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlmodel import Session, col, select

from orchestrator.pool import definition
from orchestrator.pool.definition import Definition
from orchestrator.storage.tables import AggregatorScoreRow, ExpertRow, ProfileRow

NEXT_STATES = {
    "registered": ("testing", "profiling", "live", "parked", "quarantined", "removed"),
    "testing": ("registered", "profiling", "live", "parked", "quarantined", "removed"),
    "profiling": ("registered", "live", "parked", "quarantined", "removed"),
    "live": ("parked", "quarantined", "removed"),
    "parked": ("registered", "testing", "profiling", "live", "quarantined", "removed"),
    "quarantined": ("registered", "testing", "profiling", "live", "parked", "removed"),
    "removed": (),
}
"""state -> the states that may follow. A removed name that is registered again is a new version."""
STATES = tuple(NEXT_STATES)
PRESENT = tuple(state for state in STATES if state != "removed")

_REGISTER_LOCK = 0x6D757374
"""Advisory lock that makes "is the name free?" and the insert one step ("must" in ASCII)."""


class UnknownExpert(LookupError):
    """Nobody of this name is, or ever was, in the pool."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no expert {name!r}; GET /v1/experts lists them")
        self.name = name


class ExpertNotLive(LookupError):
    """The expert exists but cannot be asked now."""

    def __init__(self, name: str, state: str, reason: str = "") -> None:
        because = f" ({reason})" if reason else ""
        super().__init__(f"expert {name!r} is {state}{because}, not live")
        self.name, self.state, self.reason = name, state, reason


class NameTaken(ValueError):
    """An expert of this name is in the pool already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is an expert {name!r} already; PATCH /v1/experts/{name} changes it")
        self.name = name


class IllegalMove(ValueError):
    """This state may not follow that one."""


def current(session: Session, *, states: Collection[str] = PRESENT) -> list[ExpertRow]:
    """The current (highest) version of every name that is in one of `states`, by name."""
    newest = (
        select(ExpertRow).ext(distinct_on(col(ExpertRow.name))).order_by(ExpertRow.name, col(ExpertRow.version).desc())
    )
    return [row for row in session.exec(newest) if row.state in states]


def on_model(session: Session, model_key: str) -> Sequence[ExpertRow]:
    """Every version of every expert on this model, whatever its state."""
    return session.exec(select(ExpertRow).where(ExpertRow.model_key == model_key).order_by(col(ExpertRow.id))).all()


def get(session: Session, name: str) -> ExpertRow:
    """The current version, whatever its state but removed. Raises `UnknownExpert`."""
    row = _newest(session, name)
    if row is None or row.state == "removed":
        raise UnknownExpert(name)
    return row


def versions(session: Session, name: str) -> Sequence[ExpertRow]:
    """Every version there ever was, newest first. Raises `UnknownExpert`."""
    query = select(ExpertRow).where(ExpertRow.name == name).order_by(col(ExpertRow.version).desc())
    rows = session.exec(query).all() if definition.NAME.fullmatch(name) else []
    if not rows:
        raise UnknownExpert(name)
    return rows


def register(session: Session, written: Definition, *, origin: str = "api") -> ExpertRow:
    """Take a new expert in; it starts as `registered`. Raises `NameTaken`."""
    session.exec(select(sa.func.pg_advisory_xact_lock(_REGISTER_LOCK))).one()
    newest = _newest(session, written.name)
    if newest is not None and newest.state != "removed":
        raise NameTaken(written.name)
    return add_version(session, written, origin=origin, after=newest)


def patch(session: Session, name: str, changes: dict[str, Any], *, allow_remote_code: bool = False) -> ExpertRow:
    """Change an expert: a new version, `registered` again, unless only its description or licence changed.

    Raises `UnknownExpert`, or `definition.DefinitionError` naming the wrong field.
    """
    session.exec(select(sa.func.pg_advisory_xact_lock(_REGISTER_LOCK))).one()
    row = get(session, name)
    if "name" in changes and changes["name"] != name:
        raise definition.DefinitionError("name", "an expert cannot be renamed; register it anew under the other name")
    written = definition.parse(_patched(as_written(row), changes), allow_remote_code=allow_remote_code)
    if same_behaviour(row, written):
        row.description, row.licence = written.description, written.licence
        session.flush()
        return row
    return add_version(session, written, origin="api", after=row)


def _patched(written: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Fields replaced, nested `model` and `sampling` merged; a model given as a string is another model altogether."""
    merged = dict(written)
    for field, value in changes.items():
        nested = isinstance(value, dict) and isinstance(written.get(field), dict)
        merged[field] = {**written[field], **value} if nested else value
    return merged


def remove(session: Session, name: str) -> ExpertRow:
    """Take an expert out of the pool for good; its versions and profiles stay as history. Raises `UnknownExpert`."""
    row = get(session, name)
    row.set_aside = row.state == "quarantined"
    move(row, "removed")
    session.flush()
    return row


def move(row: ExpertRow, state: str, reason: str = "") -> None:
    """Bring an expert into another state. Raises `IllegalMove`."""
    if state != row.state and state not in NEXT_STATES[row.state]:
        raise IllegalMove(f"expert {row.name!r} cannot go from {row.state} to {state}")
    row.state, row.reason = state, reason


def add_version(session: Session, written: Definition, *, origin: str, after: ExpertRow | None) -> ExpertRow:
    """A new version, `registered`. It is current at once: the one before it no longer answers."""
    model = written.model_value()
    row = ExpertRow(
        name=written.name,
        version=after.version + 1 if after else 1,
        description=written.description,
        model=model.model_dump(mode="json"),
        model_key=model.key,
        adapter=written.adapter,
        system_prompt=written.system_prompt,
        sampling=written.sampling_value().model_dump(mode="json"),
        licence=written.licence,
        origin=origin,
    )
    session.add(row)
    session.flush()
    return row


def as_written(row: ExpertRow) -> dict[str, Any]:
    """A row as the definition that would make it."""
    return {
        "name": row.name,
        "model": row.model,
        "adapter": row.adapter,
        "system_prompt": row.system_prompt,
        "sampling": {name: row.sampling[name] for name in definition.SamplingDefinition.model_fields},
        "description": row.description,
        "licence": row.licence,
    }


def same_behaviour(row: ExpertRow, written: Definition) -> bool:
    """Whether the definition would answer as this version does: all but the description and the licence is equal."""
    return (row.model_key, row.adapter, row.system_prompt, row.sampling) == (
        written.model_value().key,
        written.adapter,
        written.system_prompt,
        written.sampling_value().model_dump(mode="json"),
    )


def last_from_file(session: Session, name: str) -> ExpertRow | None:
    """The newest version that the experts file wrote, if it ever wrote one."""
    query = select(ExpertRow).where(ExpertRow.name == name, ExpertRow.origin == "file")
    return session.exec(query.order_by(col(ExpertRow.version).desc())).first()


def has_profile(session: Session, row: ExpertRow) -> bool:
    return session.exec(select(ProfileRow.id).where(ProfileRow.expert_id == row.id)).first() is not None


def profiles(session: Session, row: ExpertRow) -> Sequence[ProfileRow]:
    """This version's profiles, newest first."""
    return session.exec(
        select(ProfileRow).where(ProfileRow.expert_id == row.id).order_by(col(ProfileRow.id).desc())
    ).all()


def aggregator_scores(session: Session, row: ExpertRow) -> Sequence[AggregatorScoreRow]:
    """This version's aggregator tests, newest first."""
    query = select(AggregatorScoreRow).where(AggregatorScoreRow.expert_id == row.id)
    return session.exec(query.order_by(col(AggregatorScoreRow.id).desc())).all()


def _newest(session: Session, name: str) -> ExpertRow | None:
    if not definition.NAME.fullmatch(name):
        return None
    query = select(ExpertRow).where(ExpertRow.name == name).order_by(col(ExpertRow.version).desc())
    return session.exec(query).first()
