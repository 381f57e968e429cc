"""Accuracy against what it cost, as a picture: one small SVG, no library."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 56
_TICKS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
_TICKS_MOST = 12
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")

Points = Sequence[tuple[float, float]]
"""(mean cost, accuracy)"""


def svg(lines: Mapping[str, Points], *, levels: Mapping[str, float], title: str, cost: str) -> str:
    """`lines` as curves with dots over the mean `cost` per question, `levels` as dashed horizontals."""
    costs = [point[0] for points in lines.values() for point in points]
    heights = [point[1] for points in lines.values() for point in points] + list(levels.values())
    most = max(costs, default=1.0) * 1.05
    low, high = min(heights, default=0.0) - 0.01, max(heights, default=1.0) + 0.01

    def x(value: float) -> float:
        return round(_MARGIN + value / most * (_WIDTH - 2 * _MARGIN), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _MARGIN - (value - low) / (high - low) * (_HEIGHT - 2 * _MARGIN), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">mean {escape(cost)} per question</text>',
    ]
    bottom = y(low)
    parts.append(f'<path d="M{x(0)} {y(high)}V{bottom}H{x(most)}" fill="none" stroke="#444"/>')
    apart = next(step for step in _TICKS if most / step < _TICKS_MOST)
    for tick in range(apart, int(most) + 1, apart):
        parts.append(f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick}</text>')
    for step in range(6):
        value = low + (high - low) * step / 5
        parts.append(f'<text x="{x(0) - 6}" y="{y(value) + 4}" text-anchor="end">{value:.3f}</text>')
    for name, value in levels.items():
        parts.append(f'<path d="M{x(0)} {y(value)}H{x(most)}" stroke="#999" stroke-dasharray="4 4"/>')
        parts.append(f'<text x="{x(most)}" y="{y(value) - 4}" text-anchor="end" fill="#666">{escape(name)}</text>')
    for place, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        ordered = sorted(points)
        path = " ".join(f"{x(a)},{y(b)}" for a, b in ordered)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a)}" cy="{y(b)}" r="3" fill="{colour}"/>' for a, b in ordered]
        parts.append(f'<text x="{_MARGIN + 12}" y="{40 + 16 * place}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
