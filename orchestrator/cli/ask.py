"""`muster ask`: one question, and how it was answered."""

import sys
from typing import Annotated, Any

import typer

from orchestrator.cli import transcript
from orchestrator.cli.client import Client
from orchestrator.cli.output import AsJson, Url, console, fail, print_json
from orchestrator.settings import Settings


def ask(
    question: Annotated[str, typer.Argument(help="The question; `-` reads it from standard input.")],
    model: Annotated[str, typer.Option(help="`muster`, or one expert's name.")] = "muster",
    k: Annotated[int | None, typer.Option(min=1, help="Experts to recruit.")] = None,
    strategy: Annotated[str | None, typer.Option(help="How to recruit.")] = None,
    fusion: Annotated[str | None, typer.Option(help="auto, vote, aggregate or best_single.")] = None,
    expert: Annotated[list[str] | None, typer.Option(help="Recruit among these only (repeat).")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="The most it may take.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed recruits the same.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Print the answer alone.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question and show who was recruited for it, what each said, and the fused answer."""
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        fail("the question is empty")
        raise typer.Exit(2)
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if model == "muster":
        given = {"k": k, "strategy": strategy, "fusion": fusion, "experts": expert or None, "seed": seed}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options |= {"budget": {"seconds": seconds}} if seconds else {}
        body["muster"] = options | {"explain": True}
    completion = Client.for_settings(Settings(), url).post("/v1/chat/completions", body)
    if as_json:
        print_json(completion)
    elif brief:
        console.print(completion["choices"][0]["message"]["content"], markup=False)
    else:
        transcript.show(completion, console)
