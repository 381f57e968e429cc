"""A benchmark's report as a page."""

from collections.abc import Iterator, Mapping
from typing import Any

from api import page as html
from api.page import Card, Row

Json = Mapping[str, Any]

_BASELINES = {
    "best_single": "best single expert, chosen by its profile",
    "best_single_hindsight": "best single expert in hindsight",
    "random": "random recruits, majority",
    "majority_all": "majority of the whole pool",
    "oracle": "oracle: somebody was right",
}
_VERSUS = {
    "best_single": "the best single expert",
    "random": "random recruits",
    "majority_all": "the majority of the pool",
}


def page(report: Json) -> str:
    """The page of any run's report; what a run has not is left out."""
    lines = report["lines"]
    done, total = html.figure(lines["done"]), html.figure(lines["total"])
    lead = f"{report['run']}, {report.get('status', '')}: {done} of {total} lines done"
    if lines["failed"]:
        lead += f", {html.figure(lines['failed'])} of them failed"
    compared = report.get("baselines") or {}
    return html.document(
        f"{str(report['kind']).capitalize()} {report['name'] or report['run']}",
        lead,
        html.section("To be careful about", html.paragraphs(report.get("warnings", ()))),
        html.cards(_cards(report)),
        html.section(
            "Beside its baselines",
            html.chart("Accuracy on the lines that every expert answered", "who", list(_baselines(compared))),
            note=str(compared.get("note", "")).capitalize() + "." if compared.get("note") else "",
        ),
        html.section(
            "The difference it makes",
            html.chart("This run's accuracy minus another's", "beside", list(_differences(report)), is_difference=True),
            note="Paired on the same lines; an interval that holds 0 tells nothing apart. pt: percentage points.",
        ),
        html.section(
            "By category",
            html.chart("Accuracy per category", "category", [Row(name=n, estimate=e) for n, e in _categories(report)]),
        ),
        html.section("By expert", _experts(report)),
        html.section("What it cost", _stages(report), _loads(report)),
        html.section(
            "What was pinned",
            html.details("Settings", report["settings"]),
            html.details("Versions", {"muster": report.get("muster"), **report["versions"]}),
        ),
    )


def _cards(report: Json) -> Iterator[Card]:
    accuracy = report.get("accuracy")
    if accuracy:
        yield Card(name="Accuracy", figure=html.share(accuracy), note=html.interval(accuracy))
    versus = ((report.get("baselines") or {}).get("versus") or {}).get("best_single")
    if versus:
        yield Card(
            name="Beside the best single expert",
            figure=f"{100 * versus['value']:+.1f} pt".replace("-", "−"),
            note=html.verdict(versus),
        )
    gain = (report.get("fusion") or {}).get("gain")
    if gain:
        yield Card(
            name="Gain by fusing",
            figure=f"{100 * gain['value']:+.1f} pt".replace("-", "−"),
            note=f"over the first recruit alone: {html.verdict(gain)}",
        )
    loads = report["loads"]
    planned = "" if loads.get("planned") is None else f"{html.figure(loads['planned'])} planned"
    yield Card(name="Loads", figure=html.figure(loads["made"]), note=planned)
    tokens = sum(stage["prompt_tokens"] + stage["completion_tokens"] for stage in report["stages"].values())
    yield Card(name="Tokens", figure=html.figure(tokens), note=f"{html.figure(report['units']['calls'])} calls")
    yield Card(name="Time", figure=_duration(report["seconds"]), note="from submission to end")


def _baselines(compared: Json) -> Iterator[Row]:
    if compared.get("muster"):
        yield Row(name="this run", estimate=compared["muster"], is_own=True)
    for key, name in _BASELINES.items():
        found = compared.get(key)
        if found and "value" in found:
            yield Row(name=name, estimate=found, note=str(found.get("expert") or ""))


def _differences(report: Json) -> Iterator[Row]:
    versus = (report.get("baselines") or {}).get("versus") or {}
    for key, name in _VERSUS.items():
        if versus.get(key):
            yield Row(name=name, estimate=versus[key], note=html.verdict(versus[key]))
    gain = (report.get("fusion") or {}).get("gain")
    if gain:
        yield Row(name="its own first recruit", estimate=gain, note=html.verdict(gain))


def _categories(report: Json) -> list[tuple[str, Json]]:
    return list((report.get("per_category") or {}).items())


def _experts(report: Json) -> str:
    experts = {name: row for name, row in (report.get("per_expert") or {}).items() if row and "calls" in row}
    troubles = ("unreadable", "cut_off", "failed", "late")
    heads = ("expert", "accuracy", "when recruited", "recruited", "answers", "unreadable", "cut off", "failed", "late")
    rows = [
        (
            name,
            html.share(row["accuracy"]),
            html.share(row["accuracy_when_recruited"]),
            row["recruited"],
            row["calls"],
            *(row[trouble] for trouble in troubles),
            row["prompt_tokens"] + row["completion_tokens"],
        )
        for name, row in experts.items()
    ]
    return html.table("Every expert, on all lines it was asked (for the baselines, too)", (*heads, "tokens"), rows)


def _stages(report: Json) -> str:
    heads = {
        "calls": "calls",
        "failed": "failed",
        "retried": "retried",
        "lost": "workers lost",
        "prompt_tokens": "prompt tokens",
        "completion_tokens": "completion tokens",
        "engine_s": "engine seconds",
    }
    rows = [(name, *(stage[each] for each in heads)) for name, stage in report["stages"].items()]
    methods = (report.get("fusion") or {}).get("methods") or {}
    told = f'<p class="soft">Answers were fused by {html.text(html.figure(methods))}.</p>' if methods else ""
    return html.table("Calls and tokens by stage", ("stage", *heads.values()), rows) + told


def _loads(report: Json) -> str:
    loads = report["loads"]["per_model"]
    rows = [(name, load["loads"], load["seconds"]) for name, load in loads.items()]
    return html.table("Loads by model", ("model", "loads", "seconds"), rows)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
