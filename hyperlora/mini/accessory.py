"""Things worn on the head or the neck."""

from __future__ import annotations

import math

import numpy as np

from hyperlora.mini.anatomy import Anatomy
from hyperlora.mini.attributes import Attributes
from hyperlora.mini.canvas import Canvas, Colour, Linear, darker
from hyperlora.mini.curves import ellipse, mirror, points, spline
from hyperlora.mini.hat import paint_beanie, paint_straw_hat
from hyperlora.mini.people import Dice, Person
from hyperlora.mini.pose import Pose

_BRIGHT: tuple[Colour, ...] = (
    (196, 62, 66),
    (58, 116, 160),
    (226, 172, 70),
    (86, 140, 100),
    (138, 92, 160),
    (70, 72, 84),
)


def paint_accessory(
    canvas: Canvas, person: Person, face: Anatomy, attributes: Attributes, pose: Pose, seed: int
) -> None:
    """Draw the accessory over everything else."""
    d = Dice(f"hyperlora.mini accessory {seed}")
    colour = d.pick(_BRIGHT)
    name = attributes.accessory
    if name in ("glasses", "round glasses", "sunglasses"):
        _glasses(canvas, person, pose, name)
    elif name == "beanie":
        paint_beanie(canvas, person, pose, colour)
    elif name == "straw hat":
        paint_straw_hat(canvas, person, pose, colour)
    elif name == "headphones":
        _headphones(canvas, person, pose, colour)
    elif name == "earrings":
        _earrings(canvas, person, pose)
    elif name == "scarf":
        _scarf(canvas, pose, colour)
    elif name == "flower":
        _flower(canvas, person, pose, d)


def _glasses(canvas: Canvas, person: Person, pose: Pose, name: str) -> None:
    u = pose.unit
    frame: Colour = {"glasses": (44, 38, 44), "round glasses": (168, 126, 62), "sunglasses": (30, 28, 32)}[name]
    thick = 0.030 if name == "round glasses" else 0.046
    power = 2.0 if name == "round glasses" else 3.4
    r = 0.245 if name == "round glasses" else 0.265
    t = np.linspace(0, 2 * math.pi, 41)
    loop = np.stack(
        [
            r * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power),
            0.84 * r * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power),
        ],
        1,
    )
    if name == "round glasses":
        loop[:, 1] *= 1.12
    rims = [pose.head(loop + np.array([s * person.eye_distance * 1.03, 0.015]), 0.62) for s in (-1.0, 1.0)]
    for rim in rims:
        lens = canvas.shape(rim)
        box = rim.min(0), rim.max(0)
        if name == "sunglasses":
            canvas.paint(lens, Linear((0, float(box[0][1])), (30, 26, 32), (0, float(box[1][1])), (92, 74, 78)), 0.90)
        else:
            canvas.paint(lens, (214, 232, 244), 0.10)
        w = box[1] - box[0]
        gleam = np.array([[0.18, 0.75], [0.48, 0.05], [0.62, 0.05], [0.30, 0.85]]) * w + box[0]
        canvas.paint(canvas.shape(gleam, blur=0.012 * u), (255, 255, 255), 0.20, clip=lens)
        canvas.paint(canvas.strokes([rim + np.array([0, 0.03 * u])], thick * u, blur=0.02 * u), (60, 34, 30), 0.25)
    inner = person.eye_distance * 1.03 - r
    bridge = pose.head(spline(points((-inner, -0.02), (0, -0.065), (inner, -0.02))), 0.66)
    arms = []
    for s in (-1.0, 1.0):
        arms.append(
            pose.head(
                points((s * (person.eye_distance * 1.03 + r), -0.03), (s * (person.face_width + 0.02), -0.06)),
                np.array([0.60, -0.05]),
            )
        )
    canvas.paint(canvas.strokes([*rims, bridge, *arms], thick * u), frame)
    shine = [rim[24:32] - np.array([0, 0.008 * u]) for rim in rims]
    canvas.paint(canvas.strokes(shine, 0.3 * thick * u), darker(frame, 2.4), 0.6)


def _headphones(canvas: Canvas, person: Person, pose: Pose, colour: Colour) -> None:
    u, w = pose.unit, person.face_width
    lift = 0.16 + 0.08 * person.hair_volume
    a = np.linspace(-1.45, 1.45, 40)
    arc = np.stack([(w + lift) * np.sin(a), -0.18 - (0.92 + lift) * np.cos(a)], 1)
    canvas.paint(canvas.strokes([pose.head(arc, 0.0)], 0.12 * u), darker(colour, 0.55))
    canvas.paint(
        canvas.strokes([pose.head(arc * np.array([1.0, 1.0]) + np.array([0, -0.02]), 0.0)], 0.05 * u),
        darker(colour, 1.1),
    )
    for s in (-1.0, 1.0):
        x, y = (float(v) for v in pose.head(points((s * (w + 0.10), 0.06)), -0.05)[0])
        canvas.paint(
            canvas.shape(ellipse(x - s * 0.05 * u, y + 0.02 * u, 0.16 * u, 0.29 * u), blur=0.02 * u), (40, 30, 32), 0.6
        )
        canvas.paint(canvas.shape(ellipse(x - s * 0.03 * u, y, 0.14 * u, 0.28 * u)), (52, 48, 56))
        canvas.paint(
            canvas.shape(ellipse(x + s * 0.03 * u, y, 0.13 * u, 0.25 * u)),
            Linear((x, y - 0.25 * u), darker(colour, 1.2), (x, y + 0.25 * u), darker(colour, 0.7)),
        )
        canvas.paint(
            canvas.shape(ellipse(x + s * 0.05 * u, y - 0.08 * u, 0.05 * u, 0.09 * u), blur=0.02 * u),
            (255, 255, 255),
            0.35,
        )


def _earrings(canvas: Canvas, person: Person, pose: Pose) -> None:
    u = pose.unit
    for s in (-1.0, 1.0):
        x, y = (
            float(v) for v in pose.head(points((s * (person.face_width + 0.045), 0.36 * person.ear_size)), -0.05)[0]
        )
        ring = ellipse(x, y + 0.12 * u, 0.085 * u, 0.11 * u)
        canvas.paint(canvas.strokes([np.concatenate([ring, ring[:1]])], 0.042 * u), (204, 152, 58))
        canvas.paint(canvas.strokes([ring[14:22]], 0.02 * u), (255, 236, 170), 0.9)
        canvas.paint(canvas.shape(ellipse(x, y, 0.032 * u, 0.032 * u)), (244, 214, 130))


def _scarf(canvas: Canvas, pose: Pose, colour: Colour) -> None:
    u = pose.unit
    roll = spline(
        points(
            (-0.72, 1.22),
            (-0.30, 1.34),
            (0, 1.37),
            (0.30, 1.34),
            (0.72, 1.22),
            (0.84, 1.45),
            (0.55, 1.72),
            (0, 1.82),
            (-0.55, 1.72),
            (-0.84, 1.45),
        ),
        closed=True,
    )
    canvas.paint(canvas.shape(pose.body(roll + np.array([0, 0.07])), blur=0.04 * u), (30, 20, 24), 0.5)
    tail = points((0.16, 1.62), (0.52, 1.58), (0.66, 2.5), (0.24, 2.55))
    x, y = (float(v) for v in pose.body(points((0.0, 1.2)))[0])
    for outline, k in ((tail, 0.88), (roll, 1.0)):
        cloth = canvas.shape(pose.body(outline))
        canvas.paint(cloth, Linear((x, y), darker(colour, 1.1 * k), (x, y + 0.7 * u), darker(colour, 0.7 * k)))
        if outline is tail:
            bars = [pose.body(points((0, v), (0.9, v - 0.03))) for v in np.linspace(1.9, 2.5, 5)]
            canvas.paint(canvas.strokes(bars, 0.05 * u), (246, 238, 222), 0.75, clip=cloth)
        else:
            lines = [
                pose.body(
                    spline(points((-0.8, 1.32 + k2), (-0.3, 1.48 + k2), (0.3, 1.47 + k2 * 0.8), (0.8, 1.32 + k2 * 0.5)))
                )
                for k2 in (0.02, 0.12, 0.22)
            ]
            canvas.paint(canvas.strokes(lines, 0.03 * u, blur=0.015 * u), darker(colour, 0.5), 0.6, clip=cloth)


def _flower(canvas: Canvas, person: Person, pose: Pose, d: Dice) -> None:
    u = pose.unit
    side = math.copysign(1.0, person.hair_part)
    x, y = (float(v) for v in pose.head(points((side * (person.face_width + 0.02), -0.46)), 0.15)[0])
    petal = d.pick([(238, 96, 130), (252, 206, 92), (248, 244, 250), (228, 92, 76)])
    canvas.paint(canvas.shape(ellipse(x, y + 0.03 * u, 0.2 * u, 0.2 * u), blur=0.03 * u), (40, 20, 24), 0.4)
    for k in range(6):
        a = k * math.pi / 3 + 0.3
        leaf = canvas.shape(ellipse(x + 0.13 * u * math.cos(a), y + 0.13 * u * math.sin(a), 0.12 * u, 0.085 * u, a))
        canvas.paint(leaf, Linear((x, y - 0.2 * u), darker(petal, 1.08), (x, y + 0.25 * u), darker(petal, 0.78)))
    canvas.paint(canvas.shape(ellipse(x, y, 0.07 * u, 0.07 * u)), (250, 190, 60))
    canvas.paint(
        canvas.shape(mirror(ellipse(-x, y + 0.015 * u, 0.04 * u, 0.035 * u)), blur=0.01 * u), (200, 120, 40), 0.7
    )
