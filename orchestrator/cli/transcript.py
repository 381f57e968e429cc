"""How one question was answered, for people: skills, recruits with reasons, each answer, the fused answer."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

TEXT_CHARS = 400
"""Of a completion; the whole of it is in the API's answer."""

Json = Mapping[str, Any]


def show(completion: Json, console: Console) -> None:
    """Print a chat completion with its `muster` object."""
    explanation = completion.get("muster") or {}
    choice = completion["choices"][0]
    if "recruits" in explanation:
        _show_skills(explanation, console)
        _show_recruits(explanation, console)
        _show_answers(explanation, console)
        _show_fusion(explanation, console)
    console.print(Padding(f"[bold]{escape(choice['message']['content'] or '')}[/bold]", (1, 2)))
    _show_cost(completion, explanation, console)


def _show_skills(explanation: Json, console: Console) -> None:
    _heading(console, "Skills it needs", f"annotated by {explanation['annotation']}")
    for skill in explanation["skills"]:
        keyword = f" (from “{escape(skill['keyword'])}”)" if skill["keyword"] else ""
        console.print(f"  {escape(skill['skill'])}  similarity {skill['similarity']:.2f}{keyword}")
    if explanation["off_domain"]:
        console.print("  none that the pool was profiled on: overall competency decides")


def _show_recruits(explanation: Json, console: Console) -> None:
    _heading(console, "Recruited", f"strategy {explanation['strategy']}, seed {explanation['seed']}")
    for recruit in explanation["recruits"]:
        chance = "" if recruit["probability"] is None else f", right with probability {recruit['probability']:.0%}"
        figures = f"suitability {recruit['suitability']:.2f}, weight {recruit['weight']:.2f}{chance}"
        console.print(f"  [bold]{recruit['expert']}[/bold]  {figures}")
        if recruit["why"]:
            console.print(f"    [dim]{escape(recruit['why'])}[/dim]")


def _show_answers(explanation: Json, console: Console) -> None:
    _heading(console, "Answers")
    for answer in explanation["answers"]:
        parsed = f"→ {escape(answer['answer'])}" if answer["answer"] else "→ no answer could be read"
        outcome = f"[red]{escape(answer['error'])}[/red]" if answer["error"] else parsed
        cost = f"{answer['tokens']} tokens, {answer['seconds']:.1f} s"
        console.print(f"  [bold]{answer['expert']}[/bold]  {outcome}  [dim]{cost}[/dim]")
        if text := (answer.get("text") or "").strip():
            shown = text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + " …"
            console.print(Padding(escape(shown), (0, 4)))


def _show_fusion(explanation: Json, console: Console) -> None:
    fusion = explanation["fusion"]
    who = {"vote": "by vote", "best_single": "best single expert", "aggregate": "by aggregator"}
    by = f", {fusion['expert']}" if fusion["expert"] else ""
    _heading(console, "Fused answer", f"{who.get(fusion['method'], fusion['method'])}{by}")
    votes = ", ".join(f"{escape(answer)} {weight:.2f}" for answer, weight in explanation["votes"].items())
    if votes:
        console.print(f"  votes: {votes}; confidence {fusion['confidence']:.0%}")
    if explanation["note"]:
        console.print(f"  [dim]{escape(explanation['note'])}[/dim]")


def _show_cost(completion: Json, explanation: Json, console: Console) -> None:
    usage = completion.get("usage") or {}
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in (explanation.get("seconds") or {}).items())
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    charged = explanation.get("charges") or {}
    seconds = f"; charged {charged['device_s']:.1f} s of devices, {charged['load_s']:.1f} s of loads" if charged else ""
    console.print(f"[dim]{tokens}{'; ' if stages else ''}{stages}{seconds}[/dim]")


def _heading(console: Console, title: str, aside: str = "") -> None:
    console.print(f"[bold cyan]{title}[/bold cyan]" + (f"  [dim]{escape(aside)}[/dim]" if aside else ""))
