"""The stager: moves instances from stage to stage, and finishes runs. It alone makes units.

Each stage of a batch of instances is one transaction: take those that are ready, decide, write. Killed at any
point, it goes on where the last transaction ended.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator.pool import registration
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.runs import finishing, runs
from orchestrator.runs.batches.stages import Batches
from orchestrator.runs.staging import aggregator, benchmark, profile
from orchestrator.runs.staging.ahead import Ahead
from orchestrator.runs.staging.context import Context, Contexts
from orchestrator.runs.staging.work import Batch, Instance, take
from orchestrator.settings import Settings
from orchestrator.storage import database, sweeping
from orchestrator.storage.tables import RunRow

BATCH_MIN = 8
BATCH_MAX = 256
BATCH_S = 0.4
"""A batch should take about so long: its instances are locked meanwhile. Embedding long questions is slow."""
REGISTRATION_S = 0.5
SWEEP_S = 60.0
FAILURES_MAX = 5
"""A run that cannot be advanced so often in a row is given up: it must not hold up the others for ever."""
RETRY_S = 2.0

Handler = Callable[[Session, Context, Sequence[Instance]], Batch]
HANDLERS: Mapping[str, Mapping[str, Handler]] = {
    "benchmark": {
        # What is nearest its end first: lines end early, and little is half done at a time.
        "grade": benchmark.completed,
        "fuse": benchmark.aggregated,
        "generate": benchmark.generated,
        "annotate": benchmark.annotate_and_recruit,
    },
    "batch": {
        "fuse": benchmark.aggregated,
        "generate": benchmark.generated,
        "annotate": benchmark.annotate_and_recruit,
    },
    "profile": {"generate": profile.grade, "recruit": profile.ask},
    "aggregator": {"fuse": aggregator.ask},
}
"""Kind of run -> stage -> what an instance that is ready in it needs."""

log = structlog.get_logger()


class Stager:
    """`step()` over and over, by one thread of the one orchestrator process."""

    def __init__(self, *, engine: sa.Engine, settings: Settings, load_embedder: Callable[[], TextEmbedder]) -> None:
        self._engine = engine
        self._settings = settings
        self._contexts = Contexts(load_embedder=load_embedder)
        self._ahead = Ahead(load_embedder=load_embedder)
        self._batches = Batches(engine=engine, settings=settings, contexts=self._contexts)
        self._sizes: dict[tuple[str, str], int] = defaultdict(lambda: BATCH_MIN)
        self._failures: dict[str, list[float]] = defaultdict(list)
        self._registration_at = 0.0
        self._swept_at = -math.inf

    def step(self) -> bool:
        """One turn: a batch of each stage of each open run. False if there was nothing to do."""
        self._advance_registrations()
        self._sweep()
        with database.session(self._engine) as session:
            open_runs = runs.open_runs(session)
        self._forget_all_but(open_runs)
        did = [self._try_to_advance(run) for run in open_runs]
        return any(did)

    def close(self) -> None:
        """End the threads that embed, and let go of files that are half written; they are begun anew."""
        self._ahead.close()
        self._batches.close()

    def _forget_all_but(self, open_runs: Sequence[RunRow]) -> None:
        self._ahead.keep({run.id for run in open_runs if run.status == "in_progress"})
        for run_id in self._failures.keys() - {run.id for run in open_runs}:
            del self._failures[run_id]

    def _try_to_advance(self, run: RunRow) -> bool:
        """A run with a fault of its own stops itself only. Raises what the database raises when it is away."""
        failures = self._failures.get(run.id)
        if failures and time.monotonic() - failures[-1] < RETRY_S:
            return False
        try:
            did = self._advance(run)
        except sa.exc.OperationalError:
            raise
        except Exception as error:
            log.exception("a run cannot be advanced", run=run.id)
            self._failures[run.id].append(time.monotonic())
            if len(self._failures[run.id]) >= FAILURES_MAX:
                with database.session(self._engine) as session:
                    runs.give_up(session, run.id, f"the run could not go on: {type(error).__name__}: {error}")
            return False
        self._failures.pop(run.id, None)
        return did

    def _advance(self, run: RunRow) -> bool:
        if run.status != "in_progress":
            return self._batches.advance(run)
        handlers = HANDLERS.get(run.kind)
        if handlers is None:
            return False
        moved = [self._stage(run, stage, handler) for stage, handler in handlers.items()]
        return any(moved) or self._finish(run)

    def _stage(self, run: RunRow, stage: str, handler: Handler) -> bool:
        """One batch of one stage, in one transaction."""
        size = self._sizes[run.kind, stage]
        began = time.monotonic()
        with database.session(self._engine) as session:
            context = self._contexts.of(session, run)
            if stage == context.embeds_in:
                size = self._ahead.embedded(session, run.id, stage)
            instances = take(session, run.id, stage, size) if size else []
            if not instances:
                return False
            handler(session, context, instances).write(session)
        self._adapt(run.kind, stage, len(instances), time.monotonic() - began)
        return True

    def _adapt(self, kind: str, stage: str, count: int, seconds: float) -> None:
        """The next batch of this stage is larger or smaller."""
        size = self._sizes[kind, stage]
        if seconds > BATCH_S:
            self._sizes[kind, stage] = max(BATCH_MIN, size // 2)
        elif count == size and seconds < BATCH_S / 2:
            self._sizes[kind, stage] = min(BATCH_MAX, size * 2)

    def _finish(self, run: RunRow) -> bool:
        if run.kind == "batch":
            return self._batches.finish(run)
        with database.session(self._engine) as session:
            if finishing.is_open(session, run.id):
                return False
            finishing.finish(session, self._contexts.of(session, run), self._settings)
        log.info("run completed", run=run.id, kind=run.kind)
        return True

    def _advance_registrations(self) -> None:
        if time.monotonic() - self._registration_at < REGISTRATION_S:
            return
        self._registration_at = time.monotonic()
        with database.session(self._engine) as session:
            registration.advance(session, self._settings)

    def _sweep(self) -> None:
        """Delete files that have expired or were left behind; what cannot be deleted now is tried again."""
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        self._swept_at = time.monotonic()
        try:
            sweeping.sweep(self._engine, self._settings)
        except OSError as error:
            log.warning("files not swept; tried again in a minute", error=str(error))
