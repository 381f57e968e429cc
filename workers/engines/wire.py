"""What a worker and its engine process say to each other: JSON values, one a line, over pipes."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from workers.engines.engine import Computed
from workers.messages import Completion, Model, Request, Value

LINE_BYTES = 64 << 20
"""Longest line that is read."""


class Start(Value):
    """Worker -> engine, first: load this model."""

    kind: Literal["start"] = "start"
    model: Model
    data_dir: str
    sequences: int
    """Requests in the engine at once."""
    prefill_tokens: int = 0
    """While queries are about, prompt tokens of bulk a step; 0: any number (`prefill_gate`)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only one kind of engine reads."""


class Generate(Value):
    kind: Literal["generate"] = "generate"
    request: Request
    stream: bool


class Abort(Value):
    kind: Literal["abort"] = "abort"
    id: str


class Sleep(Value):
    """Worker -> engine: fall asleep; answered by `Turned`."""

    kind: Literal["sleep"] = "sleep"


class Wake(Value):
    """Worker -> engine: wake up; answered by `Turned`."""

    kind: Literal["wake"] = "wake"


class Loaded(Value):
    """Engine -> worker: ready."""

    kind: Literal["loaded"] = "loaded"
    memory_bytes: int = 0
    sleep_bytes: int | None = None
    """`Engine.sleep_bytes` of the engine inside."""


class Turned(Value):
    """Engine -> worker: asleep, or awake, as it was told; or why not."""

    kind: Literal["turned"] = "turned"
    error: str | None = None


class Failed(Value):
    """Engine -> worker: the model cannot be loaded (the engine process ends)."""

    kind: Literal["failed"] = "failed"
    error: str


class Step(Value):
    """Engine -> worker: all that one step made. Also sent each second while `computed` grows."""

    kind: Literal["step"] = "step"
    texts: dict[str, str] = Field(default_factory=dict)
    """Request id -> text since the last step, of streamed requests."""
    done: tuple[Completion, ...] = ()
    computed: Computed
    """`Engine.computed` of the engine inside."""


class Died(Value):
    """Engine -> worker: it can serve no more and ends."""

    kind: Literal["died"] = "died"
    error: str


FromWorker = Start | Generate | Abort | Sleep | Wake
FromEngine = Loaded | Failed | Step | Turned | Died
to_engine: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="kind")])
to_worker: TypeAdapter[FromEngine] = TypeAdapter(Annotated[FromEngine, Field(discriminator="kind")])


def line(value: Value) -> bytes:
    """A value as one line."""
    return value.model_dump_json().encode() + b"\n"
