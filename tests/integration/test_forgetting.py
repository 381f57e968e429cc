"""Workers that are gone for good, on a real database and broker."""

import redis
import sqlalchemy as sa

from orchestrator import metrics
from orchestrator.dispatch import forgetting
from orchestrator.pool import measured_costs
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests.driving import Driver
from workers.messages import WORKERS_KEY, bulk_queue, online_queue

HOUR_S = 3600.0


def remember(engine: sa.Engine, worker: str, *, silent_h: float, load_s: dict[str, float]) -> None:
    """A worker that measured these loads when it was last heard of."""
    values = {"worker": worker, "silent_s": silent_h * HOUR_S}
    at = "now() - make_interval(secs => :silent_s)"
    with database.session(engine) as session:
        session.execute(sa.text(f"INSERT INTO worker (name, state, seen_at) VALUES (:worker, '{{}}', {at})"), values)
        for model, seconds in load_s.items():
            statement = f"INSERT INTO model_cost (worker, model_key, load_s, updated_at) VALUES (:worker, :m, :s, {at})"
            session.execute(sa.text(statement), {**values, "m": model, "s": seconds})
            loaded = "INSERT INTO load (worker, model_key, seconds, memory_bytes) VALUES (:worker, :m, :s, 0)"
            session.execute(sa.text(loaded), {**values, "m": model, "s": seconds})


def test_a_worker_not_heard_of_for_a_day_is_forgotten_and_counts_in_no_mean(engine: sa.Engine, redis_url: str) -> None:
    remember(engine, "long gone", silent_h=50, load_s={"a": 90.0, "b": 80.0})
    remember(engine, "gone", silent_h=25, load_s={"a": 70.0, "b": 60.0})
    remember(engine, "here", silent_h=23, load_s={"a": 1.0})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for name in ("gone", "here"):
            client.hset(WORKERS_KEY, name, "{}")
            client.rpush(bulk_queue(name), "chunk")
            client.rpush(online_queue(name), "query")
        with database.session(engine) as session:
            assert forgetting.workers(session, client, unread_s=30 * HOUR_S) == []
            assert sorted(forgetting.workers(session, client, unread_s=1.0)) == ["gone", "long gone"]
            assert session.scalars(sa.text("SELECT name FROM worker")).all() == ["here"]
            known = measured_costs.costs(session)
            assert b"gone" not in metrics.collect(session)
            assert b'worker="here"' in metrics.collect(session)
        assert (known["a"].load_s, known["b"].load_s) == (1.0, 60.0)  # nobody knows better about b
        assert client.hkeys(WORKERS_KEY) == ["here"]
        assert set(client.keys("*")) == {WORKERS_KEY, bulk_queue("here"), online_queue("here")}


def test_the_dispatcher_forgets_them_by_itself(engine: sa.Engine, settings: Settings) -> None:
    remember(engine, "gone", silent_h=25, load_s={})
    driver = Driver(engine, settings)
    driver.dispatcher.step(block_s=0.01)
    driver.close()
    assert driver.scalar("SELECT count(*) FROM worker") == 0
