"""A page that people read: one HTML file without any other, in light and dark, charts as SVG beside their figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Json = Mapping[str, Any]

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--line:#dde2e8;--ground:#fbfbfc;--card:#fff;--own:#0b66c3;
--other:#8a94a2}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9fabb9;--line:#313a46;--ground:#12161c;--card:#1a2029;
--own:#6db3ff;--other:#8b97a6}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.75rem 0 .5rem}p{margin:.25rem 0 .75rem;max-width:46rem}
.soft,caption,dt{color:var(--soft)}.soft{font-size:.95rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.75rem;margin:1.5rem 0 0;padding:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.85rem 1rem}
.card dt{font-size:.85rem}.card dd{margin:0}.card .figure{font-size:1.55rem;font-weight:650;line-height:1.3;
font-variant-numeric:tabular-nums}.card .note{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.93rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-size:.9rem;padding:0 0 .4rem}
th,td{padding:.38rem .7rem .38rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}thead th{color:var(--soft);font-weight:500;font-size:.86rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}td.bar{width:38%;min-width:12rem;padding-right:1rem}
td svg{display:block;width:100%;height:1.15rem}tr.own th,tr.own td{font-weight:650}
.axis{stroke:var(--line)}.whisker{stroke:var(--other);stroke-width:2}.dot{fill:var(--other)}
.own .whisker,.delta .whisker{stroke:var(--own)}.own .dot,.delta .dot{fill:var(--own)}
.zero{stroke:var(--soft);stroke-dasharray:2 2}
details{border-top:1px solid var(--line);padding:.7rem 0}summary{cursor:pointer;font-weight:600}
details dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.25rem;margin:.6rem 0 0;font-size:.93rem}
details dd{margin:0;overflow-wrap:anywhere}a{color:var(--own)}
@media(max-width:40rem){.chart tr>:nth-child(2){display:none}th{white-space:normal}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One key figure."""

    name: str
    figure: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a chart: an estimate as a dot with its interval, and its figures."""

    name: str
    estimate: Json | None
    """`Estimate.as_json()`; None: nothing is known."""
    note: str = ""
    is_own: bool = False
    """Drawn to stand out."""


def document(title: str, lead: str, *sections: str) -> str:
    """The whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="soft">{text(lead)}</p>{"".join(sections)}</main></body></html>\n'
    )


def cards(items: Iterable[Card]) -> str:
    shown = (
        f'<div class="card"><dt>{text(card.name)}</dt><dd><span class="figure">{text(card.figure)}</span>'
        f'<br><span class="note">{text(card.note)}</span></dd></div>'
        for card in items
    )
    return f'<dl class="cards">{"".join(shown)}</dl>'


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a sentence on how to read it, and what stands below; nothing at all if nothing does."""
    body = "".join(parts)
    told = f'<p class="soft">{text(note)}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{told}{body}</section>" if body else ""


def paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{text(each)}</p>" for each in texts)


def chart(caption: str, first: str, rows: Sequence[Row], *, is_difference: bool = False) -> str:
    """Estimates as dots with intervals on one scale: shares from 0 to 100 %, or differences around 0."""
    known = [row for row in rows if row.estimate]
    if not known:
        return ""
    reach = max((abs(edge) for row in known for edge in _interval(row.estimate)), default=0.0) if is_difference else 1.0
    reach = max(reach * 1.08, 0.02) if is_difference else reach
    lines = []
    for row in rows:
        mark = ' class="delta"' if is_difference else ' class="own"' if row.is_own else ""
        figures = (
            '<td colspan="3">–</td>'
            if not row.estimate
            else f'<td class="bar">{_bar(row.estimate, reach, is_difference)}</td>'
            f"<td>{_share(row.estimate['value'], is_difference)}</td><td>{_range(row.estimate, is_difference)}</td>"
        )
        count = row.estimate.get("n", "") if row.estimate else ""
        lines.append(
            f'<tr{mark}><th scope="row">{text(row.name)}</th>{figures}'
            f"<td>{text(count)}</td><td>{text(row.note)}</td></tr>"
        )
    heads = (first, "", "difference" if is_difference else "accuracy", "95 % interval", "lines", "")
    return _table(caption, heads, lines, kind="chart")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Figures in rows; the first column names the row."""
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{text(figure(cell))}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    return _table(caption, heads, lines) if lines else ""


def details(title: str, values: Json) -> str:
    """Plain values behind a line to open."""
    pairs = "".join(
        f"<dt>{text(name.replace('_', ' '))}</dt><dd>{text(figure(value))}</dd>" for name, value in values.items()
    )
    return f"<details><summary>{text(title)}</summary><dl>{pairs}</dl></details>"


def verdict(estimate: Json | None) -> str:
    """What a difference's interval says."""
    if not estimate:
        return ""
    low, high = _interval(estimate)
    return "better" if low > 0 else "worse" if high < 0 else "cannot be told apart"


def share(estimate: Json | None) -> str:
    return "–" if not estimate else _share(estimate["value"], is_difference=False)


def interval(estimate: Json | None, *, is_difference: bool = False) -> str:
    return "" if not estimate else f"95 % interval {_range(estimate, is_difference)}"


def figure(value: object) -> str:
    """A value as people read it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:,.1f}".replace(",", "\u202f") if abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {figure(each)}" for name, each in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(figure(each) for each in value) or "–"
    return str(value)


def text(value: object) -> str:
    return escape(str(value), quote=True)


def _table(caption: str, heads: Sequence[str], lines: Iterable[str], *, kind: str = "plain") -> str:
    columns = "".join(f'<th scope="col">{text(head)}</th>' if head else "<td></td>" for head in heads)
    return (
        f'<div class="wide" role="region" aria-label="{text(caption)}" tabindex="0">'
        f'<table class="{kind}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(estimate: Json, reach: float, is_difference: bool) -> str:
    """The dot and its interval. The figures stand beside it, so it says nothing to a screen reader."""

    def place(value: float) -> float:
        return round(100 * ((value / reach + 1) / 2 if is_difference else value / reach), 2)

    low, high = (place(edge) for edge in _interval(estimate))
    zero = '<line class="zero" x1="50%" x2="50%" y1="0" y2="100%"/>' if is_difference else ""
    return (
        f'<svg aria-hidden="true"><line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/>{zero}'
        f'<line class="whisker" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>'
        f'<circle class="dot" cx="{place(estimate["value"])}%" cy="50%" r="5"/></svg>'
    )


def _interval(estimate: Json | None) -> tuple[float, float]:
    low, high = estimate["ci95"] if estimate else (0.0, 0.0)
    return float(low), float(high)


def _share(value: float, is_difference: bool) -> str:
    return f"{100 * value:+.1f}".replace("-", "−") + " pt" if is_difference else f"{100 * value:.1f} %"


def _range(estimate: Json, is_difference: bool) -> str:
    low, high = _interval(estimate)
    if is_difference:
        return f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
    return f"{100 * low:.1f} to {100 * high:.1f}"
