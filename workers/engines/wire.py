"""What a worker and its engine process say to each other: JSON values, one a line, over pipes."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

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
    options: dict[str, Any] = Field(default_factory=dict)
    """What only one kind of engine reads."""


class Generate(Value):
    kind: Literal["generate"] = "generate"
    request: Request
    stream: bool


class Abort(Value):
    kind: Literal["abort"] = "abort"
    id: str


class Loaded(Value):
    """Engine -> worker: ready."""

    kind: Literal["loaded"] = "loaded"
    memory_bytes: int = 0


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
    computed: int
    """`Engine.computed` of the engine inside."""


class Died(Value):
    """Engine -> worker: it can serve no more and ends."""

    kind: Literal["died"] = "died"
    error: str


ToEngine = Annotated[Start | Generate | Abort, Field(discriminator="kind")]
ToWorker = Annotated[Loaded | Failed | Step | Died, Field(discriminator="kind")]
to_engine: TypeAdapter[Start | Generate | Abort] = TypeAdapter(ToEngine)
to_worker: TypeAdapter[Loaded | Failed | Step | Died] = TypeAdapter(ToWorker)


def line(value: Value) -> bytes:
    """A value as one line."""
    return value.model_dump_json().encode() + b"\n"
