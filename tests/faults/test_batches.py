"""OpenAI's batches under faults: their input files, their output files, their windows, and the disk."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_FSIZE, prlimit
from tempfile import TemporaryFile
from typing import Any

import httpx
import pytest

from orchestrator.storage import files, partial
from tests.faults import batch, parts
from tests.faults.batch import Batch, request, requests
from tests.faults.checker import check
from tests.faults.house import House, points
from tests.faults.ledger import Fault
from tests.faults.submissions import HalfSent, cut_short, moments
from tests.waiting import until

CANCEL_S = 5.0
LARGE, LARGE_CANCEL_S = 20_000, 30.0
SLICES = 2_400
"""Lines that are read in three turns and written in twelve."""
LINES_MAX, BYTES_MAX = 50_000, 200_000_000
GROWTH_BYTES = 100 << 20
"""What the orchestrator may grow by over the largest batch, whose files have many times that."""
UPLOAD_BYTES = 32 << 20
ROOM_BYTES = 100_000
"""What a disk takes before it is full: the beginning of an output file."""


@pytest.mark.fault("1c", "orchestrator killed while it reads, answers and writes a batch")
@pytest.mark.timeout(600)
def test_a_killed_orchestrator_goes_on_reading_and_writing(house: House, fault: Fault, is_full: bool) -> None:
    (expert,) = house.pool({"ada": house.stub("one")})
    draw = random.Random(1)
    for _ in range(5 if is_full else 1):
        with fault.attempt():
            run = batch.submit(house, requests(SLICES, model=expert))
            until(lambda run=run: run.lines_read > 0)  # type: ignore[misc]
            _kill(house, draw)
            assert run.lines_read < SLICES
            assert run.status == "validating"
            house.orchestrator.start()
            run.wait_done(draw.randrange(1, SLICES))
            _kill(house, draw)
            house.orchestrator.start()
            until(run.has_parts, timeout_s=60)
            _kill(house, draw)
            assert run.status == "finalizing"
            assert run.seen()["output_file_id"] is None
            house.orchestrator.start()
            run.wait_end()
            check(fault, run)


def _kill(house: House, draw: random.Random) -> None:
    time.sleep(draw.uniform(0, 0.05))  # the random point, not a wait for something
    house.orchestrator.kill()


@pytest.mark.fault("1e", "fifty thousand lines, a worker killed")
@pytest.mark.timeout(1200)
def test_the_largest_batch_is_read_and_written_in_bounded_memory(house: House, fault: Fault, is_full: bool) -> None:
    if not is_full:
        pytest.skip("minutes long: in the full form only")
    (expert,) = house.pool({"ada": house.stub("one")})
    file_id = batch.upload(house, batch.content(requests(LINES_MAX, model=expert)))
    most = before = parts.own_bytes(house.orchestrator.pid)
    with fault.attempt():
        made = batch.create(house, file_id).raise_for_status()
        run = Batch(house, made.json()["id"], [f"line{number}" for number in range(LINES_MAX)])

        def ended_or(units: int) -> bool:
            nonlocal most
            most = max(most, parts.own_bytes(house.orchestrator.pid))
            time.sleep(0.5)  # counting fifty thousand units is work, too
            return run.has_ended() or run.units("state = 'done'") >= units

        until(lambda: ended_or(LINES_MAX // 2), timeout_s=900)
        house.workers[0].kill()
        house.workers[0].start()
        until(lambda: ended_or(LINES_MAX + 1), timeout_s=900)
        check(fault, run)
        seen = run.seen()
        read_s = seen["in_progress_at"] - seen["created_at"]
        answered_s = seen["finalizing_at"] - seen["in_progress_at"]
        written_s = seen["completed_at"] - seen["finalizing_at"]
        fault.note = (
            f"{LINES_MAX} lines read in {read_s} s, answered in {answered_s} s, written in {written_s} s;"
            f" the orchestrator grew by {(most - before) >> 20} MiB"
        )
        assert most - before < GROWTH_BYTES


@pytest.mark.fault("1d", "worker killed during a batch")
@pytest.mark.timeout(300)
def test_a_worker_killed_during_a_batch_loses_no_line(house: House, fault: Fault, is_full: bool) -> None:
    """In turn: caught in the middle of some units, and at any moment."""
    draw = random.Random(2)

    def submit(number: int) -> Batch:
        asked = {"k": 2, "fusion": "vote", "experts": house.mixed_pool(number)}
        return batch.submit(house, requests(60, muster=asked))

    usual = submit(0)
    usual.wait_end()
    for number, point in enumerate(points(10 if is_full else 2, units=120), 1):
        with fault.attempt():
            run = submit(number)
            if is_caught := bool(number % 2):
                run.wait_done(point)
                run.kill_holder()
            else:
                run.kill_somebody(draw, within_s=usual.took_s)
            house.keep_running(run, timeout_s=40)
            assert check(fault, run).starts > run.units() or not is_caught


@pytest.mark.fault("3b", "API killed in mid-submission of a batch, same idempotency key")
@pytest.mark.timeout(300)
def test_a_batch_cut_short_and_sent_again_is_one_batch(house: House, fault: Fault, is_full: bool) -> None:
    model = house.stub("one")
    house.pool({"ada": model, "bob": model})
    asked = requests(60)
    for number, after_s in enumerate(moments(10 if is_full else 2)):
        with fault.attempt():
            key, file_id = f"batch-{number}", batch.upload(house, batch.content(asked))
            told = cut_short(house, lambda: batch.create(house, file_id, key=key), after_s=after_s)  # noqa: B023
            assert told is None or after_s is not None
            ids = {batch.create(house, file_id, key=key).raise_for_status().json()["id"] for _ in range(2)}
            assert len(ids) == 1
            assert told is None or told in ids
            assert house.value("SELECT count(*) FROM run WHERE idempotency_key = :key", key=key) == 1
            run = Batch(house, ids.pop(), [line["custom_id"] for line in asked])
            run.wait_end()
            check(fault, run)


@pytest.mark.fault("3c", "API killed in mid-upload")
def test_an_upload_cut_short_leaves_no_file_and_works_again(house: House, fault: Fault) -> None:
    content = random.Random(3).randbytes(UPLOAD_BYTES)
    with fault.attempt(), ThreadPoolExecutor() as threads:
        before, listed = _visible(house), _listed(house)
        coming = HalfSent(content)
        cut = threads.submit(batch.upload, house, coming)
        try:
            until(lambda: _hidden_bytes(house) > UPLOAD_BYTES // 3)
            house.api.kill()
        finally:
            coming.goes_on.set()
        with pytest.raises(httpx.HTTPError):
            cut.result()
        house.api.start()
        until(house.is_ready, timeout_s=30)
        assert (_visible(house), _listed(house)) == (before, listed)
        file_id = batch.upload(house, content)
        assert _listed(house) == listed | {file_id}
        assert house.http.get(f"/v1/files/{file_id}/content").raise_for_status().content == content
        house.http.delete(f"/v1/files/{file_id}").raise_for_status()


def _listed(house: House) -> set[str]:
    """Files that the API lists."""
    return {file["id"] for file in house.http.get("/v1/files").raise_for_status().json()["data"]}


def _hidden_bytes(house: House) -> int:
    """Of the largest file that has no name yet."""
    parts_there = files.folder(house.settings).glob(f".*{partial.SUFFIX}")
    return max((place.stat().st_size for place in parts_there), default=0)


@pytest.mark.fault("4c", "Valkey flushed during a batch")
def test_a_flushed_broker_costs_a_batch_no_line(house: House, fault: Fault) -> None:
    slow = house.stub("one", latency_s=0.05)
    house.pool({"ada": slow, "bob": slow})
    with fault.attempt():
        run = batch.submit(house, requests(100))
        run.wait_done(40)
        house.redis.flushall()
        run.wait_end()
        check(fault, run)


@pytest.mark.fault("16", "completion window over")
def test_a_batch_whose_window_is_over_keeps_what_is_done(house: House, fault: Fault) -> None:
    house.pool({"ada": house.stub("one", latency_s=0.3), "bob": house.stub("one", latency_s=0.3)})
    with fault.attempt():
        run = batch.submit(house, requests(200), window="3s")
        run.wait_end()
        assert run.seen()["expired_at"] >= run.seen()["expires_at"]
        assert run.output()
        _check_called_off(fault, run, "expired", "batch_expired")


@pytest.mark.fault("17b", "batch cancelled in mid-run")
def test_a_cancelled_batch_ends_within_seconds_and_keeps_what_is_done(house: House, fault: Fault) -> None:
    house.pool({"ada": house.stub("one", latency_s=0.3), "bob": house.stub("one", latency_s=0.3)})
    with fault.attempt():
        run = batch.submit(house, requests(200))
        until(lambda: run.seen()["request_counts"]["completed"] > 5)
        cancelled_s = time.monotonic()
        house.http.post(f"/v1/batches/{run.id}/cancel").raise_for_status()
        run.wait_end()
        assert time.monotonic() - cancelled_s < CANCEL_S
        assert len(run.output()) > 5
        _check_called_off(fault, run, "cancelled", "batch_cancelled")


@pytest.mark.fault("17c", "a large batch cancelled in mid-run")
@pytest.mark.timeout(600)
def test_a_large_batch_begins_nothing_more_once_it_is_cancelled(house: House, fault: Fault, is_full: bool) -> None:
    if not is_full:
        pytest.skip("a minute long: in the full form only")
    (expert,) = house.pool({"ada": house.stub("one")})
    with fault.attempt():
        run = batch.submit(house, requests(LARGE, model=expert))
        run.wait_done(LARGE // 8, timeout_s=180)
        cancelled_s = time.monotonic()
        house.http.post(f"/v1/batches/{run.id}/cancel").raise_for_status()
        run.wait_end(timeout_s=LARGE_CANCEL_S)
        ended_s = time.monotonic() - cancelled_s
        last_s = max(at for at, _ in house.starts()) - cancelled_s
        kept = len(run.output())
        fault.note = (
            f"{kept} of {LARGE} lines kept; the last began after {last_s:.1f} s, the end came after {ended_s:.1f} s"
        )
        assert last_s < CANCEL_S
        assert LARGE // 8 <= kept < LARGE
        _check_called_off(fault, run, "cancelled", "batch_cancelled")


def _check_called_off(fault: Fault, run: Batch, status: str, code: str) -> None:
    """The lines that were done are kept; every other one is told why it has no answer."""
    errors = run.errors()
    assert {line["error"]["code"] for line in errors} == {code}
    check(fault, run, status=status, failed=len(errors))


def _changed(number: int, **changes: Any) -> bytes:
    """A line with some fields changed, or left out (None); what is no field of a line is one of its body's."""
    line = request(number)
    for name, value in changes.items():
        (line if name in line else line["body"])[name] = value
    return json.dumps({name: value for name, value in line.items() if value is not None}).encode()


WRONG: tuple[tuple[bytes, str | None, str | None], ...] = (
    (b'{"custom_id": "a"', "invalid_json_line", None),
    (b"[]", "invalid_json_line", None),
    (b"\xff\xfe", "invalid_json_line", None),
    (b"", None, None),
    (_changed(0, custom_id=None), "missing_required_parameter", "custom_id"),
    (_changed(1, method="GET"), "invalid_method", "method"),
    (_changed(2, url="/v1/embeddings"), "url_mismatch", "url"),
    (_changed(3, url="/elsewhere"), "invalid_url", "url"),
    (_changed(4, body=None), "missing_required_parameter", "body"),
    (_changed(5, custom_id=5), "invalid_type", "custom_id"),
    (_changed(6, messages=[]), "invalid_value", "body.messages"),
    (_changed(7, model="nobody", muster=None), "model_not_found", "body.model"),
    (_changed(8, muster={"k": 9}), "invalid_value", "body.muster.k"),
    (_changed(9, stream=True), "unsupported_value", "body.stream"),
    (_changed(10, muster={"k": 1}), None, None),
    (_changed(10), "duplicate_custom_id", "custom_id"),
    (_changed(1), "duplicate_custom_id", "custom_id"),
    (b" " * (8 << 20) + b"{}", "request_too_large", None),
    (_changed(11, muster={"k": 1}), None, None),
)
"""Each with its complaint, if there is one."""


@pytest.mark.fault("18", "input files with every error; too long; too large")
def test_a_wrong_input_file_fails_with_its_line_numbers(house: House, fault: Fault, is_full: bool) -> None:
    (expert,) = house.pool({"ada": house.stub("one")})
    files_of = {
        "wrong": b"\n".join(line for line, _, _ in WRONG),
        "empty": b"\n \n",
    }
    if is_full:  # in the short form the integration tests show it
        files_of["long"] = batch.content(requests(LINES_MAX + 1, model=expert))
    with fault.attempt():
        batches = {name: Batch(house, _created(house, content), []) for name, content in files_of.items()}
        for run in batches.values():
            run.wait_end()
            assert run.status == "failed"
            assert run.seen()["request_counts"]["total"] == run.units() == 0
        wrong = [(code, number, param) for number, (_, code, param) in enumerate(WRONG, 1) if code is not None]
        assert _complaints(batches["wrong"]) == wrong
        assert _complaints(batches["empty"]) == [("empty_file", None, None)]
        assert not is_full or _complaints(batches["long"]) == [("too_many_tasks", None, None)]
    with fault.attempt(), TemporaryFile() as large:
        large.truncate(BYTES_MAX + 1)
        sent = {"file": ("large.jsonl", large)}
        refused = house.http.post("/v1/files", files=sent, data={"purpose": "batch"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


def _created(house: House, content: bytes) -> str:
    return str(batch.create(house, batch.upload(house, content)).raise_for_status().json()["id"])


def _complaints(run: Batch) -> list[tuple[str, int | None, str | None]]:
    return [(error["code"], error["line"], error["param"]) for error in run.seen()["errors"]["data"]]


@pytest.mark.fault("19", "disk full while a batch's files are written")
def test_files_that_the_disk_does_not_take_are_written_once_it_does(house: House, fault: Fault) -> None:
    """The orchestrator's own files may grow no further: what a full disk does, in the middle of a write."""
    (expert,) = house.pool({"ada": house.stub("one")})
    with fault.attempt():
        run = batch.submit(house, requests(1_000, model=expert))
        run.wait_done(100)
        house.orchestrator.forget()
        _, most = prlimit(house.orchestrator.pid, RLIMIT_FSIZE)
        prlimit(house.orchestrator.pid, RLIMIT_FSIZE, (ROOM_BYTES, most))
        try:
            _check_waits_for_room(house, run)
        finally:
            prlimit(house.orchestrator.pid, RLIMIT_FSIZE, (most, most))
        run.wait_end()
        check(fault, run)


@pytest.mark.fault("19b", "the same on a small file system")
def test_files_wait_for_room_on_a_real_disk(house: House, fault: Fault) -> None:
    (expert,) = house.pool({"ada": house.stub("one")})
    with fault.attempt(), _small_disk(house) as ballast:
        run = batch.submit(house, requests(1_000, model=expert))
        run.wait_done(100)
        house.orchestrator.forget()
        status = os.statvfs(ballast.parent)
        ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - partial.DISK_RESERVE_BYTES - ROOM_BYTES))
        _check_waits_for_room(house, run)
        ballast.unlink()
        run.wait_end()
        check(fault, run)


def _check_waits_for_room(house: House, run: Batch) -> None:
    """It says so, stays finalizing, and shows no file."""
    before = _visible(house)
    until(lambda: house.orchestrator.says("a batch's files cannot be written"), timeout_s=30)
    assert run.seen()["status"] == "finalizing"
    assert run.seen()["output_file_id"] is None
    assert _visible(house) == before
    until(lambda: not run.has_parts())  # it tries again every two seconds, and leaves nothing behind


def _visible(house: House) -> set[str]:
    """Files that have their names."""
    return {path.name for path in files.folder(house.settings).iterdir() if not path.name.startswith(".")}


@contextmanager
def _small_disk(house: House) -> Iterator[Path]:
    """The files' folder on a file system of its own, with a few megabytes to spare; yields a ballast to put there."""
    folder = files.folder(house.settings)
    folder.mkdir(exist_ok=True)
    size = partial.DISK_RESERVE_BYTES + (8 << 20)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "muster-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder / ".ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
