"""Who did what and when, as a picture: one SVG, no library."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from orchestrator.simulation.device import LOAD, Span
from orchestrator.simulation.workload import STAGES

_WIDTH, _LEFT, _TOP, _ROW = 960, 84, 48, 22
_LEGEND_COLUMNS, _LEGEND_ROW = 4, 18
_LEGEND_MAX = 40
"""Models named in the legend: colours of more cannot be told apart."""
_GAP_S = 2.0
"""Spans of the same work that are closer than this are drawn as one."""
_LETTER_PX = 12
_LOAD_COLOUR = "#333"
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def svg(spans: Sequence[Span], *, workers: int, makespan_s: float, title: str) -> str:
    """A row for each worker: models by colour, stages by letter, loads dark. Legend below."""
    keys = list(dict.fromkeys(span.model for span in sorted(spans, key=lambda each: each.start_s)))
    colours = {key: _colour(place) for place, key in enumerate(keys)}
    bottom = _TOP + workers * _ROW
    named = keys[:_LEGEND_MAX]
    legend_top = bottom + 48
    height = legend_top + (2 + -(-len(named) // _LEGEND_COLUMNS)) * _LEGEND_ROW + 12
    scale = (_WIDTH - _LEFT - 24) / makespan_s

    def x(at_s: float) -> float:
        return round(_LEFT + at_s * scale, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="22" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    step_s = next((step for step in _STEPS if makespan_s / step <= 12), _STEPS[-1])
    for tick in range(int(makespan_s / step_s) + 1):
        at = x(tick * step_s)
        parts.append(f'<path d="M{at} {_TOP}V{bottom + 4}" stroke="#ddd"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{tick * step_s}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{bottom + 34}" text-anchor="middle">seconds</text>')
    for number in range(workers):
        y = _TOP + number * _ROW
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">worker {number}</text>')
    for span in _joined(spans):
        y, width = _TOP + span.device * _ROW + 2, max(0.3, round((span.end_s - span.start_s) * scale, 1))
        is_load = span.stage == LOAD
        what = "load" if is_load else STAGES[span.stage]
        colour = _LOAD_COLOUR if is_load else colours[span.model]
        parts.append(
            f'<rect x="{x(span.start_s)}" y="{y}" width="{width}" height="{_ROW - 4}" fill="{colour}">'
            f"<title>{escape(span.model)}: {what}, {span.start_s:.0f} to {span.end_s:.0f} s</title></rect>"
        )
        if not is_load and width >= _LETTER_PX:
            parts.append(
                f'<text x="{x((span.start_s + span.end_s) / 2)}" y="{y + 13}" text-anchor="middle" font-size="10" '
                f'fill="#000">{what[0]}</text>'
            )
    parts.append(_swatch(_LEFT, legend_top, _LOAD_COLOUR, "load of the model whose work follows"))
    parts.append(
        f'<text x="{_LEFT + 300}" y="{legend_top + 11}">letters: a annotate, g generate, f fuse; white: idle, or the '
        "last answers of a batch</text>"
    )
    column_px = (_WIDTH - _LEFT) // _LEGEND_COLUMNS
    for place, key in enumerate(named):
        row, column = divmod(place, _LEGEND_COLUMNS)
        y = legend_top + (row + 1) * _LEGEND_ROW
        parts.append(_swatch(_LEFT + column * column_px, y, colours[key], key))
    if len(keys) > len(named):
        y = legend_top + (1 + -(-len(named) // _LEGEND_COLUMNS)) * _LEGEND_ROW + 11
        parts.append(f'<text x="{_LEFT}" y="{y}">and {len(keys) - len(named)} more</text>')
    return "\n".join([*parts, "</svg>", ""])


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.device, each.start_s)):
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.device, last.model, last.stage) == (span.device, span.model, span.stage)
            and span.start_s - last.end_s < _GAP_S
        ):
            joined[-1] = Span(
                device=last.device, model=last.model, stage=last.stage, start_s=last.start_s, end_s=span.end_s
            )
        else:
            joined.append(span)
    return joined


def _colour(place: int) -> str:
    """Hues a golden angle apart, so that neighbours differ; two lightnesses in turn."""
    return f"hsl({place * 137.5 % 360:.0f} 65% {(72, 58)[place % 2]}%)"


def _swatch(x: float, y: float, colour: str, text: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="14" height="12" fill="{colour}"/>'
        f'<text x="{x + 20}" y="{y + 11}">{escape(text)}</text>'
    )
