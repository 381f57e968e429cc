"""The first run: wait until the pool is profiled, with visible progress, then ask one real question."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.cli import transcript
from orchestrator.cli.client import ApiError, Client

QUESTION = """Which gas do plants take in from the air to make their food?
A. Oxygen
B. Carbon dioxide
C. Nitrogen
D. Helium"""
ON_THE_WAY = ("registered", "testing", "profiling")
POLL_S = 0.5
REGISTERED_S = 30.0
"""Within it the orchestrator has read the experts file; a pool that is empty then is empty."""
READY_S = 60.0
ANSWER_S = 300.0
"""More than a query gets by default: on a first run it shares a small machine with the aggregators' test."""
RECRUITS = 2
"""Fewer than the demo's pool has, so that there is a choice to see."""
PLAIN_EVERY_S = 5.0
"""How often progress is a line of its own where the terminal cannot redraw."""

Json = dict[str, Any]


class Demo:
    """Runs in a thread beside the supervisor and talks to the API alone."""

    def __init__(self, url: str, api_key: str, console: Console) -> None:
        self.answered = False
        self._client = Client(url, api_key)
        self._console = console

    def run(self) -> None:
        """Wait, ask, show. Trouble is printed, not raised."""
        try:
            if self._profiled():
                self._wait_until_ready()
                self._ask()
        except ApiError as error:
            self._say_failure(f"the demo failed: {error}")

    def _say_failure(self, why: str) -> None:
        self._console.print(f"muster: {why}", soft_wrap=True, markup=False, highlight=False, style="red")

    def _profiled(self) -> bool:
        """Wait until no expert is on its way any more; whether anybody is live."""
        experts = self._registered()
        if any(expert["state"] in ON_THE_WAY for expert in experts):
            self._console.print(
                "Profiling the pool on the question set (the first run only; its model is converted and loaded first) …"
            )
            experts = self._watch_profiling()
        for expert in experts:
            if expert["state"] in ("quarantined", "parked"):
                line = f"{expert['name']} is {expert['state']}: {expert['reason'] or 'no reason given'}"
                self._console.print(line, markup=False, highlight=False)
        if any(expert["state"] == "live" for expert in experts):
            return True
        self._say_failure("no expert is live; `muster experts list` says why")
        return False

    def _registered(self) -> list[Json]:
        """The pool, once the orchestrator has read the experts file."""
        give_up_at = time.monotonic() + REGISTERED_S
        while not (experts := self._experts()) and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        return experts

    def _wait_until_ready(self) -> None:
        """Until a worker can run somebody; then the answer itself says what is wrong."""
        give_up_at = time.monotonic() + READY_S
        with self._console.status("Waiting for a worker …"):
            while not self._client.is_ready() and time.monotonic() < give_up_at:
                time.sleep(POLL_S)

    def _watch_profiling(self) -> list[Json]:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        bar = Progress(*columns, TimeElapsedColumn(), console=self._console, disable=not self._console.is_terminal)
        rows: dict[str, TaskID] = {}
        told_at = 0.0
        with bar:
            while True:
                experts = self._experts()
                for expert in experts:
                    _update(bar, rows, expert)
                if not self._console.is_terminal and time.monotonic() - told_at > PLAIN_EVERY_S:
                    told_at = time.monotonic()
                    self._console.print("  " + ", ".join(_plainly(expert) for expert in experts), soft_wrap=True)
                if not any(expert["state"] in ON_THE_WAY for expert in experts):
                    return experts
                time.sleep(POLL_S)

    def _ask(self) -> None:
        self._console.print(f"\n[bold]The question[/bold]\n{QUESTION}\n", highlight=False)
        body = {
            "model": "muster",
            "messages": [{"role": "user", "content": QUESTION}],
            "muster": {"k": RECRUITS, "explain": True, "budget": {"seconds": ANSWER_S}},
        }
        with self._console.status("Asking …"):
            completion = self._client.post("/v1/chat/completions", body)
        transcript.show(completion, self._console)
        self.answered = True

    def _experts(self) -> list[Json]:
        listed: list[Json] = self._client.get("/v1/experts")["data"]
        return listed


def _update(bar: Progress, rows: dict[str, TaskID], expert: Json) -> None:
    done, total = _progress(expert)
    if expert["name"] not in rows:
        rows[expert["name"]] = bar.add_task(expert["name"], total=total)
    bar.update(rows[expert["name"]], description=f"{expert['name']} {expert['state']}", completed=done, total=total)


def _plainly(expert: Json) -> str:
    done, total = _progress(expert)
    counted = f" {done}/{total}" if expert["state"] == "profiling" and total > 1 else ""
    return f"{expert['name']} {expert['state']}{counted}"


def _progress(expert: Json) -> tuple[int, int]:
    """Questions answered, of how many."""
    progress = expert.get("profiling") or {}
    done, total = progress.get("done", 0), progress.get("total", 1)
    return (total, total) if expert["state"] not in ON_THE_WAY else (done, total)
