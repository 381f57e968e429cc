"""`muster simulate`: the residency plan on a simulated clock, with no engine and no server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.output import AsJson, console, fail, print_json, table

BOUNDS = {
    "work_and_loads_s": "all work in full batches and the fewest loads it needs, spread over {workers} workers",
    "stages_s": "one stage's work over all workers, with the fastest way to its first unit and from its last",
    "longest_path_s": "the longest question alone: the annotator's load, then its three stages",
}
"""How each bound of a report is computed; the formulas are in orchestrator/simulation/bounds.py."""


def simulate(
    experts: Annotated[int, typer.Option(min=1, help="Experts, each with a model of its own.")] = 16,
    instances: Annotated[int, typer.Option(min=1, help="Questions.")] = 2100,
    k: Annotated[int, typer.Option(min=1, help="Experts per question.")] = 3,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs.")] = 1,
    costs: Annotated[
        Path | None,
        typer.Option(help="What models cost, TOML or JSON.", show_default="orchestrator/costs/costs.toml"),
    ] = None,
    usage: Annotated[
        str | None,
        typer.Option(help="How unevenly experts are used: a name in the costs' `usage`.", show_default="its default"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of who is recruited for what.")] = 0,
    gantt: Annotated[Path | None, typer.Option(help="Draw who did what and when into this SVG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan a batch on simulated GPUs and report its makespan, loads and waits, beside a lower bound and other ways."""
    # Imported here: no other command should wait for numpy.
    from orchestrator.costs import costs_file
    from orchestrator.simulation import gantt as picture
    from orchestrator.simulation import report
    from orchestrator.simulation.simulation import Stuck

    try:
        read = costs_file.read(costs or costs_file.SHIPPED)
        done = report.simulate(read, experts=experts, instances=instances, k=k, gpus=gpus, usage=usage, seed=seed)
    except (costs_file.CostsError, Stuck) as error:
        fail(str(error))
        raise typer.Exit(2) from None
    found = done.report
    if gantt is not None:
        title = f"{instances} questions, {experts} experts, k={k}, {gpus} GPUs: {found['makespan_s']:.0f} s"
        gantt.write_text(
            picture.svg(done.outcome.spans, workers=found["workers"], makespan_s=done.outcome.makespan_s, title=title)
        )
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    console.print(
        f"{found['instances']} questions, {found['experts']} experts ({found['distinct_models']} models needed), "
        f"k={found['k']}, {found['gpus']} GPUs: [bold]{found['makespan_s']:.0f} s[/bold], "
        f"{found['ratio']:.3f} times the lower bound of {found['lower_bound_s']:.0f} s"
    )
    console.print(f"lower bound: {lower_bound(found)}")
    first, fixed = found["first_come"], found["fixed_order"]
    rows = [
        ("Muster's plan", found["makespan_s"], found["loads"], found["longest_wait_s"], found["idle_s"]),
        ("first come, first served", first["makespan_s"], first["loads"], first["longest_wait_s"], first["idle_s"]),
        ("the paper's fixed order", fixed["makespan_s"], fixed["loads"], None, None),
        ("one question after another", found["naive_makespan_s"], found["naive_loads"], None, None),
    ]
    cells = [(name, *("" if each is None else f"{each:.0f}" for each in values)) for name, *values in rows]
    console.print(table(("", "makespan, s", "loads", "longest wait, s", "idle, device s"), cells))
    console.print(
        f"planned {found['plans']} times in {found['plan_seconds']:.2f} s; "
        f"device seconds: {found['work_s']:.0f} computing, {found['load_s']:.0f} loading"
    )


def lower_bound(found: Mapping[str, Any]) -> str:
    """The greatest bound of a report and how it is computed, then those that it exceeds."""
    greatest, *others = sorted(found["bounds"], key=found["bounds"].get, reverse=True)

    def shown(name: str) -> str:
        return f"{found['bounds'][name]:.0f} s, {BOUNDS[name].format(workers=found['workers'])}"

    return f"{shown(greatest)} (the largest of three, the others: {'; '.join(map(shown, others))})"
