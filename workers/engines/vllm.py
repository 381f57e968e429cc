"""The worker's side of vLLM: which settings its process gets. (The process itself: `vllm_host`.)"""

import os

from workers.engines import wire
from workers.engines.engine import Engine
from workers.engines.hosted import HostedEngine
from workers.messages import Model
from workers.settings import WorkerSettings

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
"""Unless the worker's own environment says otherwise."""
CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "CUDA_VISIBLE_DEVICES": ""}
"""One thread: on a small machine more threads of two engines only wait for each other."""


def open_engine(model: Model, settings: WorkerSettings) -> Engine:
    """A vLLM engine in a process of its own, not started yet."""
    cpu = settings.device == "cpu"
    device = CPU if cpu else {"CUDA_VISIBLE_DEVICES": settings.device.removeprefix("cuda:")}
    if not model.source.startswith("hub:") and not model.adapter_rank:
        device = device | {"HF_HUB_OFFLINE": "1"}  # nothing is to be fetched, so nothing waits for a network
    options: dict[str, float]
    if cpu:
        options = {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_bytes}
        # vLLM rewinds the generator of a seeded request whose prompt was computed in part only, which torch's
        # generator for the CPU cannot ("does not use offset"): the engine would die of a full batch.
        options |= {"enable_chunked_prefill": False}
    else:
        options = {"gpu_memory_utilization": settings.gpu_memory_share / settings.residents}
    return HostedEngine(
        module="workers.engines.vllm_host",
        start=wire.Start(
            model=model,
            data_dir=str(settings.data_dir),
            sequences=settings.sequences + settings.online_slots,
            options=options,
        ),
        worker=settings.name,
        environment={name: value for name, value in QUIET.items() if name not in os.environ} | device,
        stall_s=settings.stall_s,
        load_timeout_s=settings.load_timeout_s,
    )
