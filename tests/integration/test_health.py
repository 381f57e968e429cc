"""Container health checks look at what a service does."""

import time

import pytest
import redis
import sqlalchemy as sa

from orchestrator import health
from orchestrator.settings import Settings
from orchestrator.storage import database
from workers.messages import WORKERS_KEY, WorkerState


def test_a_lock_is_seen_while_somebody_holds_it(engine: sa.Engine) -> None:
    assert not database.is_locked(engine, "orchestrator")
    lock = database.AdvisoryLock(engine, "orchestrator")
    assert lock.try_acquire()
    assert database.is_locked(engine, "orchestrator")
    assert not database.is_locked(engine, "another")
    lock.release()
    assert not database.is_locked(engine, "orchestrator")


@pytest.mark.parametrize(("age_s", "code"), [(0, 0), (60, 1)])
def test_a_worker_is_healthy_while_it_publishes(
    redis_url: str, age_s: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = WorkerState(worker="w0", at=time.time() - age_s, device="none", engines=("stub",))
    with redis.Redis.from_url(redis_url) as client:
        client.hset(WORKERS_KEY, "w0", state.model_dump_json())
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert health.main(["worker", "w0"]) == code


def test_no_orchestrator_is_unhealthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    with pytest.raises(health.Unhealthy):
        health.check_orchestrator()
