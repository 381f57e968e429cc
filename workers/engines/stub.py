"""The stub: a deterministic engine without a model. It ships with the product, for tests, demos and measuring.

`stub:NAME?option=value&…` sets how it behaves:

| option | means |
|---|---|
| `load_s`, `memory_bytes` | how long a load takes, and what it reports |
| `fail_load` | why its load fails (it then always does) |
| `kill_load` | 1: its process is killed at the end of its load (without `child`, that is its worker) |
| `latency_s`, `tokens_per_s` | seconds to the first token; speed of each request (0: at once) |
| `context` | longest prompt, in words |
| `child` | 1: runs in a process of its own, as vLLM does |
| `sleep` | 1: it can sleep, as vLLM can on a GPU; asleep it takes `memory_bytes` of the host's memory |
| `wake` | `wrong`: it comes back from its sleep saying other things; `fail`: it does not come back |
| `lost` | the environment variable of its worker that names a file: while that exists, the device is lost |
| `hang_at` | from its so many-th request on, the engine stands still |
| `good`, `p`, `q` | skills (comma separated) it is right on with probability `p`; elsewhere `q` |
| `merges` | probability that it is right when it merges others' answers; by default as when it answers itself |
| `says` | what it answers to every question, whatever the question holds |
| `endless` | 1: it says that over and over until it is cut off |
| `journal` | a file to which the start of each request is appended: seconds of the monotonic clock, and its id |

The stub knows nothing. So that experts of known strength can be made, a question may carry its own answer in a
mark: `[stub:gold=C]`, with `[stub:skill=algebra,geometry]`. Whether an expert "knows" it is drawn from a hash of
source, messages and seed: the same request is always answered the same. Asked for skills, it names those of the mark.

Other marks make trouble (of the last user message that has marks): `[stub:say=TEXT]`, `[stub:wait=SECONDS]`,
`[stub:error]` (bad request), `[stub:die]` (the engine dies), `[stub:hang]` (nothing ever comes), `[stub:poison]` (its
process is killed).
"""

import asyncio
import hashlib
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from workers.engines.engine import Computed, EngineError, ModelError, RequestError
from workers.messages import ChatMessage, Completion, Delta, Model, Request

STEP_S = 0.01
"""Streamed words are sent in steps of about this length, like an engine's."""
_MARK = re.compile(r"\[stub:(\w+)(?:=([^\]]*))?\]")
_FENCE = re.compile(r"^<answer-\w+ 1>$", re.MULTILINE)
"""What an aggregator's prompt puts others' answers between."""
_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):]\s", re.MULTILINE)
_WORDS = ("light", "water", "time", "number", "field", "order", "source", "balance", "motion", "language")


class StubOptions(BaseModel):
    """The options in a stub's source; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    load_s: float = 0.0
    memory_bytes: int = 0
    fail_load: str | None = None
    kill_load: bool = False
    latency_s: float = 0.0
    tokens_per_s: float = 0.0
    context: int = 100_000
    child: bool = False
    sleep: bool = False
    wake: Literal["right", "wrong", "fail"] = "right"
    lost: str | None = None
    hang_at: int | None = None
    good: tuple[str, ...] = ()
    p: float = 0.9
    q: float = 0.3
    merges: float | None = None
    says: str | None = None
    endless: bool = False
    journal: Path | None = None

    @field_validator("good", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @classmethod
    def read(cls, source: str) -> Self:
        """Raises ModelError naming the option that is wrong."""
        try:
            return cls.model_validate(dict(parse_qsl(urlsplit(source).query, keep_blank_values=True)))
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(f"{source}: option {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class StubEngine:
    """See the module."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._options = StubOptions.read(model.source)
        self._died: str | None = None
        self._dead = asyncio.Event()
        self._prompt_tokens = self._completion_tokens = 0
        self._requests = 0
        self._is_asleep = self._is_wrong = False

    @property
    def died(self) -> str | None:
        return self._died

    @property
    def computed(self) -> Computed:
        return Computed(self._prompt_tokens, self._completion_tokens)

    @property
    def sleep_bytes(self) -> int | None:
        return self._options.memory_bytes if self._options.sleep else None

    async def load(self) -> int:
        await asyncio.sleep(self._options.load_s)
        if self._options.kill_load:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._options.fail_load is not None:
            raise ModelError(self._options.fail_load)
        if self._is_device_lost():
            raise ModelError("RuntimeError: CUDA error: unspecified launch failure")  # as vLLM tells it
        return self._options.memory_bytes

    async def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        prompt_tokens = sum(len(message.content.split()) for message in request.messages)
        if prompt_tokens > self._options.context:
            raise RequestError(f"the prompt has {prompt_tokens} tokens, the model's context {self._options.context}")
        self._note_start(request)
        marks = read_marks(request.messages)
        await self._trouble(marks)
        self._prompt_tokens += prompt_tokens
        words = re.findall(r"\s*\S+", answer(self._model.source, self._options, request, marks))
        if self._is_wrong:
            words = [word[::-1] for word in words]
        kept = words[: request.sampling.max_tokens]
        await self._sleep(self._options.latency_s + float(marks.get("wait") or 0.0))
        for part in _parts(kept, self._options.tokens_per_s):
            await self._sleep(len(part) / self._options.tokens_per_s if self._options.tokens_per_s else 0.0)
            self._completion_tokens += len(part)
            if stream:
                yield Delta(text="".join(part))
        yield Delta(
            completion=Completion(
                id=request.id,
                text="".join(kept),
                finish_reason="stop" if len(kept) == len(words) else "length",
                prompt_tokens=prompt_tokens,
                completion_tokens=len(kept),
            )
        )

    async def sleep(self) -> None:
        self._is_asleep = True

    async def wake(self) -> None:
        if self._options.wake == "fail":
            raise EngineError("the option wake=fail")
        self._is_asleep = False
        self._is_wrong = self._options.wake == "wrong"

    async def close(self) -> None:
        self._die("the engine was closed")

    def _note_start(self, request: Request) -> None:
        """One short write to a file opened for appending: lines of several processes do not mix."""
        if self._options.journal is not None:
            with self._options.journal.open("a") as journal:
                journal.write(f"{time.monotonic():.6f} {request.id}\n")

    async def _trouble(self, marks: dict[str, str]) -> None:
        if "error" in marks:
            raise RequestError("the request has the mark [stub:error]")
        if "die" in marks:
            self._die("a request had the mark [stub:die]")
        if self._is_device_lost():
            self._die("CUDA error: unspecified launch failure")
        if "poison" in marks:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_asleep:
            raise EngineError("the engine is asleep")
        self._requests += 1
        hangs = self._options.hang_at is not None and self._requests >= self._options.hang_at
        if "hang" in marks or hangs:
            await self._dead.wait()
        if self._died is not None:
            raise EngineError(self._died)

    async def _sleep(self, seconds: float) -> None:
        """Let time pass; raises EngineError when the engine dies meanwhile."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._dead.wait(), seconds)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)
        if self._died is not None:
            raise EngineError(self._died)

    def _is_device_lost(self) -> bool:
        place = os.environ.get(self._options.lost or "", "")
        return place != "" and Path(place).exists()

    def _die(self, why: str) -> None:
        self._died = self._died or why
        self._dead.set()


def read_marks(messages: Sequence[ChatMessage]) -> dict[str, str]:
    """The marks of the last user message that has any; of a mark that comes twice, the first."""
    for message in reversed(messages):
        if message.role == "user" and (found := _MARK.findall(message.content)):
            return dict(reversed(found))
    return {}


def answer(source: str, options: StubOptions, request: Request, marks: dict[str, str]) -> str:
    """What the stub says: a pure function of its arguments."""
    if options.says is not None:
        return " ".join([options.says] * (request.sampling.max_tokens + 1 if options.endless else 1))
    if "say" in marks:
        return marks["say"]
    spoken = request.messages[-1].content
    skills = marks.get("skill", "").split(",")
    if spoken.rstrip().endswith("Skills:") and "skill" in marks:
        return ", ".join(skills)
    letters = list(dict.fromkeys(_OPTION_LINE.findall(spoken)))
    gold = marks.get("gold")
    if gold is None:
        if letters:
            return f"The answer is ({letters[_draw(source, request, 'letter', len(letters))]})."
        return " ".join(_WORDS[_draw(source, request, f"word {i}", len(_WORDS))] for i in range(12)).capitalize() + "."
    chance = options.p if set(skills) & set(options.good) else options.q
    if options.merges is not None and _FENCE.search(spoken):
        chance = options.merges
    knows = _draw(source, request, "knows", 1_000_000) < chance * 1_000_000
    given = gold if knows else _wrong(gold, letters, _draw(source, request, "wrong", 1_000))
    return f"The answer is ({given})." if letters else f"The answer is \\boxed{{{given}}}."


def _wrong(gold: str, letters: list[str], draw: int) -> str:
    others = [letter for letter in letters if letter != gold]
    return others[draw % len(others)] if others else str(draw + 1_000_003)


def _draw(source: str, request: Request, what: str, below: int) -> int:
    """A number in 0 … below − 1 from source, messages, seed and purpose."""
    spoken = "\x1f".join(f"{message.role}\x1e{message.content}" for message in request.messages)
    text = "\x1d".join([source, spoken, str(request.sampling.seed), what])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % below


def _parts(words: list[str], tokens_per_s: float) -> list[list[str]]:
    size = max(1, round(tokens_per_s * STEP_S)) if tokens_per_s else max(1, len(words))
    return [words[i : i + size] for i in range(0, len(words), size)]
