"""Facial hair, from stubble to a full beard."""

from __future__ import annotations

import numpy as np

from hyperlora.mini.anatomy import Anatomy
from hyperlora.mini.canvas import Canvas, Mask, darker, mixed
from hyperlora.mini.curves import Points, mirror, points
from hyperlora.mini.people import Dice, Person
from hyperlora.mini.pose import Pose
from hyperlora.mini.skin import shadow_of


def paint_beard(canvas: Canvas, person: Person, face: Anatomy, pose: Pose, mask: Mask) -> None:
    """Facial hair as soft fill and short strokes, leaving the lips free."""
    kind = person.facial_hair
    if kind == "none":
        return
    u = pose.unit
    d = Dice(f"hyperlora.mini beard {person.seed}")
    w, chin, mouth = person.face_width, face.chin, person.mouth_height
    colour = mixed(darker(person.hair, 0.82), shadow_of(person.skin), 0.15)
    above = points(
        (-0.36, mouth + 0.03),
        (-0.22, mouth - 0.13),
        (0, mouth - 0.15),
        (0.22, mouth - 0.13),
        (0.36, mouth + 0.03),
        (0.2, mouth - 0.05),
        (0, mouth - 0.075),
        (-0.2, mouth - 0.05),
    )
    areas: list[Points] = []
    if kind in ("moustache", "goatee", "short beard", "full beard"):
        areas.append(above)
    if kind == "goatee":
        areas.append(
            points(
                (-0.18, mouth + 0.17),
                (0.18, mouth + 0.17),
                (0.24, chin - 0.12),
                (0.12, chin + 0.03),
                (-0.12, chin + 0.03),
                (-0.24, chin - 0.12),
            )
        )
    if kind in ("short beard", "full beard", "stubble"):
        drop = 0.10 if kind == "full beard" else 0.015
        outside = (
            face.contour[4:29] * np.array([1.0, 1.0])
            + np.array([0, 1.0]) * drop * np.sin(np.linspace(0, np.pi, 25))[:, None]
        )
        inner = points(
            (0.86 * w, 0.42), (0.62 * w, 0.60), (0.40, mouth - 0.06), (0.34, mouth + 0.10), (0.16, mouth + 0.165)
        )
        line = np.concatenate([inner, points((0, mouth + 0.15)), mirror(inner)[::-1]])
        areas.append(np.concatenate([outside, line]))
        if kind == "stubble":
            areas.append(above)
    shapes = [pose.head(a, 0.0 if len(a) > 20 else None) for a in areas]
    strength = {"stubble": 0.26, "short beard": 0.72, "moustache": 0.8, "goatee": 0.78, "full beard": 0.88}[kind]
    soft = canvas.shape(shapes, blur=(0.045 if kind in ("stubble", "short beard") else 0.022) * u)
    clip = None if kind == "full beard" else mask
    canvas.paint(soft, colour, strength, clip=clip)
    if kind == "stubble":
        return
    hairs = []
    box = np.concatenate(shapes)
    low, high = box.min(0), box.max(0)
    centre = pose.head(points((0, mouth)))[0]
    for _ in range(240):
        at = np.array([d.between(float(low[0]), float(high[0])), d.between(float(low[1]), float(high[1]))])
        away = np.array([0.6 * (at[0] - centre[0]), max(0.25 * u, at[1] - centre[1] + 0.25 * u)])
        away = away / np.hypot(*away) * u * d.between(0.05, 0.10)
        hairs.append(np.stack([at, at + away * 0.6 + np.array([d.around(0, 0.015), 0]) * u, at + away]))
    area = canvas.shape(shapes, blur=0.02 * u)
    canvas.paint(
        canvas.strokes(hairs[::2], 0.012 * u), darker(colour, 0.62), 0.5, clip=area if clip is None else area & mask
    )
    canvas.paint(
        canvas.strokes(hairs[1::2], 0.010 * u),
        darker(person.hair, 1.3),
        0.4,
        clip=area if clip is None else area & mask,
    )
