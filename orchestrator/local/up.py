"""`muster up`: look before starting, start, tell, and stop in good order."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from orchestrator.local import demo, doctor, services
from orchestrator.local.services import Layout
from orchestrator.local.supervisor import CannotStart, Supervisor
from orchestrator.settings import Settings

EXIT_CANNOT_START = 1
EXIT_INTERRUPTED = 130
POLL_S = 0.3


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal: stop everything, in order."""


def up(
    settings: Settings,
    console: Console,
    *,
    devices: tuple[str, ...] | None,
    worker_args: tuple[str, ...],
    ask: bool,
    once: bool,
) -> int:
    """Run Muster until interrupted (`once`: until the demo's answer). Returns the exit code.

    `devices`: one model worker on each; None: on whatever this machine has. `worker_args`: for each of these workers.
    `ask`: with the demo, which waits for the pool's profiles and asks one question.
    """
    try:
        for finding in doctor.before_start(settings):
            if not finding.ok:
                raise CannotStart(f"{finding.name}: {finding.detail}. To mend it: {finding.mend}.")
        layout = _layout(devices, worker_args)
        with _signals_interrupt(), Supervisor(settings, layout, _sayer(console)) as running:
            try:
                return _serve(running, console, ask=ask or once, once=once)
            finally:
                _second_signal_kills(running)
                console.print("Stopping …")
    except CannotStart as error:
        console.print(f"muster: {error}", soft_wrap=True, highlight=False, markup=False, style="red")
        return EXIT_CANNOT_START
    except Interrupted:
        return EXIT_INTERRUPTED if once else 0


def _layout(devices: tuple[str, ...] | None, worker_args: tuple[str, ...]) -> Layout:
    if worker_args and (wrong := services.wrong_worker_args(worker_args)) is not None:
        raise CannotStart(f"--worker-args: {wrong}. `.venv/bin/python -m workers --help` lists what there is.")
    try:
        return Layout(devices=services.devices() if devices is None else devices, worker_args=worker_args)
    except services.UnknownGpu as error:
        raise CannotStart(str(error)) from None


def _sayer(console: Console) -> Callable[[str], None]:
    """Lines with the time, as they are: a log's last line may hold brackets that mean something to rich."""

    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True, style="dim")

    return say


def _serve(running: Supervisor, console: Console, *, ask: bool, once: bool) -> int:
    up = threading.Event()
    threading.Thread(target=_wait_until_up, args=(running, up), daemon=True).start()
    with console.status("Starting …"):
        running.watch(up.is_set)
    console.print(f"Muster answers on [bold]{running.url}[/bold] (OpenAI's API below /v1)")
    console.print(f"[dim]Logs: {running.settings.data_dir / 'logs'}[/dim]")
    if ask:
        key = running.settings.api_key or next(iter(running.settings.tenants.values()), "")
        show = demo.Demo(running.url, key, console)
        thread = threading.Thread(target=show.run, daemon=True)
        thread.start()
        running.watch(lambda: not thread.is_alive())
        if once:
            return 0 if show.answered else EXIT_CANNOT_START
        console.print(f"\nServing on {running.url} until Ctrl-C.")
    running.watch(lambda: False)
    return 0


def _wait_until_up(running: Supervisor, up: threading.Event) -> None:
    while not running.is_up():
        up.wait(POLL_S)
    up.set()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _second_signal_kills(running: Supervisor) -> None:
    """While stopping, another signal does not interrupt the stopping: it makes it immediate."""

    def kill(_number: int, _frame: FrameType | None) -> None:
        running.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, kill)
