"""`muster bench`: benchmarks, from a file of questions to a report."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.cli.client import Client
from orchestrator.cli.output import AsJson, Url, console, fail, print_json
from orchestrator.settings import Settings

POLL_S = 0.5
ENDED = ("completed", "failed", "expired", "cancelled")

app = typer.Typer(no_args_is_help=True, help="Submit a benchmark, watch it, read its report.")

RunId = Annotated[str, typer.Argument(help="The benchmark's id.")]


@app.command()
def submit(
    what: Annotated[str, typer.Argument(help="A JSONL file of questions with answers, or a question set's name.")],
    expert: Annotated[list[str] | None, typer.Option(help="Recruit among these only (repeat).")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Experts per question.")] = None,
    strategy: Annotated[str | None, typer.Option(help="How to recruit.")] = None,
    fusion: Annotated[str | None, typer.Option(help="auto, vote, aggregate or best_single.")] = None,
    annotation: Annotated[str | None, typer.Option(help="embedding or llm.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed recruits the same.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it, then print its report.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Start a benchmark."""
    client = _client(url)
    given = {"experts": expert or None, "k": k, "strategy": strategy, "fusion": fusion, "annotation": annotation}
    given["seed"] = seed
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
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
    """Show a benchmark's progress until it ends. Exit code 1 unless it completes."""
    run = _watch(_client(url), run_id, quiet=as_json)
    if as_json:
        print_json(run)
    else:
        console.print(f"{run_id} is {run['status']}.")
    raise typer.Exit(0 if run["status"] == "completed" else 1)


@app.command()
def report(run_id: RunId, url: Url = None, as_json: AsJson = False) -> None:
    """Print a benchmark's report."""
    path = f"/v1/benchmarks/{run_id}/report"
    if as_json:
        print_json(_client(url).get(path))
    else:
        console.print(Markdown(_client(url).text(path, format="markdown")))


def _questions(client: Client, what: str) -> dict[str, str]:
    path = Path(what)
    if path.is_file():
        return {"name": path.stem, "file_id": client.upload(path.name, path.read_bytes(), purpose="batch")["id"]}
    if "/" in what or path.suffix:
        fail(f"there is no file {what}")
        raise typer.Exit(2)
    return {"name": what}


def _watch(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=quiet) as bar:
        shown = bar.add_task(run_id, total=None)
        while True:
            run: dict[str, Any] = client.get(f"/v1/benchmarks/{run_id}")
            counts = run.get("request_counts") or {}
            done = counts.get("completed", 0) + counts.get("failed", 0)
            bar.update(shown, total=counts.get("total"), completed=done, description=f"{run_id} {run['status']}")
            if run["status"] in ENDED:
                return run
            time.sleep(POLL_S)


def _client(url: str | None) -> Client:
    return Client.for_settings(Settings(), url)
