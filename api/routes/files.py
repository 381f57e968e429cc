"""`/v1/files`: OpenAI's, for benchmarks and batches."""

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from starlette.responses import FileResponse

from api.errors import ApiError
from api.state import GatewayDep, SettingsDep
from orchestrator.storage import files
from orchestrator.storage.tables import FileRow

router = APIRouter(prefix="/v1/files", tags=["files"])
Json = dict[str, Any]


@router.post("")
def upload(
    gateway: GatewayDep,
    settings: SettingsDep,
    file: Annotated[UploadFile, File(description="The bytes; for a benchmark, JSONL.")],
    purpose: Annotated[str, Form(min_length=1, max_length=64, pattern=r"^[a-z_-]+$", examples=["batch"])],
) -> Json:
    """Store a file. It goes to disk as it comes in, wholly or not at all."""
    filename = (file.filename or "").replace("\0", "")[:255]
    if not filename:
        raise ApiError(400, "the file has no name", param="file", code="invalid_value")
    # OpenAI's bound for batches is lower than that for files.
    most = min(settings.max_file_bytes, settings.max_batch_file_bytes) if purpose == "batch" else None
    file_id, size = files.write(settings, file.file, max_bytes=most)
    with gateway.session() as session:
        return _shown(files.add(session, file_id=file_id, filename=filename, purpose=purpose, size=size))


@router.get("")
def list_files(gateway: GatewayDep, purpose: Annotated[str | None, Query(max_length=64)] = None) -> Json:
    """Every file, newest first."""
    with gateway.session() as session:
        return {
            "object": "list",
            "data": [_shown(row) for row in files.listed(session, purpose=purpose)],
            "has_more": False,
        }


@router.get("/{file_id}")
def get_file(file_id: str, gateway: GatewayDep) -> Json:
    """What is known about a file."""
    with gateway.session() as session:
        return _shown(files.get(session, file_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def get_content(file_id: str, gateway: GatewayDep, settings: SettingsDep) -> FileResponse:
    """Its bytes."""
    with gateway.session() as session:
        row = files.get(session, file_id)
    return FileResponse(files.path(settings, file_id), media_type="application/octet-stream", filename=row.filename)


@router.delete("/{file_id}")
def delete(file_id: str, gateway: GatewayDep, settings: SettingsDep) -> Json:
    """Delete it."""
    with gateway.session() as session:
        files.delete(session, settings, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _shown(row: FileRow) -> Json:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }
