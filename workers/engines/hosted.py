"""The worker's side of an engine that runs in a process of its own: its memory comes back when it ends."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from workers.engines import leftovers, wire
from workers.engines.engine import Computed, EngineError, GenerationError, ModelError, RequestError
from workers.engines.lifeline import PARENT_PID
from workers.messages import Completion, Delta, Request

TURN_S = 120.0
"""How long falling asleep or waking up may take: the weights go through the bus once, which takes seconds."""
CLOSE_S = 5.0
"""How long a killed process may take to be gone."""
ERRORS: dict[str | None, type[GenerationError]] = {"request": RequestError, "model": ModelError}
log = logging.getLogger(__name__)


class HostedEngine:
    """An engine in a child process (`module`), reached over pipes; killed if it computes nothing for `stall_s`."""

    def __init__(
        self,
        *,
        module: str,
        start: wire.Start,
        worker: str,
        environment: Mapping[str, str],
        stall_s: float,
        load_timeout_s: float,
    ) -> None:
        """`environment` is added to the worker's own."""
        self._module = module
        self._start = start
        self._worker = worker
        self._environment = environment
        self._stall_s = stall_s
        self._load_timeout_s = load_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._note: Path | None = None
        self._died: str | None = None
        self._computed = Computed()
        self._sleep_bytes: int | None = None
        self._turned: asyncio.Future[str | None] | None = None
        self._still_s = 0.0
        self._running: dict[str, asyncio.Queue[Delta | GenerationError]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def died(self) -> str | None:
        return self._died

    @property
    def computed(self) -> Computed:
        return self._computed

    @property
    def sleep_bytes(self) -> int | None:
        return self._sleep_bytes

    @property
    def pid(self) -> int | None:
        """The child's process id, which is also its process group."""
        return None if self._process is None else self._process.pid

    async def load(self) -> int:
        """Start the child and wait until its model is loaded."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment, PARENT_PID: str(os.getpid())},
            start_new_session=True,
            limit=wire.LINE_BYTES,
        )
        self._note = leftovers.remember(Path(self._start.data_dir), self._worker, process.pid)
        try:
            self._write(self._start)
            async with asyncio.timeout(self._load_timeout_s):
                answer = await self._read()
        except TimeoutError:
            self._die(f"loading took more than {self._load_timeout_s:.0f} s")
            raise ModelError(f"loading took more than {self._load_timeout_s:.0f} s; see the worker's log") from None
        if isinstance(answer, wire.Failed):
            self._die(answer.error)
            raise ModelError(answer.error)
        if not isinstance(answer, wire.Loaded):
            self._die(f"its process ended while loading ({await self._exit()})")
            raise EngineError(f"the engine's process ended while loading ({await self._exit()})")
        self._sleep_bytes = answer.sleep_bytes
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]
        return answer.memory_bytes or leftovers.memory_bytes(process.pid)

    async def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        if self._died is not None:
            raise EngineError(self._died)
        answers: asyncio.Queue[Delta | GenerationError] = asyncio.Queue()
        self._running[request.id] = answers
        ended = False
        try:
            self._write(wire.Generate(request=request, stream=stream))
            while not ended:
                answer = await answers.get()
                ended = isinstance(answer, GenerationError) or answer.completion is not None
                if isinstance(answer, GenerationError):
                    raise answer
                yield answer
        finally:
            self._running.pop(request.id, None)
            if not ended:
                self._write(wire.Abort(id=request.id))

    async def sleep(self) -> None:
        await self._turn(wire.Sleep(), "falling asleep")

    async def wake(self) -> None:
        await self._turn(wire.Wake(), "waking up")

    async def _turn(self, message: wire.Sleep | wire.Wake, doing: str) -> None:
        if self._died is not None:
            raise EngineError(self._died)
        self._turned = asyncio.get_running_loop().create_future()
        self._write(message)
        try:
            async with asyncio.timeout(TURN_S):
                error = await self._turned
        except TimeoutError:
            error = f"{doing} took more than {TURN_S:.0f} s"
            self._die(error)
        if error is not None:
            raise EngineError(error)

    async def close(self) -> None:
        self._die("the engine was closed")
        for task in self._tasks:
            task.cancel()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._process.wait()
                while leftovers.members(self._process.pid):  # noqa: ASYNC110  the kernel tells nobody
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.error("engine process group %d does not end; its memory may still be held", self._process.pid)
            return
        if self._note is not None:
            self._note.unlink(missing_ok=True)

    def _write(self, message: wire.FromWorker) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return  # its death is found by whoever reads
        process.stdin.write(wire.line(message))

    async def _read(self) -> wire.FromEngine | None:
        """The next message; None when the child is gone."""
        if self._process is None or self._process.stdout is None:
            return None
        try:
            text = await self._process.stdout.readline()
            return wire.to_worker.validate_json(text) if text else None
        except (ValueError, OSError) as error:
            log.error("engine process %s: unreadable message: %s", self._process.pid, error)
            return None

    async def _listen(self) -> None:
        """Hand out what the child says until it is gone."""
        while True:
            message = await self._read()
            if isinstance(message, wire.Step):
                self._hand_out(message)
            elif isinstance(message, wire.Turned):
                if self._turned is not None and not self._turned.done():
                    self._turned.set_result(message.error)
            elif isinstance(message, wire.Died):
                return self._die(message.error)
            else:
                return self._die(f"the engine's process ended ({await self._exit()})")

    def _hand_out(self, step: wire.Step) -> None:
        if step.computed != self._computed or step.texts or step.done:
            self._computed = step.computed
            self._still_s = 0.0
        for request_id, text in step.texts.items():
            if (answers := self._running.get(request_id)) is not None:
                answers.put_nowait(Delta(text=text))
        for completion in step.done:
            if (answers := self._running.get(completion.id)) is not None:
                answers.put_nowait(_answer(completion))

    async def _watch(self) -> None:
        """Health checks say yes while an engine hangs: only tokens show that it works.

        What counts is the time with requests running, over all that give up meanwhile: queries wait less than a stall.
        """
        looked_s = time.monotonic()
        while self._died is None:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            now_s = time.monotonic()
            if self._running:
                self._still_s += now_s - looked_s
                if self._still_s > self._stall_s:
                    count = len(self._running)
                    self._die(f"the engine computed nothing for {self._still_s:.0f} s with {count} requests running")
            looked_s = now_s

    def _die(self, why: str) -> None:
        """Kill the child and all its children; running requests fail."""
        if self._died is not None:
            return
        self._died = why
        if self._process is not None:
            leftovers.kill_group(self._process.pid)
        for answers in self._running.values():
            answers.put_nowait(EngineError(why))
        if self._turned is not None and not self._turned.done():
            self._turned.set_result(why)

    async def _exit(self) -> str:
        """How the child ended, in words."""
        if self._process is None:
            return "not started"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                status = await self._process.wait()
                return f"signal {-status}" if status < 0 else f"exit status {status}"
        return "its pipe closed"


def _answer(completion: Completion) -> Delta | GenerationError:
    if completion.error is None:
        return Delta(completion=completion)
    return ERRORS.get(completion.fault, EngineError)(completion.error)
