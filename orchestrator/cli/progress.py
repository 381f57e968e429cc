"""A run's progress, drawn for the terminal: its lines, its stages, its experts, its rate and the time left."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
BAR_WIDTH = 32
STAGES = ("annotate", "recruit", "generate", "fuse", "grade", "done")


def drawn(state: Json) -> RenderableType:
    """One state of a run (`orchestrator.runs.events.snapshot`)."""
    lines = state["lines"]
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(state["run"], style="bold"),
        state["status"],
        ProgressBar(total=max(1, lines["total"]), completed=lines["done"], width=BAR_WIDTH),
        f"{lines['done']}/{lines['total']} lines",
        f"{lines['failed']} failed" if lines["failed"] else "",
    )
    told = [f"{_time(state['elapsed_s'])} so far"]
    if state["lines_per_s"]:
        told.append(f"{state['lines_per_s']:.1f} lines/s")
    if state["units_per_s"]:
        told.append(f"{state['units_per_s']:.1f} completions/s")
    if state["eta_s"] is not None:
        told.append(f"about {_time(state['eta_s'])} left")
    loads = state["loads"]
    planned = "" if loads["planned"] is None else f" of {loads['planned']} planned"
    told.append(f"{loads['made']} loads{planned}")
    stages = ", ".join(f"{state['stages'][stage]} {stage}" for stage in STAGES if state["stages"].get(stage))
    parts: list[RenderableType] = [head, Text("  " + " · ".join(told))]
    if stages:
        parts.append(Text(f"  {stages}"))
    if state["experts"]:
        parts.append(_experts(state["experts"]))
    return Group(*parts)


def _experts(experts: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table("expert", "", "done", "running", "waiting", "failed", box=None, pad_edge=True, header_style="dim")
    for name, counts in experts.items():
        total = sum(counts.values())
        ended = counts["done"] + counts["failed"]
        bar = ProgressBar(total=max(1, total), completed=ended, width=BAR_WIDTH)
        table.add_row(name, bar, *(str(counts[state]) for state in ("done", "sent", "pending", "failed")))
    return table


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
