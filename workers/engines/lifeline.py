"""Ties an engine process to its parent: it dies when the parent does, however the parent dies.

Imported first by the modules that engine processes run. Those that vLLM spawns import the same main module
again (as `__mp_main__`), so each of them is tied to its own parent in turn.
"""

import ctypes
import os
import signal
import sys

PARENT_PID = "MUSTER_PARENT_PID"
"""Environment variable: who the parent is, for a child that starts after the parent has died."""
_PR_SET_PDEATHSIG = 1


def tie() -> None:
    """Have the kernel kill this process with its parent. The parent's *thread* that started us must outlive us."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    expected = os.environ.get(PARENT_PID)
    if expected is not None and os.getppid() != int(expected):
        sys.exit("the parent process is gone")
    os.environ[PARENT_PID] = str(os.getpid())
