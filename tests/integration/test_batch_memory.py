"""Files stream to disk and back: what the processes hold does not grow with the file."""

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.stack import Stack
from tests.waiting import until

LINES = 10_000
LINE_CHARS = 10_000
GROWTH_MAX_BYTES = 64 * 2**20


class _Lines(io.RawIOBase):
    """A file of requests as it is read, 100 MB long; its last line is broken, so that nothing is generated for it."""

    def __init__(self) -> None:
        body = {"model": "alpha", "messages": [{"role": "user", "content": "x" * LINE_CHARS}]}
        line = {"custom_id": "ID", "method": "POST", "url": "/v1/chat/completions", "body": body}
        self._line = json.dumps(line).encode() + b"\n"
        self._next = 0
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        if self._next > LINES:
            return b""
        block = self._line.replace(b'"ID"', b'"%d"' % self._next) if self._next < LINES else b"{\n"
        self._next += 1
        self.size += len(block)
        return block


def test_a_hundred_megabytes_leave_memory_as_it_was(stack: Stack) -> None:
    _refused(stack, io.BytesIO(b"{\n"))  # what is loaded at a first batch is there
    pids = [pid for pid, command in stack.children().items() if re.search(r"-m (api|orchestrator)$", command)]
    assert len(pids) == 2
    before = {pid: _memory(pid, "VmRSS") for pid in pids}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from here
    lines = _Lines()
    batch = _refused(stack, lines)
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [("invalid_json_line", LINES + 1)]
    downloaded = 0
    with httpx.stream("GET", f"{stack.url}/v1/files/{batch['input_file_id']}/content", timeout=60) as response:
        for block in response.iter_bytes():
            downloaded += len(block)
    assert downloaded == lines.size > 100_000_000
    growth = {pid: _memory(pid, "VmHWM") - before[pid] for pid in pids}
    assert max(growth.values()) < GROWTH_MAX_BYTES, growth
    httpx.delete(f"{stack.url}/v1/files/{batch['input_file_id']}")


def _refused(stack: Stack, source: Any) -> Any:
    """The batch of this file, once its broken line was found."""
    files = {"file": ("lines.jsonl", source)}
    made = httpx.post(f"{stack.url}/v1/files", files=files, data={"purpose": "batch"}, timeout=60).raise_for_status()
    body = {"input_file_id": made.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = stack.post("/v1/batches", body).raise_for_status().json()["id"]
    until(lambda: stack.get(f"/v1/batches/{batch_id}")["status"] == "failed", timeout_s=60)
    return stack.get(f"/v1/batches/{batch_id}")


def _memory(pid: int, name: str) -> int:
    """Bytes, as the kernel counts them."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
