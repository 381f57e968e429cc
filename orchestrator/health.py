"""`python -m orchestrator.health api|orchestrator|worker NAME`: exit code 0 if that service does its work.

For container health checks: it asks end to end, not for a process id.
"""

import os
import sys

import httpx
import redis

from orchestrator.settings import Settings
from orchestrator.storage import database
from workers.messages import WORKER_STALE_S, WORKERS_KEY, WorkerState

TIMEOUT_S = 4.0


class Unhealthy(RuntimeError):
    """The service does not do its work; the message says how that shows."""


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["api"]:
                check_api()
            case ["orchestrator"]:
                check_orchestrator()
            case ["worker", name]:
                check_worker(name)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except Exception as error:
        print(f"unhealthy: {error}", file=sys.stderr)
        return 1
    return 0


def check_api() -> None:
    """It answers, and can serve."""
    port = Settings().port
    httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_S).raise_for_status()


def check_orchestrator() -> None:
    """Some process holds the orchestrator's lock: it lives, and its database connection does."""
    engine = database.connect(Settings(), pool_size=1)
    try:
        if not database.is_locked(engine, "orchestrator"):
            raise Unhealthy("no process holds the orchestrator's lock")
    finally:
        engine.dispose()


def check_worker(name: str) -> None:
    """It published its state within the last seconds."""
    with redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=TIMEOUT_S) as client:
        published = client.hget(WORKERS_KEY, name)
        now_s = client.time()[0]
    if not isinstance(published, bytes):
        raise Unhealthy(f"worker {name} has published nothing")
    age_s = now_s - WorkerState.model_validate_json(published).at
    if age_s > WORKER_STALE_S:
        raise Unhealthy(f"worker {name} was last heard of {age_s:.0f} s ago")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
