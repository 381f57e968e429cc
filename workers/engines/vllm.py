"""The worker's side of vLLM: which settings its process gets. (The process itself: `vllm_host`.)"""

import os

from workers.engines import wire
from workers.engines.engine import Engine
from workers.engines.hosted import HostedEngine
from workers.messages import Model
from workers.settings import WorkerSettings

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
"""Unless the worker's own environment says otherwise."""
CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "CUDA_VISIBLE_DEVICES": "",
}
"""One thread: on a small machine more threads of two engines only wait for each other. Without vLLM's multiprocessing
the model runs in the engine core's own process: a third process that imports vLLM would cost seconds a load."""
CPU_STEP_TOKENS = 192
"""Tokens computed in one step, prompts in pieces: every answer under way waits for a step, which on a CPU takes about a
second for so many. Whole prompts of a full batch would hold a query up for half a minute."""
CPU_PREFILL_TOKENS = 64
"""Prompt tokens given to the engine a step while queries are about: prompts are what makes some steps far longer."""
CPU_STEPS = {"max_num_batched_tokens": CPU_STEP_TOKENS, "long_prefill_token_threshold": CPU_PREFILL_TOKENS}
"""vLLM's limits of a step on a CPU."""


def open_engine(model: Model, settings: WorkerSettings, *, whole: bool = False) -> Engine:
    """A vLLM engine in a process of its own, not started yet. `whole`: with the memory of all places of the GPU."""
    cpu = settings.device == "cpu"
    device = CPU if cpu else {"CUDA_VISIBLE_DEVICES": settings.device.removeprefix("cuda:")}
    if not model.source.startswith("hub:") and not model.adapter_rank:
        device = device | {"HF_HUB_OFFLINE": "1"}  # nothing is to be fetched, so nothing waits for a network
    options: dict[str, float | str]
    if cpu:
        options = cpu_options(model, settings)
    else:
        options = {"gpu_memory_utilization": settings.gpu_memory_share / (1 if whole else settings.residents)}
        if settings.sleep_bytes:
            options |= {"enable_sleep_mode": True}
    return HostedEngine(
        module="workers.engines.vllm_host",
        start=wire.Start(
            model=model,
            data_dir=str(settings.data_dir),
            sequences=settings.sequences + settings.online_slots,
            prefill_tokens=CPU_PREFILL_TOKENS if cpu else 0,
            options=options,
        ),
        worker=settings.name,
        environment={name: value for name, value in QUIET.items() if name not in os.environ} | device,
        stall_s=settings.stall_s,
        load_timeout_s=settings.load_timeout_s,
    )


def cpu_options(model: Model, settings: WorkerSettings) -> dict[str, float | str]:
    """What vLLM is told on a CPU, beside the model and how many requests it takes."""
    options: dict[str, float | str] = {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_bytes}
    if model.tensor_parallel == 1:
        options |= {"distributed_executor_backend": "uni"}
    return options | CPU_STEPS
