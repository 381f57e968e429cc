"""A batch under way in the house, read as its client reads it: by its output and error files."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

import httpx

from orchestrator.storage import files, partial
from tests import seeds
from tests.faults.house import House, Run

Json = dict[str, Any]


def request(number: int, *, model: str = "muster", marks: str = "", **body: Any) -> Json:
    """One line; of the house's experts two answer it and vote, or the one that `model` names."""
    asked = seeds.question(number, seeds.SKILLS[number % len(seeds.SKILLS)], marks=marks)
    text = "\n".join(
        [asked.text, *(f"{letter}. {option}" for letter, option in zip("ABCD", asked.options, strict=True))]
    )
    own = {"muster": {"k": 2, "fusion": "vote"}} if model == "muster" else {}
    content = {"model": model, "messages": [{"role": "user", "content": text}], **own, **body}
    return {"custom_id": f"line{number}", "method": "POST", "url": "/v1/chat/completions", "body": content}


def requests(count: int, **options: Any) -> list[Json]:
    return [request(number, **options) for number in range(count)]


def content(lines: Iterable[Json]) -> bytes:
    """As a file."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(house: House, lines: bytes | io.RawIOBase) -> str:
    """As a file for a batch; its id."""
    made = house.http.post("/v1/files", files={"file": ("lines.jsonl", cast("Any", lines))}, data={"purpose": "batch"})
    return str(made.raise_for_status().json()["id"])


def create(house: House, file_id: str, *, window: str = "24h", key: str | None = None) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": window}
    return house.http.post("/v1/batches", json=body, headers={"Idempotency-Key": key} if key else {})


def submit(house: House, lines: Sequence[Json], *, window: str = "24h") -> "Batch":
    made = create(house, upload(house, content(lines)), window=window).raise_for_status()
    return Batch(house, made.json()["id"], [line["custom_id"] for line in lines])


class Batch(Run):
    """A batch, and what has become of it."""

    def seen(self) -> Json:
        """What the API says of it."""
        shown: Json = self.house.http.get(f"/v1/batches/{self.id}").raise_for_status().json()
        return shown

    def shown(self) -> Json:
        """With its totals, which OpenAI's shape has no place for."""
        return {**self.seen(), "totals": self.house.value("SELECT totals FROM run WHERE id = :run", run=self.id)}

    def output(self) -> list[Json]:
        return self._lines("output_file_id")

    def errors(self) -> list[Json]:
        return self._lines("error_file_id")

    def results(self) -> list[Json]:
        """Every line of both files, with its error if it is in the error file."""
        output = self.output()
        assert all(line["response"]["status_code"] == 200 for line in output)
        answered = [{"id": line["custom_id"], "error": None} for line in output]
        failed = [
            {"id": line["custom_id"], "error": line["error"] or line["response"]["body"]["error"]}
            for line in self.errors()
        ]
        return answered + failed

    @property
    def lines_read(self) -> int:
        """How far its input file is read."""
        return int(self.house.value("SELECT read_lines FROM batch WHERE run_id = :run", run=self.id))

    def has_parts(self) -> bool:
        """Whether its output file is being written, under a name that nobody sees."""
        output = self.house.value("SELECT output_file_id FROM batch WHERE run_id = :run", run=self.id)
        return bool(list(files.folder(self.house.settings).glob(f".{output}*{partial.SUFFIX}")))

    def _lines(self, which: str) -> list[Json]:
        """The file's lines; it is as long as it is said to be, and each line is whole."""
        file_id = self.seen()[which]
        if file_id is None:
            return []
        told = self.house.http.get(f"/v1/files/{file_id}").raise_for_status().json()
        text = self.house.http.get(f"/v1/files/{file_id}/content").raise_for_status().content
        assert len(text) == told["bytes"]
        assert text.endswith(b"\n")
        return [json.loads(line) for line in text.splitlines()]
