"""The planner's inputs, read from the database: what waits, what is about to, and what is out at the workers."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.dispatch import chunks
from orchestrator.residency import Queue
from orchestrator.runs.pinned import Pinned, Stage
from workers.messages import Model

RUNS_KEPT = 256
COUNT_AGE_S = 50e-6
"""A count is used so long for each row that it read, which took about 1 µs: at most a fiftieth of the time goes into
counting, where it would grow with the backlog, and a small backlog is always as it is now."""
COUNT_AGE_MOST_S = 2.0
_WAITING = sa.text(
    """
    SELECT model_key, run_id,
        count(*) FILTER (WHERE losses < :suspect) AS units,
        count(*) FILTER (WHERE losses >= :suspect) AS suspects,
        coalesce(sum(tokens) FILTER (WHERE losses < :suspect), 0) AS tokens,
        coalesce(sum(prompt_tokens) FILTER (WHERE losses < :suspect), 0) AS prompt_tokens,
        extract(epoch FROM now() - min(created_at) FILTER (WHERE losses < :suspect))::float AS oldest_s,
        extract(epoch FROM now() - min(created_at) FILTER (WHERE losses >= :suspect))::float AS suspect_s
    FROM unit WHERE state = 'pending'
        AND run_id NOT IN (SELECT id FROM run WHERE status IN ('cancelling', 'finalizing'))
    GROUP BY model_key, run_id
    """
)
_UPSTREAM = sa.text(
    """
    SELECT run_id, stage, count(*) AS instances, count(*) FILTER (WHERE ready) AS ready
    FROM instance WHERE stage IN ('annotate', 'recruit', 'generate')
        AND run_id NOT IN (SELECT id FROM run WHERE status IN ('cancelling', 'finalizing'))
    GROUP BY run_id, stage
    """
)
_OUT = sa.text(
    """
    SELECT worker, model_key, count(*) AS chunks, bool_or(alone) AS alone
    FROM chunk WHERE state = 'sent' GROUP BY worker, model_key ORDER BY max(id)
    """
)
_SOON: Mapping[str, tuple[Stage, ...]] = {
    "annotate": ("annotate", "generate"),
    "recruit": ("generate",),
    "generate": ("fuse",),
}
"""Stage of an instance that is ready -> stages whose models it may need next."""
ADAPTIVE = "adaptive"
"""The strategy that may ask one more expert after answers."""
_PINNED = sa.text("SELECT pinned FROM run WHERE id = :id")


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is out at one worker."""

    chunks: Mapping[str, int] = field(default_factory=dict)
    """Model -> chunks sent and not ended, the latest sent last."""
    is_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """All that waits, at one moment."""

    queues: Mapping[str, Queue]
    runs: Mapping[str, Mapping[str, int]]
    """Model -> run -> units waiting, suspects included."""
    windows: Mapping[str, Window]
    """Worker -> what is out at it."""


class BacklogReader:
    """Reads backlogs; keeps what runs pinned, which never changes.

    A count of a large backlog is used for more than one plan, less what was sent since (`sent`). It never says that
    nothing waits for a model which it has seen units of: then it is taken anew, as it is after `forget`.
    """

    def __init__(self) -> None:
        self._pinned: dict[str, Pinned] = {}
        self.models: dict[str, Model] = {}
        """Every model that some run seen so far may need."""
        self._queues: dict[str, Queue] = {}
        self._runs: dict[str, dict[str, int]] = {}
        self._count_at = 0.0

    def read(self, session: Session) -> Backlog:
        """What waits now, and what each model will be needed for soon."""
        now = time.monotonic()
        if now >= self._count_at:
            rows = self._count(session)
            self._count_at = now + min(COUNT_AGE_MOST_S, rows * COUNT_AGE_S)
        return Backlog(queues=dict(self._queues), runs=self._runs, windows=_windows(session))

    def sent(self, model_key: str, run_id: str, units: int) -> None:
        """So many of a run's units wait no longer, none of them suspect."""
        queue = self._queues[model_key]
        left = queue.units - units
        self._runs[model_key][run_id] -= units
        if left <= 0 or self._runs[model_key][run_id] <= 0:
            self.forget()
        else:
            self._queues[model_key] = replace(
                queue,
                units=left,
                tokens=queue.tokens * left // queue.units,
                prompt_tokens=queue.prompt_tokens * left // queue.units,
            )

    def forget(self) -> None:
        """Count anew for the next plan."""
        self._count_at = 0.0

    def _count(self, session: Session) -> int:
        """Fill `_queues` and `_runs`; returns how many rows that took."""
        # Upstream first: what the stager moves on between the two readings is then counted twice, and never missed.
        upstream = session.execute(_UPSTREAM).all()
        expected = self._expected(session, upstream)
        waiting = session.execute(_WAITING, {"suspect": chunks.SUSPECT_LOSSES}).all()
        units: dict[str, list[Any]] = defaultdict(list)
        self._runs = defaultdict(dict)
        for row in waiting:
            self.pinned(session, row.run_id)
            units[row.model_key].append(row)
            self._runs[row.model_key][row.run_id] = row.units + row.suspects
        self._queues = {
            key: Queue(
                model_key=key,
                engine=self.models[key].engine,
                units=sum(row.units for row in units[key]),
                suspects=sum(row.suspects for row in units[key]),
                tokens=sum(row.tokens for row in units[key]),
                prompt_tokens=sum(row.prompt_tokens for row in units[key]),
                oldest_s=max((row.oldest_s or 0.0 for row in units[key]), default=0.0),
                suspect_s=max((row.suspect_s or 0.0 for row in units[key]), default=0.0),
                upstream=expected[key].upstream,
                soon=expected[key].soon,
                feeds=expected[key].feeds,
                later=expected[key].later,
            )
            for key in [*{**units, **expected}]
        }
        waiting_rows = sum(sum(of_runs.values()) for of_runs in self._runs.values())
        return waiting_rows + sum(int(row.instances) for row in upstream)

    def pinned(self, session: Session, run_id: str) -> Pinned:
        """What a run pinned."""
        if run_id not in self._pinned:
            found = Pinned.model_validate(session.execute(_PINNED, {"id": run_id}).scalar_one())
            self._pinned[run_id] = found
            self.models |= {key: Model.model_validate(model) for key, model in found.models.items()}
            while len(self._pinned) > RUNS_KEPT:
                self._pinned.pop(next(iter(self._pinned)))
        return self._pinned[run_id]

    def _expected(self, session: Session, upstream: Sequence[Any]) -> defaultdict[str, "_Expected"]:
        """Per model: what the stager is about to bring, and what others' answers probably will.

        Any expert of a run is taken to be recruited as often as another.
        """
        found: defaultdict[str, _Expected] = defaultdict(_Expected)
        for row in upstream:
            pinned = self.pinned(session, row.run_id)
            stages = pinned.stages
            for key in {key for stage in _SOON[row.stage] for key in stages.get(stage, ())}:
                found[key].upstream += row.ready
            for key in stages.get("fuse", ()):
                found[key].later += row.instances
            experts, named_by = stages.get("generate", ()), stages.get("annotate", ())
            if row.stage == "annotate" and named_by:
                recruits = row.instances * (pinned.k or 1)
                for key in experts:
                    found[key].soon += recruits / len(experts)
                for key in named_by:
                    found[key].feeds += recruits / len(named_by)
            if row.stage == "generate" and pinned.strategy == ADAPTIVE:
                for key in experts:
                    found[key].later += row.instances / len(experts)
        return found


@dataclass(kw_only=True)
class _Expected:
    """As in `Queue`."""

    upstream: int = 0
    soon: float = 0.0
    feeds: float = 0.0
    later: float = 0.0


def _windows(session: Session) -> dict[str, Window]:
    out: dict[str, dict[str, int]] = defaultdict(dict)
    alone: set[str] = set()
    for row in session.execute(_OUT):
        out[row.worker][row.model_key] = row.chunks
        if row.alone:
            alone.add(row.worker)
    return {worker: Window(chunks=models, is_alone=worker in alone) for worker, models in out.items()}
