"""`/v1/benchmarks`: questions with gold answers in, an honest report out."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from api import comparison_page, report_page
from api.errors import ApiError
from api.report_text import markdown
from api.state import GatewayDep, SettingsDep
from orchestrator.online.gateway import Gateway
from orchestrator.online.query import K_MAX, ExpertName
from orchestrator.pool import pool, question_sets
from orchestrator.runs import comparison, lines, named, report, runs
from orchestrator.settings import Settings
from orchestrator.storage import files
from orchestrator.storage.tables import RunRow
from skills.question import Question

router = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"])
Json = dict[str, Any]
KIND = "benchmark"
Format = Annotated[Literal["json", "markdown", "html"] | None, Query()]
Accept = Annotated[str | None, Header(max_length=1000)]


class BenchmarkRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "muster-basics", "k": 2, "fusion": "vote", "seed": 1}]},
    )

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """A file in the benchmarks' folder (`muster-check` ships), or a question set; with `file_id`, just what to call
    the run."""
    file_id: Annotated[str, Field(max_length=100)] | None = None
    """An uploaded JSONL file; lines as in a question set."""
    experts: Annotated[list[ExpertName], Field(min_length=1, max_length=1024)] | None = None
    k: int | None = Field(default=None, ge=1, le=K_MAX)
    strategy: Annotated[str, Field(max_length=64)] | None = None
    fusion: Literal["auto", "vote", "aggregate", "best_single"] | None = None
    aggregator: ExpertName | None = None
    annotation: Literal["embedding", "llm"] | None = None
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    baselines: bool = True
    """Also ask the whole pool (on all lines or a part of them), to compare with."""


@router.post("", status_code=202)
def submit(
    body: BenchmarkRequest,
    gateway: GatewayDep,
    settings: SettingsDep,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Json:
    """Start a benchmark. With an `Idempotency-Key` header, sending it twice starts it once."""
    digest = runs.digest(KIND, body.model_dump(mode="json"))
    with gateway.session() as session:  # before the file is looked for: it may be gone by now
        if (present := runs.submitted(session, idempotency_key, digest)) is not None:
            return _shown(present, runs.counts(session, present.id))
        if body.file_id:
            files.get(session, body.file_id)  # before its lines are read: it may be another's
    questions = _from_file(settings, body.file_id) if body.file_id else _by_name(gateway, settings, body.name)
    with gateway.session() as session:
        run = runs.submit_benchmark(
            session,
            settings=settings,
            pool=pool.load(session, question_set=settings.question_set, names=body.experts),
            name=_plain(body.name or body.file_id or ""),
            questions=questions,
            k=body.k,
            strategy=body.strategy,
            fusion=body.fusion,
            annotation=body.annotation,
            aggregator=body.aggregator,
            seed=body.seed,
            baselines=body.baselines,
            idempotency_key=idempotency_key,
            digest=digest,
        )
        session.refresh(run)
        return _shown(run, runs.counts(session, run.id))


@router.get("", response_model=None)
def list_benchmarks(
    gateway: GatewayDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    compare: Annotated[str | None, Query(max_length=200, description="Two benchmarks' ids: `a,b`.")] = None,
    format: Format = None,
    accept: Accept = None,
) -> Response:
    """The latest benchmarks, newest first; with `compare=a,b`, two of them line by line instead.

    A comparison has the paired bootstrap interval of the difference (the second's accuracy minus the first's) and
    McNemar's exact test, overall and per category; as JSON, Markdown or a page, like a report.
    """
    with gateway.session() as session:
        if compare is None:
            rows = runs.listed(session, kind=KIND, limit=limit)
            shown = [_shown(run, runs.counts(session, run.id)) for run in rows]
            return JSONResponse({"object": "list", "data": shown})
        first, _, second = _plain(compare).partition(",")
        if not first or not second or "," in second:
            raise ApiError(400, "compare takes two benchmarks' ids: ?compare=a,b", param="compare")
        compared = comparison.of(session, first.strip(), second.strip())
    return _as(format or _preferred(accept), compared, comparison_page.page)


@router.get("/{run_id}")
def get_benchmark(run_id: str, gateway: GatewayDep) -> Json:
    """Its status and how far it is."""
    with gateway.session() as session:
        return _shown(runs.get(session, _plain(run_id)), runs.counts(session, run_id))


@router.post("/{run_id}/cancel")
def cancel(run_id: str, gateway: GatewayDep) -> Json:
    """Call it off; what is done is kept."""
    with gateway.session() as session:
        run = runs.cancel(session, _plain(run_id))
        return _shown(run, runs.counts(session, run_id))


@router.get("/{run_id}/report", response_model=None)
def get_report(run_id: str, gateway: GatewayDep, format: Format = None, accept: Accept = None) -> Response:
    """Accuracy with its interval, beside the best single expert, random recruits, the majority and the oracle.

    As JSON, Markdown or a page (html): by `format`, or else by the `Accept` header. Of a benchmark under way: of the
    lines that are done.
    """
    with gateway.session() as session:
        run = runs.get(session, _plain(run_id))
        built = {**(run.report or report.build(session, run_id)), "status": run.status}
    return _as(format or _preferred(accept), built, report_page.page)


@router.get("/{run_id}/results", response_class=StreamingResponse)
def get_results(
    run_id: str, gateway: GatewayDep, after: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1
) -> StreamingResponse:
    """Every line that is done, as JSONL, with its provenance. `after`: only lines behind this position."""
    with gateway.session() as session:
        run_id = runs.get(session, _plain(run_id)).id
    return StreamingResponse(_lines(gateway, run_id, after), media_type="application/jsonl")


def _lines(gateway: Gateway, run_id: str, after: int) -> Iterator[bytes]:
    for line in lines.results(gateway.session, run_id, after=after):
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _preferred(accept: str | None) -> str:
    """What the client would rather read: browsers ask for HTML first, and other programs for nothing in particular."""
    for wanted in (accept or "").split(","):
        found = {"text/html": "html", "text/markdown": "markdown", "application/json": "json"}
        if name := found.get(wanted.partition(";")[0].strip().lower()):
            return name
    return "json"


def _as(format: str, value: Json, page: Callable[[Json], str]) -> Response:
    headers = {"vary": "accept"}
    match format:
        case "html":
            return HTMLResponse(page(value), headers=headers)
        case "markdown":
            return PlainTextResponse(markdown(value), media_type="text/markdown", headers=headers)
        case _:
            return JSONResponse(value, headers=headers)


def _from_file(settings: Settings, file_id: str) -> list[Question]:
    try:
        return question_sets.parse(files.lines(settings, file_id))
    except question_sets.BadQuestionSet as error:
        raise ApiError(400, f"{file_id}: {error}", param="file_id", code="invalid_file") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"{file_id} is not UTF-8 text: {error}", param="file_id", code="invalid_file") from None


def _by_name(gateway: Gateway, settings: Settings, name: str | None) -> Sequence[Question]:
    """Of a file in the benchmarks' folder, or else of a question set."""
    if not name:
        raise ApiError(400, "give a benchmark's name, or the file_id of an uploaded one", param="name")
    if (questions := named.read(settings, name)) is not None:
        return questions
    with gateway.session() as session:
        try:
            return question_sets.labelled(session, question_sets.newest(session, _plain(name))).questions
        except question_sets.UnknownQuestionSet:
            raise named.UnknownBenchmark(name, settings) from None


def _plain(text: str) -> str:
    """PostgreSQL takes no NUL in a text."""
    return text.replace("\0", "")


def _shown(run: RunRow, counts: runs.Counts) -> Json:
    pinned = run.pinned
    return {
        "id": run.id,
        "object": "benchmark",
        "name": run.name,
        "status": run.status,
        "created_at": int(run.created_at.timestamp()),
        "ended_at": int(run.ended_at.timestamp()) if run.ended_at else None,
        "request_counts": {
            "total": counts.total,
            "completed": counts.done - counts.failed,
            "failed": counts.failed,
        },
        "settings": {
            name: pinned.get(name)
            for name in ("k", "strategy", "fusion", "annotation", "aggregator", "seed", "planned_loads")
        },
        "experts": (pinned.get("pool") or {}).get("expert_versions", {}),
        "totals": run.totals,
        "errors": run.errors,
    }
