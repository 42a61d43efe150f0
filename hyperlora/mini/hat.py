"""Hats, which also cover the hair."""

from __future__ import annotations

import numpy as np

from hyperlora.mini.canvas import Canvas, Colour, Linear, darker
from hyperlora.mini.curves import ellipse, points, spline
from hyperlora.mini.people import Person
from hyperlora.mini.pose import Pose


def paint_beanie(canvas: Canvas, person: Person, pose: Pose, colour: Colour) -> None:
    """A knitted cap with a folded rim."""
    u, w = pose.unit, person.face_width + 0.10 + 0.05 * person.hair_volume
    dome = spline(
        points(
            (w, -0.50),
            (w * 0.98, -0.88),
            (w * 0.66, -1.24),
            (0, -1.40),
            (-w * 0.66, -1.24),
            (-w * 0.98, -0.88),
            (-w, -0.50),
        )
    )
    outline = np.concatenate([dome, points((0, -0.36))])
    cap = canvas.shape(pose.head(outline, 0.05))
    x = float(pose.head(points((0.0, 0.0)))[0, 0])
    canvas.paint(
        cap,
        Linear(
            (x + pose.light[0] * 2 * w * u, 0),
            darker(colour, 1.15),
            (x - pose.light[0] * 2 * w * u, 0),
            darker(colour, 0.6),
        ),
    )
    ribs = [
        pose.head(spline(points((k * 0.12, -1.38), (k * w * 0.72, -0.95), (k * w * 0.95, -0.5))), 0.1)
        for k in np.linspace(-1, 1, 15)
    ]
    canvas.paint(canvas.strokes(ribs, 0.025 * u, blur=0.012 * u), darker(colour, 0.5), 0.55, clip=cap)
    fold = spline(points((-w * 1.03, -0.46), (-0.5 * w, -0.40), (0, -0.385), (0.5 * w, -0.40), (w * 1.03, -0.46)))
    band_outline = np.concatenate([fold, (fold + np.array([0.0, -0.24]))[::-1] * np.array([0.995, 1.0])])
    under = canvas.strokes([pose.head(fold + np.array([0, 0.03]), 0.15)], 0.07 * u, blur=0.03 * u)
    canvas.paint(under, (60, 30, 26), 0.4)
    band = canvas.shape(pose.head(band_outline, 0.15))
    canvas.paint(
        band,
        Linear(
            (x + pose.light[0] * 2 * w * u, 0),
            darker(colour, 1.3),
            (x - pose.light[0] * 2 * w * u, 0),
            darker(colour, 0.75),
        ),
    )
    teeth = [pose.head(points((k * w, -0.72), (k * w, -0.36)), 0.15) for k in np.linspace(-1, 1, 23)]
    canvas.paint(canvas.strokes(teeth, 0.018 * u), darker(colour, 0.6), 0.5, clip=band)


def paint_straw_hat(canvas: Canvas, person: Person, pose: Pose, colour: Colour) -> None:
    """A straw hat with a ribbon of the colour."""
    u, w = pose.unit, person.face_width
    straw: Colour = (226, 190, 122)
    crown = spline(
        points(
            (-w * 0.92, -0.64),
            (-w * 0.88, -1.05),
            (-w * 0.62, -1.36),
            (0, -1.42),
            (w * 0.62, -1.36),
            (w * 0.88, -1.05),
            (w * 0.92, -0.64),
        )
    )
    top = canvas.shape(pose.head(crown, 0.0))
    x = float(pose.head(points((0.0, 0.0)))[0, 0])
    canvas.paint(
        top,
        Linear((x + pose.light[0] * 2 * u, 0), darker(straw, 1.1), (x - pose.light[0] * 2 * u, 0), darker(straw, 0.66)),
    )
    rows = [pose.head(spline(points((-w, y), (0, y + 0.09), (w, y))), 0.1) for y in np.linspace(-1.4, -0.6, 11)]
    canvas.paint(canvas.strokes(rows, 0.014 * u), darker(straw, 0.6), 0.5, clip=top)
    band = spline(points((-w, -0.78), (0, -0.66), (w, -0.78)))
    canvas.paint(canvas.strokes([pose.head(band, 0.1)], 0.15 * u), colour, clip=top)
    brim = ellipse(0, -0.60, w + 0.52, 0.20, count=48)
    fallen = canvas.shape(pose.head(brim + np.array([0, 0.10]), 0.1), blur=0.05 * u)
    canvas.paint(fallen, (64, 34, 26), 0.35)
    rim = canvas.shape(pose.head(brim, 0.1))
    keep = canvas.shape(
        pose.head(
            np.concatenate(
                [
                    ellipse(0, -0.60, w + 0.6, 0.24)[:17],
                    points((-w - 0.6, -0.60), (-w * 0.9, -0.70), (0, -0.60), (w * 0.9, -0.70)),
                ]
            ),
            0.1,
        )
    )
    canvas.paint(
        rim,
        Linear(
            (x + pose.light[0] * 2.4 * u, 0), darker(straw, 1.16), (x - pose.light[0] * 2.4 * u, 0), darker(straw, 0.72)
        ),
        clip=keep,
    )
    rings = [pose.head(ellipse(0, -0.60, (w + 0.52) * k, 0.20 * k, count=40), 0.1) for k in (0.97, 0.88, 0.79)]
    canvas.paint(canvas.strokes(rings, 0.014 * u), darker(straw, 0.6), 0.45, clip=rim & keep)
