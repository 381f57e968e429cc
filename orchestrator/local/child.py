"""Children that die with their parent: how the supervisor starts every process.

`spawn` starts a command through this very file (`main` below), which asks the kernel for a signal at the
parent's death (`PR_SET_PDEATHSIG`), takes on another user where wanted, and then becomes the command.
So whatever kills the parent, nothing it started stays behind. Linux only.

Note: the kernel sends the signal when the *thread* that started the child ends. Start children from a thread
that lives as long as they shall, normally the main one.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
"""Read and write any file: the unprivileged server must reach its folder below, say, /root."""


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    user_id: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a process group of its own; it gets `death_signal` when this thread or process ends.

    `output` takes stdout and stderr. `user_id` (only as root): run as that user, who may still reach every file.
    """
    user = "-" if user_id is None else str(user_id)
    launcher = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), user]
    return subprocess.Popen(
        [*launcher, *argv],
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], first: signal.Signals, *, timeout_s: float = 10.0) -> None:
    """Ask with `first`; after `timeout_s`, and in any case for what is left of its group, SIGKILL."""
    process.send_signal(first)  # which does nothing to an ended process
    wait_or_kill(process, timeout_s=timeout_s)


def wait_or_kill(process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """Wait for the end; after `timeout_s`, and in any case for what is left of its group, SIGKILL."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill_group(process.pid)


def kill_group(group: int) -> None:
    """SIGKILL whatever is left of a process group; nothing left is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def become(parent: int, death_signal: int, user_id: int | None, argv: list[str]) -> None:
    """Turn this process into `argv`, which then dies with `parent`. Returns only by an exception."""
    libc = ctypes.CDLL(None, use_errno=True)
    if user_id is not None:
        _change_user(libc, user_id)
    # After the change of user, which clears it.
    if libc.prctl(PR_SET_PDEATHSIG, death_signal) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # The parent died before the line above.
        sys.exit(1)
    os.execvp(argv[0], argv)


def _change_user(libc: ctypes.CDLL, user_id: int) -> None:
    """Drop root but keep the right to reach any file, also across exec (an ambient capability).

    Where the kernel refuses the capability (a stripped container) the user changes all the same: the folder
    may be reachable without it.
    """
    libc.prctl(PR_SET_KEEPCAPS, 1)
    # Else access(2), which initdb asks about its programs, ignores the capability.
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)
    mask = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, sets) == 0:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def main() -> None:
    parent, death_signal, user, *argv = sys.argv[1:]
    become(int(parent), int(death_signal), None if user == "-" else int(user), argv)


if __name__ == "__main__":
    main()
