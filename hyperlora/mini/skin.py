"""Skin: the head's and the neck's surface with light on it.

The face is a relief, a flattened ball with a nose, sockets, cheeks, lips and a chin added as soft bumps; its slopes
against the light give the tone, and the tone moves the skin from a warm shadow over its own colour to a pale light.
"""

from __future__ import annotations

import cv2
import numpy as np

from hyperlora.mini.anatomy import Anatomy
from hyperlora.mini.canvas import OVERSAMPLE, Canvas, Colour, Mask, Pixels, Radial, darker, mixed
from hyperlora.mini.curves import Points, ellipse, mirror, points, spline
from hyperlora.mini.people import Dice, Person
from hyperlora.mini.pose import Pose, outline_depth


def shadow_of(skin: Colour) -> Colour:
    """Skin in shade: darker and warmer, never grey."""
    r, g, b = skin
    return (r * 0.66, g * 0.52, b * 0.50)


def light_of(skin: Colour) -> Colour:
    """Skin in light: paler."""
    return mixed(darker(skin, 1.10), (255, 243, 226), 0.20)


class _Lit:
    """A paint: the relief's tone, worked out coarsely and enlarged by `factor` to oversampled pixels."""

    def __init__(self, tone: Pixels, skin: Colour, factor: float) -> None:
        self._factor = factor
        shade, base, light = (np.array(c, np.float32) for c in (shadow_of(skin), skin, light_of(skin)))
        t = tone[..., None]
        self._rgb: Pixels = base + (base - shade) * np.minimum(t, 0) + (light - base) * np.maximum(t, 0)

    def pixels(self, left: int, top: int, height: int, width: int) -> Pixels:
        """See `canvas.Paint`."""
        f = 1 / self._factor
        move = np.array([[f, 0, (left + 0.5) * f - 0.5], [0, f, (top + 0.5) * f - 0.5]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        window = cv2.warpAffine(self._rgb, move, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(np.moveaxis(window, -1, 0), np.float32)


def paint_neck(canvas: Canvas, person: Person, pose: Pose) -> None:
    """The neck and what a collar may leave bare, with the chin's shadow."""
    soft = 0.0 if person.presentation == "man" else 0.085
    half = 0.485 * person.face_width / 0.765 - soft
    right = points((half, 0.3), (half - 0.02, 1.0), (half + 0.02, 1.22), (half + 0.30, 1.42), (1.2, 1.62), (1.4, 2.3))
    outline = np.concatenate([spline(right), mirror(spline(right))[::-1]])
    neck = canvas.shape(pose.body(outline))
    canvas.paint(neck, mixed(person.skin, shadow_of(person.skin), 0.30))
    side = -np.sign(pose.light[0]) or 1.0
    band = pose.body(
        points((side * half * 1.1, 0.3), (side * half * 0.35, 0.3), (side * half * 0.35, 1.5), (side * half * 1.3, 1.5))
    )
    canvas.paint(canvas.shape(band, blur=0.10 * pose.unit), shadow_of(person.skin), 0.5, clip=neck)
    chest = pose.body(ellipse(-side * 0.25, 1.75, 0.75, 0.28))
    canvas.paint(canvas.shape(chest, blur=0.12 * pose.unit), light_of(person.skin), 0.35, clip=neck)
    for sign in (-1, 1):  # collar bones
        bone = pose.body(spline(points((sign * 0.10, 1.60), (sign * 0.45, 1.53), (sign * 0.85, 1.50))))
        canvas.paint(
            canvas.strokes([bone], 0.03 * pose.unit, blur=0.02 * pose.unit), shadow_of(person.skin), 0.35, clip=neck
        )
    chin = person.face_length
    cast = pose.head(ellipse(-pose.light[0] * 0.25, chin - 0.06, 0.60, 0.40), outline_depth(np.array([[0.0, chin]])))
    canvas.paint(
        canvas.shape(cast, blur=0.07 * pose.unit),
        mixed(shadow_of(person.skin), shadow_of(shadow_of(person.skin)), 0.4),
        0.85,
        clip=neck,
    )


def paint_head(canvas: Canvas, person: Person, face: Anatomy, pose: Pose) -> Mask:
    """Ears and face; answers with the face's mask, which later layers stay within."""
    _paint_ears(canvas, person, pose)
    mask = canvas.shape(pose.head(face.head, outline_depth(face.head)))
    canvas.paint(mask, _Lit(_tone(canvas, person, face, pose), person.skin, 2 * OVERSAMPLE))
    _blush(canvas, person, pose, mask)
    _marks(canvas, person, pose, mask)
    return mask


def _tone(canvas: Canvas, person: Person, face: Anatomy, pose: Pose) -> Pixels:
    """-1 (shade) to 1 (light) for the whole canvas at half the picture's size."""
    coarse = canvas.size // 2
    grid = (np.stack(np.meshgrid(np.arange(coarse), np.arange(coarse)), -1) + 0.5) * (canvas.size / coarse)
    lying = pose.flat(grid.astype(np.float32).astype(np.float64)).astype(np.float32)
    x, y = lying[..., 0], lying[..., 1]
    x = x - np.float32(0.40 * np.sin(pose.turn)) * np.clip(0.5 + 0.5 * y, 0, 1)
    w = person.face_width * 1.10
    ball = np.clip(1 - np.abs(x / w) ** 2.6 - np.abs((y - 0.02) / 1.28) ** 2.8, 0.015, None)
    height = 0.72 * ball**0.5

    def bump(px: float, py: float, wide: float, tall: float, amount: float, z: float | None = None) -> None:
        nonlocal height
        cx, cy = pose.turned(px, py, z)
        cx -= 0.40 * np.sin(pose.turn) * min(1.0, max(0.0, 0.5 + 0.5 * cy))
        height = height + np.float32(amount) * np.exp(-(((x - cx) / wide) ** 2) - ((y - cy) / tall) ** 2)

    tip_x, tip_y = face.nose_tip
    half = face.nose_half
    for part in np.linspace(0, 1, 4):  # the bridge grows towards the tip
        bump(
            0,
            -0.02 + part * (tip_y - 0.05),
            0.085 + 0.02 * part,
            0.13,
            (0.025 + 0.035 * person.nose_bridge) + 0.055 * part,
            0.62 + 0.2 * part,
        )
    bump(tip_x, tip_y, 0.085 + 0.05 * person.nose_tip, 0.085, 0.12, 0.86)
    for side in (-1.0, 1.0):
        bump(side * half * 0.72, tip_y + 0.03, 0.06, 0.06, 0.055, 0.68)
        bump(side * person.eye_distance * 0.98, -0.02, 0.20, 0.115, -0.085)
        bump(side * person.eye_distance * 0.55, -0.06, 0.09, 0.12, -0.05)
        bump(side * person.eye_distance, -0.26, 0.26, 0.075, 0.035)
        bump(
            side * 0.47,
            0.30 - 1.2 * max(0.0, face.mood.corners),
            0.19,
            0.17,
            0.03 + 0.05 * person.cheek + 0.9 * max(0.0, face.mood.corners),
        )
        bump(side * (person.mouth_width + 0.05), person.mouth_height, 0.10, 0.11, -0.022)
        bump(side * 0.68, -0.36, 0.14, 0.22, -0.04)
    mouth = person.mouth_height
    bump(0, mouth, 0.24, 0.16, 0.06)
    bump(0, mouth - 0.15, 0.04, 0.06, -0.02)
    bump(0, mouth + 0.17, 0.17, 0.055, -0.055)
    bump(0, face.chin - 0.10, 0.16, 0.10, 0.07 * (0.6 + person.chin))
    height = height.astype(np.float32)
    step = 1 / (pose.unit * coarse / canvas.size)
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125 / step)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125 / step)
    c, s = np.cos(pose.tilt), np.sin(pose.tilt)
    lx, ly, lz = pose.light[0] * c + pose.light[1] * s, -pose.light[0] * s + pose.light[1] * c, pose.light[2]
    lambert = (lz - dx * lx - dy * ly) / np.sqrt(1 + dx * dx + dy * dy)
    tone = np.tanh((lambert - 0.62) * 1.9) * pose.strength
    tone = tone - 0.18 * np.clip((y - 0.62) / 0.5, 0, 1)  # less light reaches the chin
    return np.asarray(cv2.GaussianBlur(np.clip(tone, -1, 1).astype(np.float32), (0, 0), 0.6), np.float32)


def _paint_ears(canvas: Canvas, person: Person, pose: Pose) -> None:
    s = person.ear_size
    for side in (-1.0, 1.0):
        w = person.face_width
        outer = points(
            (0.93 * w, -0.16),
            (w + 0.05 * s, -0.20 * s),
            (w + 0.125 * s, -0.12),
            (w + 0.12 * s, 0.08),
            (w + 0.075 * s, 0.25 * s),
            (w + 0.02, 0.33 * s),
            (0.93 * w, 0.28),
        )
        outer[:, 0] *= side
        ear = canvas.shape(pose.head(spline(outer, closed=True), -0.15))
        lit = pose.light[0] * side > 0
        canvas.paint(ear, mixed(person.skin, shadow_of(person.skin), 0.18 if lit else 0.5))
        inner = points((w + 0.035, -0.12), (w + 0.085 * s, -0.10), (w + 0.08 * s, 0.06), (w + 0.03, 0.17 * s))
        inner[:, 0] *= side
        line = canvas.strokes([pose.head(spline(inner), -0.15)], 0.035 * pose.unit, blur=0.012 * pose.unit)
        canvas.paint(line, shadow_of(shadow_of(person.skin)), 0.45, clip=ear)


def _blush(canvas: Canvas, person: Person, pose: Pose, mask: Mask) -> None:
    rose = mixed(person.skin, (226, 84, 84), 0.55)
    for side in (-1.0, 1.0):
        x, y = pose.head(points((side * 0.47, 0.34)))[0]
        glow = canvas.shape(ellipse(float(x), float(y), 0.2 * pose.unit, 0.15 * pose.unit), blur=0.09 * pose.unit)
        canvas.paint(glow, rose, 0.55 * person.blush, clip=mask)
    x, y = pose.head(points((0, person.nose_length - 0.06)), 0.8)[0]
    nose = canvas.shape(ellipse(float(x), float(y), 0.10 * pose.unit, 0.08 * pose.unit), blur=0.05 * pose.unit)
    canvas.paint(nose, rose, 0.25 * person.blush + 0.08, clip=mask)


def _marks(canvas: Canvas, person: Person, pose: Pose, mask: Mask) -> None:
    """Freckles, a mole, lines of age."""
    dark = shadow_of(shadow_of(person.skin))
    if person.freckles:
        d = Dice(f"hyperlora.mini freckles {person.seed}")
        spots = [(d.around(0, 0.58), 0.27 + d.around(0, 0.2)) for _ in range(int(28 + 40 * person.freckles))]
        at = pose.head(np.array(spots))
        dots = [
            ellipse(float(x), float(y), r, r, count=8)
            for (x, y), r in zip(at, (pose.unit * d.between(0.007, 0.014) for _ in spots), strict=True)
        ]
        canvas.paint(canvas.shape(dots, blur=0.004 * pose.unit), (150, 84, 50), 0.55, clip=mask)
    if person.mole:
        x, y = pose.head(points(person.mole))[0]
        canvas.paint(
            canvas.shape(ellipse(float(x), float(y), 0.021 * pose.unit, 0.02 * pose.unit)),
            mixed(dark, (60, 34, 28), 0.6),
            0.9,
            clip=mask,
        )
    if person.wrinkles:
        lines: list[Points] = []
        for side in (-1.0, 1.0):
            fold = points(
                (side * (person.nose_width + 0.06), person.nose_length - 0.06),
                (side * 0.33, 0.60),
                (side * 0.37, person.mouth_height + 0.06),
            )
            lines.append(pose.head(spline(fold)))
            bag = points(
                (side * (person.eye_distance - 0.14), 0.11),
                (side * person.eye_distance, 0.17),
                (side * (person.eye_distance + 0.16), 0.12),
            )
            lines.append(pose.head(spline(bag)))
            for k in (-1, 0, 1):
                foot = points(
                    (side * (person.eye_distance + 0.22), 0.02 + 0.03 * k),
                    (side * (person.eye_distance + 0.31), 0.02 + 0.065 * k),
                )
                lines.append(pose.head(foot))
        for k, level in enumerate((-0.45, -0.55)):
            lines.append(
                pose.head(
                    spline(
                        points(
                            (-0.30 + 0.05 * k, level + 0.02),
                            (-0.1, level - 0.01),
                            (0.1, level - 0.01),
                            (0.30 - 0.05 * k, level + 0.02),
                        )
                    )
                )
            )
        canvas.paint(
            canvas.strokes(lines, 0.020 * pose.unit, blur=0.016 * pose.unit), dark, 0.42 * person.wrinkles, clip=mask
        )


def sheen(canvas: Canvas, pose: Pose, mask: Mask) -> None:
    """A soft highlight on the lit side of forehead and cheek."""
    side = float(np.sign(pose.light[0])) or 1.0
    for x, y, rx, ry, amount in ((side * 0.26, -0.46, 0.24, 0.12, 0.16), (side * 0.44, 0.22, 0.12, 0.08, 0.16)):
        cx, cy = pose.head(points((x, y)))[0]
        spot = canvas.shape(ellipse(float(cx), float(cy), rx * pose.unit, ry * pose.unit), blur=0.06 * pose.unit)
        canvas.paint(
            spot,
            Radial((float(cx), float(cy)), rx * pose.unit, (255, 244, 228), (255, 244, 228)),
            amount,
            "screen",
            clip=mask,
        )
