"""Hair as sheets: a row of guide curves, filled, shaded and combed with strands between them.

A guide runs from a root to a tip. Neighbouring guides need equal numbers of points; anything between two of them is
interpolated, so that a few guides make a smooth mass of hair with a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperlora.mini.canvas import Canvas, Colour, Mask, darker, mixed
from hyperlora.mini.curves import Points, spline
from hyperlora.mini.people import Dice


@dataclass(frozen=True)
class Sheet:
    """Guides in head units, each (K, 2), and how the hair on them looks."""

    guides: Sequence[Points]
    wave: float = 0.0  # sideways swing of the strands, head units
    shine: float = 0.33  # where along a strand the light catches, 0 root to 1 tip
    depth: float = 0.0  # towards the viewer
    dark: float = 1.0  # factor on the colour: hair behind the head lies in shade


def comb(sheet: Sheet, count: int, d: Dice | None = None) -> Points:
    """`count` strands across the sheet in head units, (count, length, 2); with dice, each strays from its place."""
    smooth = np.stack([spline(g, samples=6) for g in sheet.guides])
    along = np.linspace(0, 1, smooth.shape[1])[None, :, None]
    place = np.linspace(0, 1, count)
    if d:
        place = np.clip(place + np.array([d.around(0, 0.6 / count) for _ in place]), 0, 1)
    at = place * (len(smooth) - 1)
    k = np.minimum(at.astype(int), len(smooth) - 2)
    strands: Points = smooth[k] + (smooth[k + 1] - smooth[k]) * (at - k)[:, None, None]
    if sheet.wave:
        swing = sheet.wave * np.sin(along * 11 + place[:, None, None] * 2.2) * along**0.6
        strands = strands + swing * np.array([1.0, 0.2])
    if d:
        tangent = np.gradient(strands, axis=1)
        length = np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-6)[..., None]
        normal = np.stack([-tangent[..., 1], tangent[..., 0]], -1) / length
        bend, end = (np.array([d.around(0, reach) for _ in place])[:, None, None] for reach in (0.022, 0.018))
        strands = strands + normal * (bend * np.sin(np.pi * along) + end * along)
    return strands


def cover(canvas: Canvas, strands: Points, blur: float = 0.0) -> Mask:
    """The area between neighbouring strands (count, length, 2), already in pixels."""
    quads = [np.concatenate([strands[i], strands[min(i + 2, len(strands) - 1)][::-1]]) for i in range(len(strands) - 1)]
    return canvas.shape(quads, blur)


def paint_strands(
    canvas: Canvas,
    strands: Points | Sequence[Points],
    colour: Colour,
    shine: float,
    unit: float,
    clip: Mask | None,
    d: Dice,
) -> None:
    """Fine lines in three tones over a filled sheet; the lightest only where the light catches."""
    shade: list[Points] = []
    light: list[Points] = []
    gleam: list[Points] = []
    for strand in strands:
        tone = d.between(0, 1)
        start = int(d.between(0, 0.35) * len(strand))
        stop = max(start + 3, int(d.between(0.6, 1.0) * len(strand)))
        (shade if tone < 0.52 else light).append(strand[start:stop])
        if d.chance(0.55):
            middle = (shine + d.around(0, 0.07)) * len(strand)
            reach = d.between(0.05, 0.15) * len(strand)
            gleam.append(strand[max(0, int(middle - reach)) : int(middle + reach) + 2])
    fine = 0.011 * unit
    if shade:
        canvas.paint(canvas.strokes(shade, 1.2 * fine), darker(colour, 0.66), 0.36, clip=clip)
    if light:
        canvas.paint(canvas.strokes(light, fine), mixed(darker(colour, 1.28), (255, 226, 190), 0.06), 0.34, clip=clip)
    if gleam:
        glow = mixed(darker(colour, 1.5), (255, 240, 220), 0.30)
        canvas.paint(canvas.strokes(gleam, 2.6 * fine, blur=1.6 * fine), glow, 0.34, clip=clip)
