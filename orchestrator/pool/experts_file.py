"""`experts.toml`: the pool as reviewed data. Reading it, and bringing the database in line with it."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlmodel import Session

from orchestrator.pool import definition, experts
from orchestrator.pool.definition import Definition, DefinitionError
from orchestrator.storage.tables import ExpertRow

ABSENT = "no longer in the experts file"
"""Why an expert that the file dropped is parked; one parked for this reason comes back with its entry."""

log = structlog.get_logger(__name__)


class ExpertsFileError(ValueError):
    """The file cannot be used: the message names the file, the expert and the field."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What loading the file did to one expert: "added", "changed", "described", "parked" or "returned"."""

    expert: str
    what: str


def read(path: Path, *, allow_remote_code: bool = False) -> tuple[Definition, ...]:
    """The enabled experts of the file, in order. Raises `ExpertsFileError`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExpertsFileError(f"{path}: there is no such file (MUSTER_EXPERTS_FILE names another)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExpertsFileError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ExpertsFileError(f"{path}: not TOML: {error}") from None
    return _definitions(path, content, allow_remote_code)


def _definitions(path: Path, content: Mapping[str, Any], allow_remote_code: bool) -> tuple[Definition, ...]:
    for key in content:
        if key != "expert":
            raise ExpertsFileError(f"{path}: {key!r} is not known; every expert starts with [[expert]]")
    entries = content.get("expert", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ExpertsFileError(f"{path}: every expert starts with [[expert]], in double brackets")
    found: dict[str, Definition] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        label = f"{path}: expert {entry.get('name') or f'number {number}'!r}"
        fields = {field: value for field, value in entry.items() if field != "enabled"}
        enabled = entry.get("enabled", True)
        if not isinstance(enabled, bool):
            raise ExpertsFileError(f"{label}: enabled: must be true or false")
        try:
            written = definition.parse(fields, allow_remote_code=allow_remote_code)
        except DefinitionError as error:
            raise ExpertsFileError(f"{label}: {error}") from None
        if written.name in names:
            raise ExpertsFileError(f"{label}: name: is given twice")
        names.add(written.name)
        if enabled:
            found[written.name] = written
    return tuple(found.values())


def sync(session: Session, written: tuple[Definition, ...]) -> list[Change]:
    """Bring the experts that came from the file in line with it; doing it twice changes nothing more.

    The file speaks when it changes: an expert that was patched or removed through the API stays so until
    its entry is edited. What the API registered is left alone.
    """
    current = {row.name: row for row in experts.current(session, states=experts.STATES)}
    changes = [change for entry in written if (change := _sync_one(session, entry, current.get(entry.name)))]
    names = {entry.name for entry in written}
    for row in current.values():
        if row.origin == "file" and row.name not in names and row.state not in ("parked", "removed"):
            experts.move(row, "parked", ABSENT)
            changes.append(Change(expert=row.name, what="parked"))
    session.flush()
    return changes


def _sync_one(session: Session, entry: Definition, row: ExpertRow | None) -> Change | None:
    if row is None:
        experts.add_version(session, entry, origin="file", after=None)
        return Change(expert=entry.name, what="added")
    last_written = experts.last_from_file(session, entry.name)
    if last_written is None or not experts.same_behaviour(last_written, entry):
        experts.add_version(session, entry, origin="file", after=row)
        return Change(expert=entry.name, what="changed")
    if row.id != last_written.id:
        return None
    if row.state == "parked" and row.reason == ABSENT:
        experts.move(row, "live" if experts.has_profile(session, row) else "registered")
        return Change(expert=entry.name, what="returned")
    if (row.description, row.licence) != (entry.description, entry.licence):
        row.description, row.licence = entry.description, entry.licence
        return Change(expert=entry.name, what="described")
    return None


def follow(session: Session, path: Path, *, allow_remote_code: bool = False) -> list[Change]:
    """Read the file again if it changed, and sync. A file with an error changes nothing and is logged once."""
    try:
        stat = path.stat()
    except OSError:
        stat = None
    written = _read_once(path, stat and (stat.st_mtime_ns, stat.st_size), allow_remote_code)
    if written is None:
        return []
    changes = sync(session, written)
    for change in changes:
        log.info("experts file", expert=change.expert, change=change.what)
    return changes


@functools.lru_cache(maxsize=8)
def _read_once(path: Path, stamp: object, allow_remote_code: bool) -> tuple[Definition, ...] | None:
    """The file's experts, parsed once per `stamp`; None (logged once) if it cannot be used."""
    try:
        return read(path, allow_remote_code=allow_remote_code)
    except ExpertsFileError as error:
        log.error("experts file not used", error=str(error), todo="mend the file; it is read again when it changes")
        return None
