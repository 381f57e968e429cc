"""A multipart upload, from the socket to the data directory as it comes in: memory and $TMPDIR see nothing of it."""

import re
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from api.errors import ApiError
from orchestrator.settings import Settings
from orchestrator.storage import files
from orchestrator.storage.partial import Partial

FORM_BYTES = 64 * 2**10
"""What a form may add around its file."""
BLOCK_BYTES = 2**20
"""Written at once, by a thread."""
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class Upload:
    """The form of `POST /v1/files`: call `receive`, then `partial.keep()` or `partial.discard()`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.file_id = files.new_id()
        self.partial: Partial | None = None
        self.filename = ""
        self.purpose = ""
        self.expires_after_s: int | None = None
        self._fields: dict[str, str] = {}
        self._announced = 0
        self._name: str | None = None
        """Of the field that is being read; None: it is the file."""
        self._header, self._value = b"", b""
        self._disposition = b""
        self._text = bytearray()
        self._texts_bytes = 0
        self._has_file = False
        self._file_bytes = 0
        self._block = bytearray()
        self._is_ended = False

    async def receive(self, request: Request) -> None:
        """Read the whole form. Raises `ApiError` and `DiskFull`; then, too, there may be a `partial` to discard."""
        announced = request.headers.get("content-length", "")
        self._announced = int(announced) if announced.isdigit() else 0
        parser = self._parser(request.headers.get("content-type", ""))
        try:
            await self._feed(parser, request.stream())
        except FormParserError as error:
            raise ApiError(400, f"the body is no multipart form: {error}", code="invalid_form") from None
        except ClientDisconnect:
            raise ApiError(400, "the connection broke during the upload", code="incomplete_form") from None
        self._check()

    async def _feed(self, parser: MultipartParser, stream: AsyncIterator[bytes]) -> None:
        async for block in stream:
            parser.write(block)
            if self._has_file and self.partial is None:
                self.partial = await run_in_threadpool(Partial, self._settings, self.file_id)
            if len(self._block) >= BLOCK_BYTES:
                await self._write()
        if self._block:
            await self._write()

    async def _write(self) -> None:
        assert self.partial is not None
        block, self._block = bytes(self._block), bytearray()
        await run_in_threadpool(self.partial.write, block)

    def _parser(self, content_type: str) -> MultipartParser:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(400, "send the file as multipart/form-data, in the field `file`", code="invalid_form")
        callbacks = {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_ends,
            "on_end": self._form_ends,
        }
        try:
            return MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise ApiError(400, f"the body is no multipart form: {error}", code="invalid_form") from None

    def _part_begins(self) -> None:
        self._disposition, self._text = b"", bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _text(options.get(b"name", b""))
        if name == "file":
            if self._has_file:
                raise ApiError(400, "one file at a time", param="file", code="invalid_value")
            self._name, self._has_file = None, True
            self.filename = _text(options.get(b"filename", b"")).replace("\0", "")[:255]
            self._refuse_if_larger(self._announced - FORM_BYTES)
        elif name in FIELDS and name not in self._fields:
            self._name = name
        else:
            raise ApiError(400, f"unknown parameter: {name[:80]!r}", param=name[:80], code="unknown_parameter")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._file_bytes += end - start
            self._refuse_if_larger(self._file_bytes)
            self._block += data[start:end]
            return
        self._texts_bytes += end - start
        if self._texts_bytes > FORM_BYTES:
            raise ApiError(413, f"the form's fields are larger than {FORM_BYTES} bytes", param=self._name)
        self._text += data[start:end]

    def _part_ends(self) -> None:
        if self._name is not None:
            self._fields[self._name] = _text(bytes(self._text))

    def _form_ends(self) -> None:
        self._is_ended = True

    def _refuse_if_larger(self, size: int) -> None:
        """OpenAI's bound for batches is lower than that for files. The purpose may come behind the file."""
        is_batch = self._fields.get("purpose") == "batch"
        most = self._settings.max_file_bytes
        most = min(most, self._settings.max_batch_file_bytes) if is_batch else most
        if size > most:
            raise ApiError(
                413, f"the file is larger than the {most} bytes that one of its purpose may have", param="file"
            )

    def _check(self) -> None:
        if not self._is_ended:
            raise ApiError(400, "the form ends in its middle", code="incomplete_form")
        if not self._has_file:
            raise ApiError(400, "file is missing", param="file", code="missing_required_parameter")
        if not self.filename:
            raise ApiError(400, "the file has no name", param="file", code="invalid_value")
        if "purpose" not in self._fields:
            raise ApiError(400, "purpose is missing", param="purpose", code="missing_required_parameter")
        self.purpose = self._fields["purpose"]
        if self.purpose not in files.PURPOSES:
            known = ", ".join(files.PURPOSES)
            raise ApiError(400, f"purpose is one of {known}", param="purpose", code="invalid_value")
        self._refuse_if_larger(self._file_bytes)
        self.expires_after_s = self._expiry()

    def _expiry(self) -> int | None:
        anchor, seconds = (self._fields.get(name) for name in FIELDS[1:])
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            raise ApiError(400, "the anchor is 'created_at'", param="expires_after[anchor]", code="invalid_value")
        least, most = files.EXPIRES_MIN_S, files.EXPIRES_MAX_S
        given = int(seconds) if seconds and re.fullmatch(r"[0-9]{1,9}", seconds) else 0
        if not least <= given <= most:
            raise ApiError(
                400,
                f"seconds is a whole number from {least} (an hour) to {most} (30 days)",
                param="expires_after[seconds]",
                code="invalid_value",
            )
        return given


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
