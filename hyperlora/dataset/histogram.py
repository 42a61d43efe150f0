"""A histogram as an inline SVG: kept photos below, dropped ones above, on a scale of powers of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, FOOT, HEAD = 560, 200, 34, 22
_STEPS = 2  # bars for each doubling
_MOST_LABELS = 8
KEPT, DROPPED, INK, SOFT, RULE = "#3f7d5a", "#d9a08f", "#1f2328", "#6b7280", "#9f2b23"


def histogram(values: Sequence[float], kept: Sequence[bool], limit: float, unit: str) -> str:
    """The SVG of a chart; `limit` is drawn as a line. Values are counted between powers of the root of two."""
    places = [_STEPS * math.log2(max(value, 1.0)) for value in values]
    first, last = (math.floor(min(places)), math.floor(max(places)) + 1) if places else (0, 1)
    first, last = first // _STEPS * _STEPS, -(-last // _STEPS) * _STEPS
    counts = [[0, 0] for _ in range(last - first)]
    for place, good in zip(places, kept, strict=True):
        counts[math.floor(place) - first][0 if good else 1] += 1
    tallest = max(1, *(sum(pair) for pair in counts))
    bar, room = WIDTH / len(counts), HEIGHT - FOOT - HEAD
    parts = [_bar(index * bar, bar, pair, room / tallest) for index, pair in enumerate(counts)]
    for index in range(0, len(counts) + 1, _STEPS * -(-len(counts) // (_STEPS * _MOST_LABELS))):
        anchor = "start" if index == 0 else "end" if index == len(counts) else "middle"
        label = f"{2 ** ((first + index) / _STEPS):,.0f}"
        parts.append(_text(index * bar, HEIGHT - FOOT + 16, label, SOFT, anchor))
    parts.append(f'<path d="M0 {HEIGHT - FOOT}.5H{WIDTH}" stroke="{SOFT}"/>')
    x = (_STEPS * math.log2(max(limit, 1.0)) - first) * bar
    if 0 < x < WIDTH:
        anchor = "end" if x > WIDTH * 0.7 else "start"
        parts.append(f'<path d="M{x:.1f} {HEAD - 8}V{HEIGHT - FOOT}" stroke="{RULE}" stroke-dasharray="4 3"/>')
        parts.append(_text(x + (-6 if anchor == "end" else 6), HEAD - 4, f"wanted {limit:g}", RULE, anchor))
    parts.append(_text(WIDTH, HEIGHT - 2, unit, SOFT, "end"))
    return f'<svg viewBox="-2 0 {WIDTH + 4} {HEIGHT + 4}" role="img" aria-label="{escape(unit)}">{"".join(parts)}</svg>'


def _bar(x: float, width: float, counts: Sequence[int], scale: float) -> str:
    kept, dropped = counts
    floor = HEIGHT - FOOT
    shapes = ""
    for count, below, colour in ((kept, 0, KEPT), (dropped, kept, DROPPED)):
        if count:
            top = floor - (below + count) * scale
            shapes += (
                f'<rect x="{x + 1:.1f}" y="{top:.1f}" width="{width - 2:.1f}" height="{count * scale:.1f}" '
                f'fill="{colour}"/>'
            )
    if kept + dropped:
        told = f"{kept + dropped:,}"
        shapes += _text(x + width / 2, floor - (kept + dropped) * scale - 4, told, INK, "middle")
    return shapes


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
