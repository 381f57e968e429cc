"""Keeping processes: what ends is started again, ever later, and nothing outlives the one who keeps it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchestrator.local.services import PythonService
from orchestrator.local.supervisor import CannotStart, Kept, lock_data_dir
from tests.stack import is_running
from tests.waiting import until


def service(tmp_path: Path, code: str) -> PythonService:
    """A module of one's own in place of Muster's."""
    (tmp_path / "pretend.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return PythonService(arguments=["pretend"], environment=environment, log=tmp_path / "logs" / "pretend.log")


def test_what_was_killed_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    kept = Kept("pretend", service(tmp_path, "import time; time.sleep(60)"))
    kept.start()
    try:
        assert kept.service.process is not None
        first = kept.service.process.pid
        os.kill(first, signal.SIGKILL)

        def is_back() -> bool:
            kept.look(said.append)
            process = kept.service.process
            return process is not None and process.pid != first and process.poll() is None

        until(is_back)
        assert "was killed by signal 9; it starts again" in said[0]
    finally:
        kept.service.stop()


def test_what_keeps_ending_waits_ever_longer_and_says_its_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    kept = Kept("pretend", service(tmp_path, "import sys; sys.exit('the reactor is gone')"))
    kept.start()

    def has_ended_twice() -> bool:
        kept.look(said.append)
        return kept.crashes == 2

    until(has_ended_twice)
    assert "ended with code 1; it starts again in 0.5 s" in said[0]
    assert "in 1 s" in said[1]
    assert "the reactor is gone" in said[1]


def test_stopping_kills_what_does_not_listen_and_what_it_started(tmp_path: Path) -> None:
    deaf = """
        import pathlib, signal, subprocess, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"])
        pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
        time.sleep(60)
    """
    kept = service(tmp_path, deaf)
    kept.start()
    grandchild = int(until(lambda: read(tmp_path / "child")))
    assert kept.process is not None
    pid = kept.process.pid
    kept.stop()
    assert not is_running(pid)
    until(lambda: not is_running(grandchild))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_data_directory_has_one_muster_at_a_time(tmp_path: Path) -> None:
    with (
        lock_data_dir(tmp_path),
        pytest.raises(CannotStart, match=rf"another `muster up` \(process {os.getpid()}\)"),
    ):
        lock_data_dir(tmp_path)
    lock_data_dir(tmp_path).close()


def test_the_lock_goes_with_a_killed_holder(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from orchestrator.local.supervisor import lock_data_dir\n"
    code += "held = lock_data_dir(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    lock_data_dir(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be written"):
        lock_data_dir(tmp_path / "file" / "data")
