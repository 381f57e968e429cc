"""The broker: sending Celery tasks by name, and Redis clients. Nothing here imports a worker."""

from typing import Any

import celery
import redis

from orchestrator.settings import Settings
from workers.messages import VISIBILITY_TIMEOUT_S, Value

SOCKET_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 16
PUBLISH_RETRIES = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
"""Bounded: a send that fails is put right by the chunk's lease."""


def sender(settings: Settings) -> celery.Celery:
    """A Celery app that only sends. Raises nothing until the first send."""
    app = celery.Celery("muster", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_publish_retry=True,
        task_publish_retry_policy=PUBLISH_RETRIES,
        broker_pool_limit=4,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "priority_steps": [0],
            "socket_connect_timeout": SOCKET_TIMEOUT_S,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "max_connections": CONNECTIONS_MAX,
        },
    )
    return app


def send(app: celery.Celery, task: str, queue: str, message: Value) -> None:
    """Send one task, whose only argument is the message as a JSON object.

    Raises `kombu.exceptions.OperationalError` where the broker cannot be reached after a few tries.
    """
    send_json(app, task, queue, message.model_dump(mode="json"))


def send_json(app: celery.Celery, task: str, queue: str, message: dict[str, Any]) -> None:
    """As `send`, for a message that is plain JSON already: a chunk, whose requests come from the database so."""
    # argsrepr: Celery would print the whole message into a header, which costs more than sending it.
    app.send_task(task, args=[message], queue=queue, ignore_result=True, argsrepr="")


def client(settings: Settings) -> redis.Redis:
    """A Redis client with a bounded pool; strings come back as `str`."""
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        max_connections=CONNECTIONS_MAX,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=30,
    )
