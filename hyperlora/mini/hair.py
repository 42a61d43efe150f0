"""Painting hair: fill, shade and comb the sheets of a cut; curls and buns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyperlora.mini.canvas import Canvas, Colour, Linear, Mask, darker, mixed
from hyperlora.mini.curves import Points, ellipse, points
from hyperlora.mini.people import Dice, Person
from hyperlora.mini.pose import Pose
from hyperlora.mini.skin import shadow_of
from hyperlora.mini.strands import Sheet, comb, cover, paint_strands


def paint_hair(
    canvas: Canvas, person: Person, pose: Pose, sheets: Sequence[Sheet], name: str, face: Mask | None = None
) -> None:
    """Fill, shade and comb the sheets; on a face they first cast a shadow."""
    if not sheets:
        return
    u = pose.unit
    d = Dice(f"hyperlora.mini hair {person.seed} {name}")
    layers = [_placed(comb(sheet, 40), sheet, pose) for sheet in sheets]
    curls = person.hair_cut in ("curly", "afro", "long curly")
    if face is not None:
        for strands in layers:
            fallen = strands + np.array([-pose.light[0] * 0.05 * u, 0.055 * u])
            canvas.paint(cover(canvas, fallen, blur=0.035 * u), shadow_of(person.skin), 0.55, clip=face)
    for sheet, strands in zip(sheets, layers, strict=True):
        colour = darker(person.hair, sheet.dark)
        mask = cover(canvas, strands, blur=0.004 * u)
        edge = strands.reshape(-1, 2)
        top, bottom = float(edge[:, 1].min()), float(edge[:, 1].max())
        x0, x1 = float(edge[:, 0].min()), float(edge[:, 0].max())
        lit_left = pose.light[0] < 0
        if person.hair_cut == "buzz":
            canvas.paint(cover(canvas, strands, blur=0.03 * u), mixed(colour, person.skin, 0.22), 0.86)
            continue
        first, second = darker(colour, 1.12), darker(colour, 0.70)
        paint = Linear((x0 if lit_left else x1, top), first, (x1 if lit_left else x0, bottom), second)
        canvas.paint(mask, paint)
        if curls:
            _paint_curls(canvas, person, strands, colour, u, d)
            continue
        wisps = _placed(comb(sheet, 90, d), sheet, pose)
        paint_strands(canvas, wisps, colour, sheet.shine, u, None, d)


def _placed(strands: Points, sheet: Sheet, pose: Pose) -> Points:
    """Strands in pixels. Hair over the forehead lies nearer to the viewer than hair at the rim."""
    flat = strands.reshape(-1, 2)
    inside = 1 - (flat[:, 0] / 0.98) ** 2 - ((flat[:, 1] + 0.1) / 1.05) ** 2
    placed: Points = pose.head(flat, sheet.depth + 0.45 * np.clip(inside, 0, 1) ** 0.5).reshape(strands.shape)
    return placed


def _paint_curls(canvas: Canvas, person: Person, strands: Points, colour: Colour, u: float, d: Dice) -> None:
    """Round locks scattered over the sheet, more of them at its edge, each with a light and a dark side."""
    size = {"afro": 0.075, "curly": 0.085, "long curly": 0.10}[person.hair_cut] * u
    count, length = strands.shape[:2]
    spots = [
        (i, int(d.between(0, 0.999) ** 0.7 * length)) for i in range(count) for _ in range(_CURLS[person.hair_cut])
    ]
    spots += [(i, length - 1) for i in range(count)]  # the silhouette is made of locks, too
    spots += [(i, int(d.between(0, 0.999) * length)) for i in (0, count - 1) for _ in range(9)]
    stray = np.array([(d.around(0, 0.045), d.around(0, 0.045)) for _ in spots]) * u
    at = strands[[i for i, _ in spots], [k for _, k in spots]] + stray
    radii = np.array([(d.between(0.6, 1.0), d.between(0.6, 1.0)) for _ in spots]) * size
    discs = at[:, None, :] + radii[:, None, :] * ellipse(0, 0, 1, 1, count=14)[None]
    canvas.paint(canvas.shape(list(discs)), darker(colour, 0.80))
    gleam = mixed(darker(colour, 1.5), (255, 236, 214), 0.2)
    for tone, share, width, opacity in (
        (darker(colour, 0.50), 0.75, 0.020, 0.55),
        (darker(colour, 1.30), 0.75, 0.016, 0.55),
        (gleam, 0.22, 0.018, 0.45),
    ):
        drawn = at[[d.chance(share) for _ in spots]]
        turns = np.array([(d.between(0, 6.28), d.between(1.6, 3.6), d.between(0.35, 0.85)) for _ in drawn])
        angle = turns[:, :1] + turns[:, 1:2] * np.linspace(0, 1, 9)
        reach = turns[:, 2:] * size * np.linspace(0.55, 1.0, 9)
        arcs = drawn[:, None, :] + np.stack([reach * np.cos(angle), reach * np.sin(angle)], -1)
        canvas.paint(canvas.strokes(list(arcs), width * u), tone, opacity)


_CURLS = {"afro": 5, "curly": 5, "long curly": 9}  # locks on each strand


def paint_bun(canvas: Canvas, person: Person, pose: Pose) -> None:
    """A knot of hair above the crown."""
    u = pose.unit
    d = Dice(f"hyperlora.mini bun {person.seed}")
    x, y = (float(v) for v in pose.head(points((0.18 * person.hair_part, -1.22)), -0.3)[0])
    r = (0.27 + 0.06 * person.hair_volume) * u
    ball = canvas.shape(ellipse(x, y, r, 0.86 * r))
    canvas.paint(
        ball,
        Linear(
            (x + pose.light[0] * r, y - r),
            darker(person.hair, 1.15),
            (x - pose.light[0] * r, y + r),
            darker(person.hair, 0.62),
        ),
    )
    turns = []
    for k in range(26):
        a = np.linspace(0, 3.4, 12) + k * 0.7
        f = np.linspace(1.0, 0.2, 12) * d.between(0.5, 1.0)
        turns.append(np.stack([x + r * f * np.cos(a), y + 0.86 * r * f * np.sin(a)], 1))
    paint_strands(canvas, turns, person.hair, 0.3, u, ball, d)
