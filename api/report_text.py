"""A benchmark's report for people, as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]


def markdown(report: Json) -> str:
    """Every figure of the report: accuracies as tables, the rest as lists. Knows no field by name but the title's."""
    title = " ".join(str(report[name]) for name in ("kind", "name", "run", "id") if report.get(name))
    return "\n".join([f"# {title or 'Report'}", "", *_section(report, 2)]).rstrip() + "\n"


def _section(values: Json, level: int) -> Iterator[str]:
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping | list)}
    for name, value in plain.items():
        yield f"- {_words(name)}: {_figure(value)}"
    if plain:
        yield ""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{'#' * min(level, 6)} {_words(name)}"
            yield ""
            yield from _table(value) if _is_table(value) else _section(value, level + 1)
        elif isinstance(value, list) and value:
            yield f"- {_words(name)}: {', '.join(_figure(each) for each in value)}"
            yield ""


def _is_table(values: Json) -> bool:
    """Several mappings of plain figures: rows of one table."""
    return len(values) > 1 and all(
        isinstance(row, Mapping) and not any(isinstance(cell, Mapping) for cell in row.values())
        for row in values.values()
    )


def _table(rows: Json) -> Iterator[str]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    yield f"| | {' | '.join(_words(column) for column in columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for name, row in rows.items():
        cells = (_figure(row.get(column)).replace("|", "\\|") for column in columns)
        yield f"| {str(name).replace('|', chr(92) + '|')} | {' | '.join(cells)} |"
    yield ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " to ".join(_figure(each) for each in value)
    return str(value)
