"""Clothes: shoulders in the colour asked for, with the details that tell one garment from another."""

from __future__ import annotations

import numpy as np

from hyperlora.mini.attributes import Attributes
from hyperlora.mini.canvas import Canvas, Colour, darker, mixed
from hyperlora.mini.curves import Points, ellipse, mirror, points, spline
from hyperlora.mini.people import Person
from hyperlora.mini.pose import Pose
from hyperlora.mini.tailor import Tailor

_WHITE: Colour = (240, 239, 235)


def paint_clothing(canvas: Canvas, person: Person, attributes: Attributes, pose: Pose) -> None:
    """Dress the shoulders; the neck must be there already, hair in front comes later."""
    t = Tailor(canvas, person, attributes, pose)
    _GARMENTS[attributes.clothing](t)


def _crew(t: Tailor, depth: float = 1.52) -> Points:
    return points((t.neck + 0.10, 1.28), (t.neck, 1.40), (0.55 * t.neck, depth - 0.03), (0, depth))


def _collar_line(t: Tailor, hole: Points, colour: Colour, width: float) -> None:
    curve = spline(hole)
    t.line([np.concatenate([curve, mirror(curve)[::-1][1:]])], colour, width)


def _t_shirt(t: Tailor) -> None:
    hole = _crew(t)
    t.torso(hole, t.colour)
    _collar_line(t, hole + np.array([0.0, 0.03]), darker(t.colour, 0.82), 0.075)
    _collar_line(t, hole + np.array([0.0, 0.075]), darker(t.colour, 0.60), 0.014)


def _sweater(t: Tailor) -> None:
    hole = _crew(t, 1.47)
    mask = t.torso(hole, t.colour, grow=0.06)
    ribs = [points((x, 1.3), (x * 1.06, 3.0)) for x in np.linspace(-1.7, 1.7, 30)]
    t.line(ribs, darker(t.colour, 0.7), 0.022, 0.35, 0.01, clip=mask)
    rows = [spline(points((-1.8, y + 0.25), (0, y), (1.8, y + 0.25))) for y in np.linspace(1.6, 2.6, 10)]
    t.line(rows, darker(t.colour, 1.3), 0.020, 0.25, 0.01, clip=mask)
    _collar_line(t, hole + np.array([0.0, 0.045]), darker(t.colour, 0.84), 0.13)
    teeth = [
        points((x, 1.36 + 0.18 * (1 - (x / t.neck) ** 2)), (x * 1.05, 1.50 + 0.10 * (1 - (x / t.neck) ** 2)))
        for x in np.linspace(-0.4, 0.4, 13)
    ]
    t.line(teeth, darker(t.colour, 0.58), 0.016, 0.6)


def _turtleneck(t: Tailor) -> None:
    t.torso(points((t.neck + 0.05, 1.30), (t.neck - 0.02, 1.42), (0.2, 1.48), (0, 1.48)), t.colour)
    n = t.neck + 0.045
    tube = points((n - 0.02, 1.02), (n + 0.02, 1.2), (n + 0.10, 1.42), (0.5 * n, 1.53), (0, 1.56))
    rim = points((n - 0.02, 1.02), (0.55 * n, 1.13), (0, 1.165))
    outline = np.concatenate([spline(tube), mirror(spline(tube))[::-1], mirror(spline(rim))[1:], spline(rim)[::-1][1:]])
    t.fill(outline + np.array([0.0, 0.05]), darker(t.colour, 0.4), 0.03, 0.6)
    roll = t.fill(outline, darker(t.colour, 0.95))
    t.line(
        [points((x * n, 1.0), (x * (n + 0.08), 1.6)) for x in np.linspace(-0.95, 0.95, 15)],
        darker(t.colour, 0.62),
        0.018,
        0.5,
        clip=roll,
    )
    side = -1 if t.pose.light[0] > 0 else 1
    t.fill(
        points((side * n * 1.2, 1.0), (side * n * 0.45, 1.0), (side * n * 0.45, 1.6), (side * n * 1.3, 1.6)),
        darker(t.colour, 0.45),
        0.08,
        0.55,
        clip=roll,
    )


def _hoodie(t: Tailor) -> None:
    hood = points((0, 1.05), (t.neck + 0.20, 1.06), (t.neck + 0.42, 1.30), (t.neck + 0.40, 1.58), (0, 1.66))
    t.torso(_crew(t, 1.58), t.colour, grow=0.08)
    for half in (
        spline(
            points(
                (t.neck - 0.02, 1.16),
                (t.neck + 0.24, 1.14),
                (t.neck + 0.42, 1.38),
                (0.52, 1.72),
                (0.06, 1.86),
                (0.02, 1.66),
                (0.30, 1.52),
                (t.neck - 0.06, 1.36),
            ),
            closed=True,
        ),
    ):
        t.both(half, darker(t.colour, 1.03), 0.45)
        inner = points((t.neck - 0.02, 1.18), (t.neck - 0.04, 1.38), (0.30, 1.55), (0.03, 1.70))
        t.line([spline(inner), mirror(spline(inner))], darker(t.colour, 0.55), 0.04, 0.7, 0.01)
    strings = [spline(points((s * 0.15, 1.72), (s * 0.19, 2.0), (s * 0.17, 2.28))) for s in (-1.0, 1.0)]
    t.line(strings, (244, 240, 232), 0.04)
    t.line([spline(hood[3:])], darker(t.colour, 0.6), 0.02, 0.0)


def _shirt(t: Tailor) -> None:
    t.torso(points((t.neck + 0.06, 1.26), (0.34, 1.42), (0.14, 1.60), (0, 1.72)), t.colour)
    t.line([points((0.0, 1.72), (0.0, 3.0))], darker(t.colour, 0.66), 0.018)
    t.line([points((0.10, 1.78), (0.10, 3.0))], darker(t.colour, 0.78), 0.012)
    for y in (1.88, 2.16, 2.44):
        t.fill(ellipse(0.045, y, 0.03, 0.03), mixed(t.colour, _WHITE, 0.75))
        t.fill(ellipse(0.045, y, 0.012, 0.012), darker(t.colour, 0.5))
    t.both(
        points((t.neck - 0.01, 1.20), (t.neck + 0.12, 1.30), (0.44, 1.66), (0.02, 1.70), (0.22, 1.48)),
        darker(t.colour, 1.10),
        0.45,
    )


def _suit(t: Tailor) -> None:
    t.torso(points((t.neck + 0.10, 1.28), (0.40, 1.40), (0.30, 1.60), (0, 2.9)), t.colour, grow=0.05)
    t.fill(points((-0.42, 1.34), (0.42, 1.34), (0.40, 1.7), (0.05, 2.9), (-0.05, 2.9), (-0.40, 1.7)), _WHITE)
    t.fill(points((-0.42, 1.3), (0.42, 1.3), (0.3, 1.62), (-0.3, 1.62)), (120, 116, 124), 0.06, 0.35)
    red, blue = (150, 40, 52), (48, 70, 128)
    tie = red if t.colour[2] > t.colour[0] - 10 else blue
    t.fill(points((-0.11, 1.60), (0.11, 1.60), (0.07, 1.76), (-0.07, 1.76)), tie)
    body = t.fill(points((-0.06, 1.76), (0.06, 1.76), (0.17, 2.7), (-0.17, 2.7)), darker(tie, 0.9))
    t.line(
        [points((x - 0.4, 2.9), (x + 0.3, 1.7)) for x in np.linspace(-0.4, 0.5, 8)],
        darker(tie, 1.4),
        0.02,
        0.6,
        clip=body,
    )
    t.both(points((t.neck - 0.02, 1.24), (t.neck + 0.08, 1.34), (0.34, 1.70), (0.09, 1.62)), (248, 247, 244), 0.4)
    lapel = points(
        (t.neck + 0.06, 1.30),
        (t.neck + 0.26, 1.40),
        (0.84, 1.82),
        (0.66, 1.88),
        (0.70, 1.98),
        (0.05, 2.85),
        (0.02, 2.85),
        (0.34, 1.72),
    )
    t.both(lapel, darker(t.colour, 1.14), 0.55)
    t.line([lapel[1:7], mirror(lapel[1:7])], darker(t.colour, 0.6), 0.014, 0.8)


def _open_jacket(t: Tailor, shell: Colour, under: Colour, stitch: Colour) -> None:
    t.torso(_crew(t, 1.50), under)
    t.torso(points((t.neck + 0.12, 1.27), (0.46, 1.45), (0.38, 1.8), (0.30, 3.2)), shell, grow=0.08)
    hole = spline(_crew(t, 1.50))
    front = np.concatenate([hole, points((0.0, 3.2), (0.30, 3.2), (0.36, 1.8), (t.neck + 0.10, 1.28))])
    for half in (front, mirror(front)):
        t.fill(half, under)
        t.fill(half, darker(under, 0.5), 0.0, 0.10)
    edge = points((t.neck + 0.10, 1.30), (0.42, 1.6), (0.34, 2.0), (0.30, 3.0))
    for e in (edge, mirror(edge)):
        t.line([spline(e)], (20, 18, 22), 0.07, 0.35, 0.03)
    t.both(
        points((t.neck + 0.00, 1.20), (t.neck + 0.24, 1.32), (0.80, 1.66), (0.44, 1.90), (0.36, 1.62)),
        darker(shell, 1.12),
        0.5,
    )
    t.line([points((0.40, 1.95), (0.36, 3.0)), points((-0.40, 1.95), (-0.36, 3.0))], stitch, 0.016, 0.9)


def _denim(t: Tailor) -> None:
    shell = mixed(t.colour, (84, 116, 160), 0.55) if t.colour[2] < 170 else (78, 110, 160)
    under = t.colour if abs(t.colour[2] - 178) > 20 else _WHITE
    _open_jacket(t, shell, under, (222, 168, 92))
    pocket = points((0.62, 2.02), (1.04, 2.0), (1.02, 2.3), (0.64, 2.3), (0.62, 2.02))
    t.line([pocket, mirror(pocket)], (222, 168, 92), 0.018, 0.8)


def _leather(t: Tailor) -> None:
    _open_jacket(t, mixed((46, 40, 42), t.colour, 0.16), t.colour, (196, 196, 202))
    shine = [spline(points((s * 0.7, 1.52), (s * 1.05, 1.58), (s * 1.32, 1.74))) for s in (-1.0, 1.0)]
    t.line(shine, (220, 220, 230), 0.07, 0.45, 0.03)


def _dress(t: Tailor) -> None:
    w = t.wide - 0.12
    right = points((0.72, 1.46), (0.60, 1.72), (0.34, 1.92), (0, 1.86))
    outer = points((0.86, 1.46), (w - 0.32, 1.92), (w - 0.18, 2.3), (w - 0.1, 3.2))
    outline = np.concatenate(
        [spline(outer), points((0, 3.2)), mirror(spline(outer))[::-1], mirror(spline(right))[1:], spline(right)[::-1]]
    )
    mask = t.fill(outline, t.colour)
    side = 1.0 if t.pose.light[0] < 0 else -1.0
    t.fill(
        points((side * 0.5, 1.4), (side * 2, 1.4), (side * 2, 3), (side * 0.8, 3)),
        darker(t.colour, 0.55),
        0.15,
        0.5,
        clip=mask,
    )
    t.folds(mask, t.colour)
    _collar_line(t, right + np.array([0.0, 0.02]), darker(t.colour, 1.25), 0.035)
    beads = [
        ellipse(0.50 * np.sin(a), 1.36 + 0.30 * np.cos(a), 0.026, 0.026, count=10) for a in np.linspace(-1.25, 1.25, 19)
    ]
    for bead in beads:
        t.fill(bead, (244, 236, 220))


def _lab_coat(t: Tailor) -> None:
    _open_jacket(t, (238, 240, 243), t.colour, (196, 202, 210))
    t.line([points((0.66, 2.2), (1.05, 2.2)), points((0.66, 2.2), (0.66, 2.5))], (176, 184, 194), 0.016)
    t.line([points((0.78, 2.05), (0.78, 2.24)), points((0.86, 2.08), (0.86, 2.24))], (52, 92, 160), 0.03)


def _overalls(t: Tailor) -> None:
    under = mixed(t.colour, _WHITE, 0.72)
    mask = t.torso(_crew(t), under)
    stripes = [points((-2.0, y), (2.0, y)) for y in np.linspace(1.4, 2.9, 14)]
    t.line(stripes, mixed(t.colour, _WHITE, 0.3), 0.05, 0.55, clip=mask)
    _collar_line(t, _crew(t) + np.array([0.0, 0.03]), darker(under, 0.86), 0.07)
    t.both(points((0.56, 1.46), (0.78, 1.50), (0.62, 2.10), (0.42, 2.10)), t.colour, 0.4)
    t.fill(points((-0.66, 2.04), (0.66, 2.04), (0.78, 3.2), (-0.78, 3.2)), t.colour)
    t.line([points((-0.64, 2.08), (0.64, 2.08))], darker(t.colour, 0.6), 0.02)
    for s in (-1.0, 1.0):
        t.fill(ellipse(s * 0.53, 2.13, 0.065, 0.065), (226, 188, 96))
        t.fill(ellipse(s * 0.53, 2.13, 0.03, 0.03), (166, 126, 48))


_GARMENTS = {
    "t-shirt": _t_shirt,
    "hoodie": _hoodie,
    "sweater": _sweater,
    "turtleneck": _turtleneck,
    "shirt": _shirt,
    "suit": _suit,
    "denim jacket": _denim,
    "leather jacket": _leather,
    "dress": _dress,
    "lab coat": _lab_coat,
    "overalls": _overalls,
}
