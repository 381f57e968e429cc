"""How online requests find a worker."""

import time

import pytest
import redis

from orchestrator.online.transport import BrokerTransport, NoWorker
from orchestrator.settings import Settings
from workers.messages import WORKERS_KEY, Model, Request, WorkerState


async def test_a_model_for_which_no_worker_has_devices_enough_is_refused_at_once(
    settings: Settings, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        alone = WorkerState(worker="w", at=time.time(), device="cuda:0", engines=("stub",))
        client.hset(WORKERS_KEY, "w", alone.model_dump_json())
    transport = BrokerTransport.connect(settings)
    large = Model(source="stub:large", tensor_parallel=2)
    with pytest.raises(NoWorker, match="on 2 devices"):
        await anext(transport.stream(Request(id="q", messages=()), large, deadline_s=time.time() + 2))
    await transport.aclose()
