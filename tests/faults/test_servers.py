"""Valkey and PostgreSQL that forget, restart and go away."""

import codecs
import contextlib
import json
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.client import Monitor

from orchestrator.local.embedded import postgres_binaries
from orchestrator.storage import database
from tests.faults import batch
from tests.faults.checker import check, check_undisturbed
from tests.faults.house import LONG_LEASE, House, lines, until_raises_nothing
from tests.faults.ledger import Fault
from tests.waiting import until
from workers.messages import PROGRESS_STREAM, reply_stream

COPIES = 2
QUERIES = 8
REPLIES_KEPT_S = 60
"""Copies may come when the query is over, and their stream deleted: nobody would delete it again."""
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


@pytest.mark.fault("4", "Valkey flushed in mid-run")
def test_a_flushed_broker_costs_time_and_no_line(house: House, fault: Fault, is_full: bool) -> None:
    slow = house.stub("one", latency_s=0.1)
    experts = house.pool({"ada": slow, "bob": slow})
    with fault.attempt():
        run = house.submit(experts, lines(150))
        for done in range(20, 220, 40 if is_full else 100):
            run.wait_done(done)
            house.redis.flushall()
        run.wait_end()
        check(fault, run)


@pytest.mark.fault("4b", "Valkey restarted in mid-run")
@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_broker_costs_time_and_no_line(house: House, fault: Fault, death: signal.Signals) -> None:
    slow = house.stub("one", latency_s=0.1)
    with fault.attempt():
        run = house.submit(house.pool({"ada": slow, "bob": slow}), lines(100))
        run.wait_done(20)
        assert house.valkey.process is not None
        house.valkey.process.send_signal(death)
        house.valkey.process.wait()
        house.valkey.start()
        until_raises_nothing(run.has_ended, timeout_s=40)
        check(fault, run)


@pytest.mark.fault("5", "PostgreSQL away")
@pytest.mark.timeout(240)
def test_without_the_database_workers_go_on_and_nothing_is_lost(house: House, fault: Fault, is_full: bool) -> None:
    slow = house.stub("one", latency_s=0.2)
    with fault.attempt():
        run = house.submit(house.pool({"ada": slow, "bob": slow}), lines(100))
        run.wait_done(20)
        house.postgres.stop()
        time.sleep(60 if is_full else 5)
        house.postgres.start()
        until_raises_nothing(run.has_ended, timeout_s=60)
        check(fault, run)
        experts = house.pool({"cyd": slow})

        def answers() -> bool:
            response = house.ask("Again? [stub:gold=7]", experts)
            if not response.is_success:
                fault.note = f"a query was refused after PostgreSQL was back: {response.text[:200]}"
            return response.is_success

        until(answers)


@pytest.mark.fault("5b", "PostgreSQL lost, restored from a backup")
def test_a_run_goes_on_from_where_the_backup_was_taken(house: House, fault: Fault, tmp_path: Path) -> None:
    """With the commands of docs/operations.md."""
    programs, dump = postgres_binaries(tmp_path), tmp_path / "muster.dump"
    restored_url = house.postgres.url_of("restored")
    slow = house.stub("one", latency_s=0.2)
    lost = house.engine
    with fault.attempt():
        run = house.submit(house.pool({"ada": slow}), lines(100))
        run.wait_done(30)
        subprocess.run([programs / "pg_dump", "--format=custom", f"--file={dump}", house.postgres.url], check=True)
        run.wait_done(50)
        for part in house.parts.values():
            part.kill()
        with psycopg.connect(house.postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE restored")
        subprocess.run([programs / "pg_restore", "--no-owner", f"--dbname={restored_url}", dump], check=True)
        house.redis.flushall()
        house.engine = database.connect(house.settings.model_copy(update={"database_url": restored_url}))
        try:
            for part in house.parts.values():
                part.start(DATABASE_URL=restored_url)
            until(house.is_ready, timeout_s=30)
            run.wait_end()
            check(fault, run)
        finally:
            for part in house.parts.values():
                part.kill()
            house.redis.flushall()  # claims of chunks whose numbers the first database will give out, too
            house.engine.dispose()
            house.engine = lost


@pytest.mark.fault("8", "every message three times")
def test_messages_that_come_three_times_count_once(house: House, fault: Fault) -> None:
    model = house.stub("one", latency_s=0.02)
    house.orchestrator.stop()
    house.orchestrator.start(**LONG_LEASE)
    with fault.attempt(), tripled(house) as copied:
        experts = house.pool({"ada": model, "bob": model})
        runs = house.submit(experts, lines(100)), batch.submit(house, batch.requests(60))
        before = _queries_begun(house)
        for number in range(QUERIES):
            answer = house.ask(f"What is number {number}? [stub:say=It is (7).]", experts, fusion="vote")
            (choice,) = answer.raise_for_status().json()["choices"]
            assert choice["message"]["content"] == "It is (7)."
        for run in runs:
            run.wait_end()
            check_undisturbed(fault, run)
        begun = _queries_begun(house) - before
        assert begun.total() == len(begun) == QUERIES * len(experts)
    assert copied["messages"] >= COPIES * 8
    assert copied["progress"] >= COPIES * 4
    assert copied["replies"] >= COPIES * QUERIES * len(experts)


def _queries_begun(house: House) -> Counter[str]:
    """What engines began for queries: generation -> how often."""
    return Counter(re.findall(r" (online/\S+)$", house.journal.read_text(), re.MULTILINE))


@contextlib.contextmanager
def tripled(house: House) -> Iterator[dict[str, int]]:
    """Whatever is sent to a worker, the orchestrator or a query is sent twice more, as soon as the broker has it."""
    copied = {"messages": 0, "progress": 0, "replies": 0}
    ends = threading.Event()
    listening = threading.Event()
    client: redis.Redis = redis.Redis.from_url(house.valkey.url, decode_responses=True)

    def copy(words: list[str]) -> None:
        match words:
            case ["LPUSH", queue, task] if queue.startswith(("bulk.", "online.")) and '"copy"' not in task:
                for _ in range(COPIES):
                    again = json.loads(task)
                    again["headers"]["copy"] = True
                    again["properties"]["delivery_tag"] = str(uuid.uuid4())
                    client.lpush(queue, json.dumps(again))
                    copied["messages"] += 1
            case ["XADD", stream, *_, "progress", progress] if stream == PROGRESS_STREAM:
                for _ in range(COPIES):
                    client.xadd(PROGRESS_STREAM, {"progress": progress, "copy": "1"})
                    copied["progress"] += 1
            case ["XADD", stream, *_, "delta", delta] if stream.startswith(reply_stream("")):
                for _ in range(COPIES):
                    client.xadd(stream, {"delta": delta, "copy": "1"})
                    copied["replies"] += 1
                client.expire(stream, REPLIES_KEPT_S)

    def listen() -> None:
        with Monitor(client.connection_pool) as monitor:  # type: ignore[no-untyped-call]
            listening.set()
            while not ends.is_set():
                copy(_words(str(monitor.connection.read_response())))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert listening.wait(10)
        yield copied
    finally:
        ends.set()
        thread.join(10)  # the workers' progress makes MONITOR speak every second
        client.close()


def _words(line: str) -> list[str]:
    """The words of a command as MONITOR prints it, each in quotes, with what is not ASCII escaped byte by byte."""
    return [codecs.decode(word, "unicode_escape").encode("latin-1").decode() for word in _WORD.findall(line)]
