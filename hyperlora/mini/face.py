"""The features on the skin: eyes, brows, nose, mouth."""

from __future__ import annotations

import math

import numpy as np

from hyperlora.mini.anatomy import Anatomy, Eye
from hyperlora.mini.canvas import Canvas, Colour, Linear, Mask, Radial, darker, mixed
from hyperlora.mini.curves import Points, between, ellipse, points, spline, tapered
from hyperlora.mini.people import Dice, Person
from hyperlora.mini.pose import Pose
from hyperlora.mini.skin import shadow_of


def paint_features(canvas: Canvas, person: Person, face: Anatomy, pose: Pose, mask: Mask) -> None:
    """Everything between forehead and chin, inside the face's mask."""
    for eye, side in ((face.left_eye, -1.0), (face.right_eye, 1.0)):
        _paint_eye(canvas, person, eye, side, pose, mask)
    _paint_nose(canvas, person, face, pose, mask)
    _paint_mouth(canvas, person, face, pose, mask)
    for brow in (face.left_brow, face.right_brow):
        _paint_brow(canvas, person, brow, pose, mask)


def _paint_eye(canvas: Canvas, person: Person, eye: Eye, side: float, pose: Pose, mask: Mask) -> None:
    u = pose.unit
    upper, lower, fold = pose.head(eye.upper), pose.head(eye.lower), pose.head(eye.fold)
    opening = canvas.shape(np.concatenate([upper, lower[::-1]]))
    x, y = (float(v) for v in pose.head(points(eye.centre))[0])
    dark_skin = shadow_of(person.skin)
    # the lid's own shade above and below, as a soft ring
    ring = canvas.shape(np.concatenate([upper, lower[::-1]]), blur=0.035 * u)
    canvas.paint(ring, dark_skin, 0.55, clip=mask)
    canvas.paint(opening, Radial((x, y), 0.2 * u, (250, 247, 243), (214, 203, 200)))
    iris_x = x + pose.gaze * 0.05 * u + 0.04 * u * math.sin(pose.turn)
    r = eye.radius * u
    iris = canvas.shape(ellipse(iris_x, y, r, r))
    canvas.paint(
        iris,
        Radial(
            (iris_x, y + 0.45 * r),
            1.35 * r,
            mixed(darker(person.iris, 1.35), (255, 240, 210), 0.12),
            darker(person.iris, 0.6),
        ),
        clip=opening,
    )
    rim = canvas.strokes(
        [np.concatenate([e := ellipse(iris_x, y, 0.95 * r, 0.95 * r), e[:1]])], 0.022 * u, blur=0.008 * u
    )
    canvas.paint(rim, darker(person.iris, 0.28), 0.8, clip=opening)
    rays = [
        np.array(
            [
                [iris_x + 0.4 * r * math.cos(a), y + 0.4 * r * math.sin(a)],
                [iris_x + 0.86 * r * math.cos(a), y + 0.86 * r * math.sin(a)],
            ]
        )
        for a in np.linspace(0, 2 * math.pi, 15)[:-1]
    ]
    canvas.paint(
        canvas.strokes(rays, 0.008 * u, blur=0.004 * u), mixed(person.iris, (255, 236, 190), 0.5), 0.35, clip=opening
    )
    canvas.paint(canvas.shape(ellipse(iris_x, y, 0.45 * r, 0.45 * r)), (18, 14, 16), clip=opening)
    # the upper lid's shadow on the ball
    band = np.concatenate([upper, (upper + np.array([0, 0.05 * u]))[::-1]])
    canvas.paint(canvas.shape(band, blur=0.016 * u), (66, 44, 46), 0.5, clip=opening)
    glint_x = iris_x + 0.36 * r * float(np.sign(pose.light[0]) or 1.0)
    canvas.paint(canvas.shape(ellipse(glint_x, y - 0.34 * r, 0.24 * r, 0.27 * r)), (255, 255, 255), 0.95, clip=opening)
    canvas.paint(
        canvas.shape(ellipse(2 * iris_x - glint_x, y + 0.45 * r, 0.15 * r, 0.11 * r), blur=0.006 * u),
        (255, 255, 255),
        0.45,
        clip=opening,
    )
    corner = upper[-1] if side < 0 else upper[0]
    tear = canvas.shape(
        ellipse(float(corner[0]) + side * 0.014 * u, float(corner[1]), 0.022 * u, 0.016 * u), blur=0.006 * u
    )
    canvas.paint(tear, mixed(person.skin, (206, 96, 96), 0.55), 0.85, clip=opening)
    _paint_lids(canvas, person, side, upper, lower, fold, u, mask)


def _paint_lids(
    canvas: Canvas, person: Person, side: float, upper: Points, lower: Points, fold: Points, u: float, mask: Mask
) -> None:
    dark = mixed(darker(person.hair, 0.35), (34, 22, 22), 0.65)
    thick = (0.020 + 0.026 * person.lashes) * u
    widths = (0.3 * thick, 0.7 * thick, thick, 1.15 * thick, 0.9 * thick)
    canvas.paint(canvas.shape(tapered(upper, widths if side > 0 else widths[::-1])), dark, 0.95)
    outer = upper[-1] if side > 0 else upper[0]
    if person.lashes > 0.5:
        wing = spline(
            np.stack(
                [
                    upper[-5] if side > 0 else upper[4],
                    outer,
                    outer + np.array([side * 0.052, -0.040]) * u * person.lashes,
                ]
            )
        )
        canvas.paint(canvas.shape(tapered(wing, (thick, 0.8 * thick, 0.1 * thick))), dark, 0.9)
        hairs = []
        for k in (0.45, 0.58, 0.70, 0.81, 0.91):
            base = upper[int((k if side > 0 else 1 - k) * (len(upper) - 1))]
            tip = base + np.array([side * (0.008 + 0.05 * (k - 0.4)), -0.055]) * u * person.lashes
            hairs.append(tapered(np.linspace(base, tip, 5), (0.016 * u, 0.003 * u)))
        canvas.paint(canvas.shape(hairs), dark, 0.75)
    crease = canvas.shape(tapered(fold, (0.004 * u, 0.018 * u, 0.018 * u, 0.004 * u)), blur=0.006 * u)
    canvas.paint(crease, shadow_of(shadow_of(person.skin)), 0.7, clip=mask)
    below = canvas.strokes([lower[2:-1]], 0.012 * u, blur=0.004 * u)
    canvas.paint(below, mixed(dark, shadow_of(person.skin), 0.45), 0.55 + 0.25 * person.lashes, clip=mask)


def _paint_brow(canvas: Canvas, person: Person, brow: tuple[Points, Points], pose: Pose, mask: Mask) -> None:
    u = pose.unit
    upper, lower = pose.head(spline(brow[0], samples=4)), pose.head(spline(brow[1], samples=4))
    colour = mixed(darker(person.hair, 0.62), shadow_of(person.skin), 0.12)
    if person.hair_colour in ("blond", "ash blond", "white"):
        colour = mixed(darker(person.hair, 0.66), shadow_of(person.skin), 0.35)
    shape = np.concatenate([upper, lower[::-1]])
    canvas.paint(canvas.shape(shape, blur=0.012 * u), colour, 0.72, clip=mask)
    d = Dice(f"hyperlora.mini brow {person.seed}")
    hairs = []
    for t in np.linspace(0.04, 0.97, 22):
        k = t * (len(upper) - 1)
        i = int(k)
        low = between(lower[i : i + 1], lower[min(i + 1, len(lower) - 1)][None], k - i)[0]
        top = between(upper[i : i + 1], upper[min(i + 1, len(upper) - 1)][None], k - i)[0]
        along = upper[max(i - 1, 0)] - upper[min(i + 1, len(upper) - 1)]  # towards the outer end
        along = along / max(float(np.hypot(*along)), 1e-6)
        start = low + (top - low) * d.between(-0.05, 0.35)
        end = low + (top - low) * d.between(0.75, 1.12) + along * 0.055 * u
        hairs.append(tapered(np.linspace(start, end, 4), (0.017 * u, 0.004 * u)))
    canvas.paint(canvas.shape(hairs), darker(colour, 0.82), 0.62, clip=mask)


def _paint_nose(canvas: Canvas, person: Person, face: Anatomy, pose: Pose, mask: Mask) -> None:
    """The relief already models it: here come nostrils, wings and the light on bridge and tip."""
    u = pose.unit
    dark = shadow_of(shadow_of(person.skin))
    _, tip = face.nose_tip
    half = face.nose_half
    base = tip + 0.085
    under = pose.head(ellipse(0, base + 0.02, 0.85 * half, 0.035), 0.62)
    canvas.paint(canvas.shape(under, blur=0.03 * u), shadow_of(person.skin), 0.75, clip=mask)
    holes, wings = [], []
    for side in (-1.0, 1.0):
        holes.append(pose.head(ellipse(side * half * 0.45, base - 0.006, 0.20 * half, 0.015, side * 0.30), 0.68))
        wing = points(
            (side * half * 0.86, tip - 0.055),
            (side * half * 1.04, tip + 0.01),
            (side * half * 0.98, tip + 0.06),
            (side * half * 0.74, base),
        )
        wings.append(tapered(pose.head(spline(wing), 0.60), (0.003 * u, 0.018 * u, 0.024 * u, 0.010 * u)))
    canvas.paint(canvas.shape(wings, blur=0.010 * u), dark, 0.62, clip=mask)
    canvas.paint(canvas.shape(holes, blur=0.007 * u), darker(dark, 0.62), 0.72, clip=mask)
    light = float(np.sign(pose.light[0])) or 1.0
    bridge = pose.head(np.linspace([light * 0.018, 0.02], [light * 0.02, tip - 0.05], 12), np.linspace(0.64, 0.85, 12))
    canvas.paint(
        canvas.shape(tapered(bridge, (0.02 * u, 0.05 * u, 0.06 * u)), blur=0.016 * u),
        (255, 244, 230),
        0.22,
        "screen",
        clip=mask,
    )
    glow = pose.head(ellipse(light * 0.03, tip - 0.015, 0.035, 0.028), 0.88)
    canvas.paint(canvas.shape(glow, blur=0.012 * u), (255, 248, 238), 0.42, "screen", clip=mask)


def _paint_mouth(canvas: Canvas, person: Person, face: Anatomy, pose: Pose, mask: Mask) -> None:
    u = pose.unit
    m = face.mouth
    outer_up, inner_up, inner_low, outer_low = (
        pose.head(c, _lip_depth(c)) for c in (m.upper_outer, m.upper_inner, m.lower_inner, m.lower_outer)
    )
    lips: Colour = person.lips
    top = canvas.shape(np.concatenate([outer_up, inner_up[::-1]]))
    low = canvas.shape(np.concatenate([inner_low, outer_low[::-1]]))
    whole = canvas.shape(np.concatenate([outer_up, outer_low[::-1]]), blur=0.014 * u)
    canvas.paint(whole, mixed(person.skin, lips, 0.55), 0.6, clip=mask)
    if face.mood.gap:
        opening = canvas.shape(np.concatenate([inner_up, inner_low[::-1]]))
        canvas.paint(opening, (84, 30, 34))
        floor = inner_low[len(inner_low) // 2]
        tongue = ellipse(float(floor[0]), float(floor[1]), 0.16 * u, 0.05 * u)
        canvas.paint(canvas.shape(tongue, blur=0.015 * u), (190, 92, 92), 0.8, clip=opening)
        if face.mood.teeth:
            drop = np.array([0.0, 0.66 * face.mood.gap * u])
            teeth = canvas.shape(np.concatenate([inner_up, (inner_up + drop)[::-1]])) & opening
            canvas.paint(teeth, (250, 247, 240))
            middle = inner_up[len(inner_up) // 2]
            gaps = [
                np.stack([middle + np.array([dx * u, 0]), middle + np.array([dx * u, 0.09 * u])])
                for dx in (-0.135, -0.07, 0, 0.07, 0.135)
            ]
            canvas.paint(canvas.strokes(gaps, 0.008 * u, blur=0.004 * u), (196, 186, 180), 0.6, clip=teeth)
        shade = canvas.shape(np.concatenate([inner_up, (inner_up + np.array([0, 0.035 * u]))[::-1]]), blur=0.012 * u)
        canvas.paint(shade, (70, 30, 34), 0.5, clip=opening)
    y0, y1 = float(outer_up[:, 1].min()), float(outer_low[:, 1].max())
    x = float(outer_up[len(outer_up) // 2, 0])
    canvas.paint(
        top,
        Linear(
            (x, y0),
            mixed(lips, shadow_of(lips), 0.18),
            (x, float(inner_up[len(inner_up) // 2, 1])),
            mixed(lips, shadow_of(lips), 0.62),
        ),
        0.92,
    )
    canvas.paint(
        low,
        Linear(
            (x, float(inner_low[len(inner_low) // 2, 1])),
            mixed(lips, shadow_of(lips), 0.25),
            (x, y1),
            darker(lips, 1.04),
        ),
        0.92,
    )
    gloss = ellipse(
        x + pose.light[0] * 0.12 * u, 0.45 * float(inner_low[len(inner_low) // 2, 1]) + 0.55 * y1, 0.10 * u, 0.016 * u
    )
    canvas.paint(canvas.shape(gloss, blur=0.012 * u), (255, 236, 230), 0.42, "screen", clip=low)
    deep = darker(shadow_of(shadow_of(lips)), 0.72)
    if not face.mood.gap:
        canvas.paint(
            canvas.shape(tapered(inner_up, (0.012 * u, 0.020 * u, 0.026 * u, 0.020 * u, 0.012 * u)), blur=0.004 * u),
            deep,
            0.9,
            clip=mask,
        )
    for end, side in ((inner_up[0], -1.0), (inner_up[-1], 1.0)):
        dot = ellipse(float(end[0]) + side * 0.006 * u, float(end[1]), 0.026 * u, 0.022 * u)
        canvas.paint(canvas.shape(dot, blur=0.014 * u), deep, 0.6, clip=mask)
    shade_low = ellipse(x, y1 + 0.035 * u, 0.15 * u, 0.022 * u)
    canvas.paint(canvas.shape(shade_low, blur=0.022 * u), shadow_of(person.skin), 0.6, clip=mask)


def _lip_depth(curve: Points) -> Points:
    depth: Points = 0.60 - 0.9 * curve[:, 0] ** 2
    return depth
