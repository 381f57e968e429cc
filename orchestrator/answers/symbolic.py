"""Whether two formulas are equivalent, by math-verify in a child process.

A formula written by a model can keep a computer-algebra system busy for ever ("9^{9^{9^9}}"), and math-verify's own
time limits work in a main thread only. So a child judges: the kernel's timer ends it when a verdict takes too long,
and the next formula gets a new one. It is started on first use, since importing math-verify takes seconds.
"""

import atexit
import contextlib
import json
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

VERDICT_S = 5
"""Processor time: a verdict that takes more is "not equivalent". A busy machine makes no verdict wrong."""
START_S = 60
"""Wall time, for importing math-verify on a busy machine, and for any verdict."""
_MEMORY_BYTES = 2 << 30
_PROJECT_DIR = Path(__file__).resolve().parents[2]


def equivalent(gold: str, answer: str) -> bool:
    """Whether `answer` is symbolically equivalent to `gold`; False where no verdict comes. Thread-safe."""
    return _judge.equivalent(gold, answer)


class Judge:
    """Owner of the child process. It ends with this process: its standard input is then closed."""

    def __init__(self, verdict_s: int = VERDICT_S) -> None:
        self._verdict_s = verdict_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equivalent(self, gold: str, answer: str) -> bool:
        with self._lock:
            verdict = self._ask(json.dumps([gold, answer]))
            if not verdict:
                self._end_child()
            return verdict == "true"

    def close(self) -> None:
        with self._lock:
            self._end_child()

    def _ask(self, line: str) -> str:
        """The child's verdict; "" if it ended over it."""
        try:
            child = self._ensure_child()
            assert child.stdin
            assert child.stdout
            child.stdin.write(line + "\n")
            child.stdin.flush()
            return child.stdout.readline().strip()
        except OSError:
            return ""

    def _end_child(self) -> None:
        """Kill and reap it, so that the next formula meets a new one and never one that is dying."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(OSError):
                self._child.communicate()
            self._child = None

    def _ensure_child(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is not None:
            self._end_child()
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.answers.symbolic", str(self._verdict_s)],
                cwd=_PROJECT_DIR,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._child


_judge = Judge()
atexit.register(_judge.close)


def serve(verdict_s: int) -> None:
    """The child's loop: a line `[gold, answer]` in, `true` or `false` out. Ends with its input, or by the alarm."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.alarm(START_S)
    import math_verify  # slow, and only the child needs it

    math_verify.verify(
        math_verify.parse("$x$", parsing_timeout=0), math_verify.parse("$x+0$", parsing_timeout=0), timeout_seconds=0
    )
    signal.alarm(0)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, verdict_s)
        signal.alarm(START_S)
        verdict = False
        with contextlib.suppress(Exception):
            gold, answer = (
                math_verify.parse(f"${formula}$", parsing_timeout=0) or math_verify.parse(formula, parsing_timeout=0)
                for formula in json.loads(line)
            )
            verdict = bool(gold and answer) and math_verify.verify(gold, answer, timeout_seconds=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        sys.stdout.write(json.dumps(bool(verdict)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
