"""The engine process's side: serves any engine over pipes, one message per step with all its deltas."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from workers.engines import wire
from workers.engines.engine import Computed, Engine, EngineError, GenerationError
from workers.generation import clean
from workers.messages import Completion

BEAT_S = 0.5
"""How often `computed` is told, and the engine's death looked for, while nothing else happens."""
EXIT_ENGINE_DIED = 3
log = logging.getLogger(__name__)


class Pipes:
    """The two pipes to the worker, moved away from stdin and stdout so that no library's print can corrupt them."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=wire.LINE_BYTES)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._in, "rb"))
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(self._out, "wb")
        )
        return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def serve(pipes: Pipes, open_engine: Callable[[wire.Start], Awaitable[Engine]]) -> int:
    """Load the model that the first line names, then generate until the worker hangs up. Returns the exit status."""
    reader, writer = await pipes.open()
    start = wire.to_engine.validate_json(await reader.readline())
    if not isinstance(start, wire.Start):
        raise ValueError(f"expected a start message, not {start.kind}")
    try:
        engine = await open_engine(start)
        memory_bytes = await engine.load()
    except Exception as error:
        # Whatever goes wrong in a load, the reason must reach people.
        told = str(error) if isinstance(error, GenerationError) else f"{type(error).__name__}: {error}"
        writer.write(wire.line(wire.Failed(error=told)))
        await writer.drain()
        return 1
    writer.write(wire.line(wire.Loaded(memory_bytes=memory_bytes, sleep_bytes=engine.sleep_bytes)))
    host = Host(engine, writer)
    reading = asyncio.create_task(host.read(reader))
    sending = asyncio.create_task(host.send())
    await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
    for task in (reading, sending):
        task.cancel()
    for outcome in await asyncio.gather(reading, sending, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("the engine process ends", exc_info=outcome)
    return EXIT_ENGINE_DIED if engine.died is not None else 0


class Host:
    """Requests of one worker on one engine."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._texts: dict[str, list[str]] = {}
        self._done: list[Completion] = []
        self._news = asyncio.Event()

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Obey until the worker hangs up."""
        while text := await reader.readline():
            message = wire.to_engine.validate_json(text)
            if isinstance(message, wire.Generate):
                task = asyncio.create_task(self._generate(message))
                self._tasks[message.request.id] = task
            elif isinstance(message, wire.Abort) and (running := self._tasks.get(message.id)) is not None:
                running.cancel()
            elif isinstance(message, wire.Sleep):
                await self._turn(self._engine.sleep)
            elif isinstance(message, wire.Wake):
                await self._turn(self._engine.wake)

    async def send(self) -> None:
        """Tell what is new, step by step, until the engine dies."""
        told: Computed | None = None
        while True:
            try:
                await asyncio.wait_for(self._news.wait(), BEAT_S)
                # The other requests of the same engine step are about to add theirs.
                await asyncio.sleep(0)
            except TimeoutError:
                pass
            self._news.clear()
            died = self._engine.died
            if died is not None:  # those that end with it are told so by its death
                self._done = [each for each in self._done if each.fault != "engine"]
            computed = self._engine.computed
            if self._texts or self._done or computed != told:
                texts, self._texts = self._texts, {}
                done, self._done = self._done, []
                told = computed
                joined = {request_id: clean("".join(parts)) for request_id, parts in texts.items()}
                self._writer.write(wire.line(wire.Step(texts=joined, done=tuple(done), computed=computed)))
            if died is not None:
                self._writer.write(wire.line(wire.Died(error=died)))
            await self._writer.drain()
            if died is not None:
                return

    async def _generate(self, message: wire.Generate) -> None:
        request = message.request
        deltas = self._engine.generate(request, stream=message.stream)
        try:
            async for delta in deltas:
                if delta.text:
                    self._texts.setdefault(request.id, []).append(delta.text)
                if delta.completion is not None:
                    self._done.append(delta.completion.model_copy(update={"text": clean(delta.completion.text)}))
                self._news.set()
        except GenerationError as error:
            self._fail(request.id, error)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            self._fail(request.id, EngineError(f"{type(error).__name__}: {error}"))
        finally:
            self._tasks.pop(request.id, None)
            await deltas.aclose()

    async def _turn(self, turn: Callable[[], Awaitable[None]]) -> None:
        """Fall asleep or wake up, and say how it went."""
        error: str | None = None
        try:
            await turn()
        except Exception as raised:
            error = str(raised) if isinstance(raised, GenerationError) else f"{type(raised).__name__}: {raised}"
        self._writer.write(wire.line(wire.Turned(error=error)))

    def _fail(self, request_id: str, error: GenerationError) -> None:
        self._done.append(Completion(id=request_id, finish_reason="error", error=str(error), fault=error.fault))
        self._news.set()
