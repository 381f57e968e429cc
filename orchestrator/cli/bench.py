"""`muster bench`: benchmarks, from a file of questions to a report, and the comparison of two reports."""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Column

from orchestrator.cli import progress
from orchestrator.cli.client import Client
from orchestrator.cli.output import AsJson, Url, console, fail, print_json, table
from orchestrator.settings import Settings

ENDED = ("completed", "failed", "expired", "cancelled")

ID_CHARS = 30
"""Never cut off, however narrow the terminal: it is what other commands are given."""

app = typer.Typer(no_args_is_help=True, help="Submit a benchmark, watch it, read its report, compare two.")

RunId = Annotated[str, typer.Argument(help="The benchmark's id.")]


@app.command()
def submit(
    what: Annotated[str, typer.Argument(help="A JSONL file of questions with answers, or a benchmark's name.")],
    expert: Annotated[list[str] | None, typer.Option(help="Recruit among these only (repeat).")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Experts per question.")] = None,
    strategy: Annotated[str | None, typer.Option(help="How to recruit.")] = None,
    fusion: Annotated[str | None, typer.Option(help="auto, vote, aggregate or best_single.")] = None,
    aggregator: Annotated[str | None, typer.Option(help="The expert that merges answers.")] = None,
    annotation: Annotated[str | None, typer.Option(help="embedding or llm.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed recruits the same.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also ask the whole pool, to compare with.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it, then print its report.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Start a benchmark."""
    client = _client(url)
    given = {"experts": expert or None, "k": k, "strategy": strategy, "fusion": fusion, "annotation": annotation}
    given |= {"aggregator": aggregator, "seed": seed}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    body["baselines"] = baselines
    run = client.post("/v1/benchmarks", body | _questions(client, what))
    if wait:
        _watch(client, run["id"], quiet=as_json)
        report(run["id"], url=url, as_json=as_json)
    elif as_json:
        print_json(run)
    else:
        console.print(f"{run['id']} is {run['status']}: `muster bench watch {run['id']}` shows how far it is.")


@app.command()
def watch(run_id: RunId, url: Url = None, as_json: AsJson = False) -> None:
    """Show the progress of a benchmark, a batch or any other run until it ends. Exit code 1 unless it completes."""
    run = _watch(_client(url), run_id, quiet=as_json)
    if as_json:
        print_json(run)
    else:
        console.print(f"{run_id} is {run['status']}.")
    raise typer.Exit(0 if run["status"] == "completed" else 1)


@app.command("list")
def list_benchmarks(
    limit: Annotated[int, typer.Option(min=1, max=100, help="The newest so many.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the latest benchmarks, newest first."""
    found = _client(url).get("/v1/benchmarks", limit=limit)["data"]
    if as_json:
        print_json(found)
        return
    rows = []
    for run in found:
        counts = run["request_counts"]
        ended = f"{counts['completed'] + counts['failed']}/{counts['total']}"
        began = datetime.fromtimestamp(run["created_at"], UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        rows.append((run["id"], run["name"], run["status"], ended, counts["failed"] or "", began))
    console.print(table((Column("id", min_width=ID_CHARS), "name", "status", "lines", "failed", "submitted"), rows))


@app.command()
def results(
    run_id: RunId,
    after: Annotated[int | None, typer.Option(min=0, help="Only lines behind this position.")] = None,
    url: Url = None,
) -> None:
    """Print every line that is done, as JSONL, with its provenance."""
    for block in _client(url).blocks(f"/v1/benchmarks/{run_id}/results", after=-1 if after is None else after):
        sys.stdout.write(block)


@app.command()
def cancel(run_id: RunId, url: Url = None, as_json: AsJson = False) -> None:
    """Call a benchmark off; what is done is kept."""
    run = _client(url).post(f"/v1/benchmarks/{run_id}/cancel")
    if as_json:
        print_json(run)
    else:
        console.print(f"{run_id} is {run['status']}.")


@app.command()
def compare(
    first: RunId,
    second: Annotated[str, typer.Argument(help="The other benchmark's id.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compare two benchmarks line by line: the second's accuracy minus the first's, and whether chance explains it."""
    _print(_client(url), "/v1/benchmarks", as_json, compare=f"{first},{second}")


@app.command()
def report(run_id: RunId, url: Url = None, as_json: AsJson = False) -> None:
    """Print a benchmark's report. Its address shows a browser the same as a page."""
    path = f"/v1/benchmarks/{run_id}/report"
    _print(_client(url), path, as_json)


def _print(client: Client, path: str, as_json: bool, **parameters: str) -> None:
    if as_json:
        print_json(client.get(path, format="json", **parameters))
    else:
        console.print(Markdown(client.text(path, format="markdown", **parameters)))


def _questions(client: Client, what: str) -> dict[str, str]:
    path = Path(what)
    if path.is_file():
        return {"name": path.stem, "file_id": client.upload(path.name, path.read_bytes(), purpose="batch")["id"]}
    if "/" in what or path.suffix:
        fail(f"there is no file {what}")
        raise typer.Exit(2)
    return {"name": what}


def _watch(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Draw every state of the run until it has ended; the last one."""
    last: dict[str, Any] = {}
    with contextlib.nullcontext() if quiet else Live(console=console, refresh_per_second=4) as live:
        while last.get("status") not in ENDED:  # a server that is stopped ends its streams, too
            for last in client.events(f"/v1/runs/{run_id}/events"):
                if live is not None:
                    live.update(progress.drawn(last))
    return last


def _client(url: str | None) -> Client:
    return Client.for_settings(Settings(), url)
