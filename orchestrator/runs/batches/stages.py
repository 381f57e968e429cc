"""What the stager does for a batch before its lines are answered, and after."""

import time
from collections import Counter

import sqlalchemy as sa
import structlog

from orchestrator.runs import finishing
from orchestrator.runs.batches import line, reading, writing
from orchestrator.runs.batches.writing import Writer
from orchestrator.runs.staging.context import Contexts
from orchestrator.settings import Settings
from orchestrator.storage import database
from orchestrator.storage.tables import BatchRow, RunRow

WRITE_RETRY_S = 2.0
"""Files that could not be written are tried again so soon: the lines are safe in the database meanwhile."""
WRITE_TRIES = 5
"""So often, where it is not the disk that fails: that may be mended for as long as it takes."""

_CANCELLED = sa.text("UPDATE run SET status = :status, ended_at = now() WHERE id = :run AND status = 'cancelling'")

log = structlog.get_logger()


class Batches:
    """Reads input files and writes output files, a slice a turn."""

    def __init__(self, *, engine: sa.Engine, settings: Settings, contexts: Contexts) -> None:
        self._engine = engine
        self._settings = settings
        self._contexts = contexts
        self._writer = Writer(settings)
        self._failed_at: dict[str, float] = {}
        self._tries: Counter[str] = Counter()
        """Times that the files of a batch were begun in vain."""

    def close(self) -> None:
        """Let go of what is half written."""
        self._writer.close()

    def advance(self, run: RunRow) -> bool:
        """One turn for a batch that is not in progress. False if there was nothing to do."""
        if run.status == "validating":
            return self._read(run)
        if run.status == "cancelling" and self._never_began(run):
            return True
        return self._write(run)

    def finish(self, run: RunRow) -> bool:
        """Go on to the files, if all lines have ended."""
        with database.session(self._engine) as session:
            if finishing.is_open(session, run.id):
                return False
            self._writer.begin(session, run.id)
        return True

    def _read(self, run: RunRow) -> bool:
        with database.session(self._engine) as session:
            experts = self._contexts.of(session, run).experts
            tokens = {name: expert.model.context_tokens for name, expert in experts.items()}
            reading.advance(session, self._settings, run, line.Pool(experts=frozenset(tokens), context_tokens=tokens))
        return True

    def _never_began(self, run: RunRow) -> bool:
        """A batch that is called off while its file is still read ends without any line."""
        with database.session(self._engine) as session:
            if session.get_one(BatchRow, run.id).in_progress_at is not None:
                return False
            reading.drop(session, run.id)
            session.execute(_CANCELLED, {"run": run.id, "status": "failed" if run.errors else "cancelled"})
        return True

    def _write(self, run: RunRow) -> bool:
        if time.monotonic() - self._failed_at.get(run.id, -WRITE_RETRY_S) < WRITE_RETRY_S:
            return False
        try:
            with database.session(self._engine) as session:
                if finishing.is_open(session, run.id):
                    return False  # the dispatcher is about to end its lines
                has_ended = self._writer.advance(session, run)
        except (sa.exc.OperationalError, sa.exc.InterfaceError):
            raise  # the database is away
        except OSError as error:
            log.error("a batch's files cannot be written; trying again", run=run.id, error=str(error))
            self._failed_at[run.id] = time.monotonic()
            return False
        except Exception as error:
            log.exception("a batch's files cannot be written", run=run.id)
            self._failed_at[run.id] = time.monotonic()
            self._tries[run.id] += 1
            has_ended = self._tries[run.id] >= WRITE_TRIES
            if has_ended:
                with database.session(self._engine) as session:
                    writing.give_up(session, run.id, f"{type(error).__name__}: {error}")
        if has_ended:
            self._failed_at.pop(run.id, None)
            self._tries.pop(run.id, None)
        return True
