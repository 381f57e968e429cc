"""What every engine is, and the ways it can fail."""

from collections.abc import AsyncGenerator
from typing import Literal, NamedTuple, Protocol

from workers.messages import Delta, Request

Fault = Literal["request", "engine", "model"]


class Computed(NamedTuple):
    """Tokens that an engine has computed so far."""

    prompt: int = 0
    completion: int = 0


class GenerationError(Exception):
    """A request came to nothing; `fault` says whose fault it was."""

    fault: Fault


class RequestError(GenerationError):
    """The request is bad, e.g. longer than the model's context. Trying again will not help."""

    fault: Fault = "request"


class EngineError(GenerationError):
    """The engine died or could not be reached. The request may be tried again."""

    fault: Fault = "engine"


class ModelError(GenerationError):
    """The model cannot be loaded here. Every request for it fails until something is changed."""

    fault: Fault = "model"


class Engine(Protocol):
    """One loaded model. Life: `load()` once, `generate()` many at once, `close()`; between them it may sleep."""

    @property
    def died(self) -> str | None:
        """Why the engine can serve no more, or None while it can."""

    @property
    def computed(self) -> Computed:
        """Grows whenever the engine computes tokens, of prompts or completions: what shows a hung engine."""

    @property
    def sleep_bytes(self) -> int | None:
        """Host memory that its weights take while it sleeps, known once it is loaded; None: it cannot sleep."""

    async def load(self) -> int:
        """Bring the weights in; return the bytes of memory that took (0: not known). Raises ModelError, EngineError."""

    def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        """Yield text as it comes if `stream`; the last `Delta` carries the completion with the whole text.

        `request.id` must be unique among running requests. Closing the iterator, or cancelling the task that
        reads it, aborts the request in the engine. Raises RequestError, EngineError, ModelError.
        """

    async def sleep(self) -> None:
        """Give the device's memory back and keep the weights in host memory. No request may run. Raises EngineError."""

    async def wake(self) -> None:
        """Bring the weights back from host memory. Raises EngineError: the engine must then be closed."""

    async def close(self) -> None:
        """Give back every resource. Running requests fail with EngineError. May be called twice."""
