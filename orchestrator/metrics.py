"""Metrics in Prometheus's text form, read from the database: right whichever process restarts, and whichever serves."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlmodel import Session

_SOURCES = sa.text("SELECT DISTINCT ON (model_key) model_key, model->>'source' AS source FROM expert")
_LOADS = sa.text(
    """
    SELECT model_key, worker, count(*) FILTER (WHERE error IS NULL AND NOT woken) AS loads,
        count(*) FILTER (WHERE error IS NOT NULL) AS failed, sum(seconds) AS seconds,
        count(*) FILTER (WHERE woken) AS wakes, count(*) FILTER (WHERE failed_wake IS NOT NULL) AS failed_wakes
    FROM load WHERE worker IN (SELECT name FROM worker) GROUP BY model_key, worker
    """
)
_WAITING = sa.text(
    """
    SELECT model_key, count(*) AS units, sum(tokens) AS tokens,
        extract(epoch FROM now() - min(created_at))::float AS oldest_s
    FROM unit WHERE state = 'pending' GROUP BY model_key
    """
)
_OPEN_UNITS = sa.text(
    """
    SELECT stage, state, count(*) AS units, sum(attempts) AS attempts, sum(losses) AS losses,
        coalesce(sum((completion->>'prompt_tokens')::bigint), 0) AS prompt_tokens,
        coalesce(sum((completion->>'completion_tokens')::bigint), 0) AS completion_tokens,
        sum(device_s) AS device_s, sum(load_s) AS load_s
    FROM unit WHERE run_id IN (SELECT id FROM run WHERE totals = '{}') GROUP BY stage, state
    """
)
_ENDED_UNITS = sa.text(
    """
    SELECT each->>'stage' AS stage, each->>'state' AS state, sum((each->>'units')::bigint) AS units,
        sum((each->>'attempts')::bigint) AS attempts, sum((each->>'losses')::bigint) AS losses,
        sum((each->>'prompt_tokens')::bigint) AS prompt_tokens,
        sum((each->>'completion_tokens')::bigint) AS completion_tokens,
        coalesce(sum((each->>'device_s')::float), 0) AS device_s, coalesce(sum((each->>'load_s')::float), 0) AS load_s
    FROM run, jsonb_array_elements(totals->'units') AS each WHERE totals <> '{}' GROUP BY 1, 2
    """
)
_CHUNKS = sa.text("SELECT worker, count(*) AS chunks FROM chunk WHERE state = 'sent' GROUP BY worker")
_RUNS = sa.text("SELECT kind, status, count(*) AS runs FROM run GROUP BY kind, status")
_WORKERS = sa.text("SELECT name, extract(epoch FROM now() - seen_at)::float AS age_s FROM worker")
_EXPERTS = sa.text(
    "SELECT state, count(*) AS experts FROM"
    " (SELECT DISTINCT ON (name) name, state FROM expert ORDER BY name, version DESC) AS newest GROUP BY state"
)
_QUERIES = sa.text("SELECT status, count(*) AS queries FROM query GROUP BY status")


def collect(session: Session) -> bytes:
    """Everything, in Prometheus's text form."""
    registry = CollectorRegistry()
    registry.register(_Reading(session))
    return generate_latest(registry)


class _Reading:
    """One reading of the database, as prometheus_client's registry wants it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._loads()
        yield from self._queues()
        yield from self._units()
        yield _gauge("chunks_out", "Chunks sent to a worker and not ended", self._rows(_CHUNKS), "chunks", "worker")
        yield _gauge("runs", "Runs by kind and status", self._rows(_RUNS), "runs", "kind", "status")
        yield _gauge("worker_age_seconds", "Since a worker was last heard of", self._rows(_WORKERS), "age_s", "name")
        yield _gauge("experts", "Experts by state", self._rows(_EXPERTS), "experts", "state")
        yield _gauge("queries_kept", "Kept queries by status", self._rows(_QUERIES), "queries", "status")

    def _loads(self) -> Iterator[Metric]:
        rows = self._named(self._rows(_LOADS))
        yield _counter("loads", "Loads of a model's weights", rows, "loads", "model", "worker")
        yield _counter("load_failures", "Loads that failed", rows, "failed", "model", "worker")
        yield _counter("load_seconds", "Seconds spent loading and waking", rows, "seconds", "model", "worker")
        yield _counter("wakes", "Times a model that slept in host memory woke", rows, "wakes", "model", "worker")
        yield _counter(
            "failed_wakes",
            "Sleeping engines loaded anew: they came back wrong, or not",
            rows,
            "failed_wakes",
            "model",
            "worker",
        )

    def _queues(self) -> Iterator[Metric]:
        rows = self._named(self._rows(_WAITING))
        yield _gauge("queue_units", "Units that wait for a model", rows, "units", "model")
        yield _gauge("queue_tokens", "Tokens that those units may take", rows, "tokens", "model")
        yield _gauge("queue_oldest_seconds", "Age of the oldest of them", rows, "oldest_s", "model")

    def _units(self) -> Iterator[Metric]:
        totals: dict[tuple[str, str], dict[str, Any]] = {}
        for row in (*self._rows(_ENDED_UNITS), *self._rows(_OPEN_UNITS)):
            sums = totals.setdefault((row["stage"], row["state"]), {"stage": row["stage"], "state": row["state"]})
            for name in ("units", "attempts", "losses", "prompt_tokens", "completion_tokens", "device_s", "load_s"):
                sums[name] = sums.get(name, 0) + row[name]
        rows = list(totals.values())
        ended = [row for row in rows if row["state"] in ("done", "failed")]
        under_way = [row for row in rows if row["state"] not in ("done", "failed")]
        yield _counter("units", "Units that ended", ended, "units", "stage", "state")
        yield _gauge("units_open", "Units that wait or were sent", under_way, "units", "stage", "state")
        yield _counter(
            "unit_retries", "Tries that failed by the unit's or engine's fault", rows, "attempts", "stage", "state"
        )
        yield _counter("unit_losses", "Times a unit's worker was lost", rows, "losses", "stage", "state")
        yield _counter("prompt_tokens", "Prompt tokens of completions", rows, "prompt_tokens", "stage", "state")
        yield _counter("completion_tokens", "Generated tokens", rows, "completion_tokens", "stage", "state")
        yield _counter("device_seconds", "Device time charged to units", rows, "device_s", "stage", "state")
        yield _counter("unit_load_seconds", "Loading charged to units", rows, "load_s", "stage", "state")

    def _rows(self, statement: sa.TextClause) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in self._session.execute(statement)]

    def _named(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Models by their source, as people know them; sources of the same name are told apart by the key."""
        sources = {row["model_key"]: row["source"] for row in self._rows(_SOURCES)}
        names = list(sources.values())
        for row in rows:
            source = sources.get(row["model_key"], "")
            row["model"] = source if names.count(source) == 1 else f"{source or 'unknown'} ({row['model_key']})"
        return rows


def _counter(name: str, text: str, rows: list[dict[str, Any]], value: str, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"muster_{name}", text, labels=labels), rows, value, labels)


def _gauge(name: str, text: str, rows: list[dict[str, Any]], value: str, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"muster_{name}", text, labels=labels), rows, value, labels)


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, rows: list[dict[str, Any]], value: str, labels: tuple[str, ...]
) -> Metric:
    for row in rows:
        family.add_metric([str(row[label]) for label in labels], float(row[value] or 0))
    return family
