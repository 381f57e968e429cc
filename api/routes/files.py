"""`/v1/files`: OpenAI's, for benchmarks and batches."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse

from api.state import GatewayDep, SettingsDep
from api.upload import Upload
from orchestrator.online.gateway import Gateway
from orchestrator.settings import Settings
from orchestrator.storage import files
from orchestrator.storage.partial import Partial
from orchestrator.storage.tables import FileRow

router = APIRouter(prefix="/v1/files", tags=["files"])
Json = dict[str, Any]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "For a benchmark, JSONL."},
                        "purpose": {"type": "string", "enum": list(files.PURPOSES), "examples": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": files.EXPIRES_MIN_S,
                            "maximum": files.EXPIRES_MAX_S,
                        },
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
async def upload(request: Request, gateway: GatewayDep, settings: SettingsDep) -> Json:
    """Store a file. It goes to disk as it comes in, wholly or not at all."""
    coming = Upload(settings)
    try:
        await coming.receive(request)
        assert coming.partial is not None
        return await run_in_threadpool(_keep, gateway, settings, coming, coming.partial)
    finally:
        if coming.partial is not None:
            coming.partial.discard()


def _keep(gateway: Gateway, settings: Settings, upload: Upload, partial: Partial) -> Json:
    """Give the bytes their name, and then their row: the other way about, there might be a row without bytes."""
    partial.keep()
    is_added = False
    try:
        with gateway.session() as session:
            row = files.add(
                session,
                file_id=upload.file_id,
                filename=upload.filename,
                purpose=upload.purpose,
                size=partial.size,
                expires_after_s=upload.expires_after_s,
            )
            is_added = True
            return _shown(row)
    except BaseException:
        if not is_added:  # else nobody knows whether it was committed: if not, the bytes are swept
            files.remove(settings, upload.file_id)
        raise


@router.get("")
def list_files(
    gateway: GatewayDep,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=files.LIST_MAX)] = files.LIST_MAX,
    order: Literal["asc", "desc"] = "desc",
) -> Json:
    """Files by their age, newest first; `after`: those behind this one."""
    with gateway.session() as session:
        purpose = None if purpose is None else purpose.replace("\0", "")
        page = files.listed(session, purpose=purpose, after=after, limit=limit, order=order)
    data = [_shown(row) for row in page.rows]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
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
        files.delete(session, file_id)
    files.remove(settings, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _shown(row: FileRow) -> Json:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()) if row.expires_at else None,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }
