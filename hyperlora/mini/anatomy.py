"""The curves of a face in head units: outline, brows, eyes, nose, mouth, with the expression in them.

Left and right are the viewer's. Everything drawn and every landmark is taken from here, so they cannot disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hyperlora.mini.curves import Points, mirror, points, resample, spline
from hyperlora.mini.people import Person


@dataclass(frozen=True)
class Mood:
    """What an expression does to a neutral face, in head units or as factors."""

    corners: float = 0.0  # mouth corners up
    wide: float = 1.0
    gap: float = 0.0  # how far the lips are apart
    teeth: bool = False
    lids: float = 1.0  # how far the eyes are open
    lower_lid: float = 0.0  # how far the cheeks push it up
    brows: float = 0.0  # up
    frown: float = 0.0  # inner brow ends down
    jaw: float = 0.0  # chin down


MOODS = {
    "neutral": Mood(corners=0.022),
    "smiling": Mood(corners=0.062, wide=1.16, lids=0.94, lower_lid=0.12, brows=0.012),
    "laughing": Mood(corners=0.075, wide=1.22, gap=0.135, teeth=True, lids=0.78, lower_lid=0.24, brows=0.03, jaw=0.03),
    "serious": Mood(corners=-0.032, wide=0.95, lids=0.88, brows=-0.026, frown=0.05),
    "surprised": Mood(corners=-0.01, wide=0.80, gap=0.15, lids=1.26, brows=0.095, jaw=0.06),
}


@dataclass(frozen=True)
class Eye:
    """One eye: lids from the outer (left of the left eye) corner to the other, iris."""

    upper: Points
    lower: Points
    fold: Points
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Anatomy:
    """All curves of one face with one expression."""

    contour: Points  # (33, 2) from the left temple over the chin to the right temple
    head: Points  # closed outline with the skull
    left_eye: Eye
    right_eye: Eye
    left_brow: tuple[Points, Points]  # upper and lower edge, outer to inner end
    right_brow: tuple[Points, Points]
    mouth: Mouth
    nose_tip: tuple[float, float]
    nose_half: float
    chin: float
    mood: Mood


@dataclass(frozen=True)
class Mouth:
    """Four edges, each from the left corner to the right one."""

    upper_outer: Points
    upper_inner: Points
    lower_inner: Points
    lower_outer: Points


def anatomy(person: Person, expression: str) -> Anatomy:
    """The curves of this person with this expression."""
    mood = MOODS[expression]
    chin = person.face_length + mood.jaw
    half = _half_contour(person, chin)
    contour = np.concatenate([mirror(half), half[-2::-1]])
    w = person.face_width
    skull = points((0.99 * w, -0.3), (0.94 * w, -0.62), (0.74 * w, -0.90), (0.40 * w, -1.05), (0, -1.09))
    over = spline(skull, samples=6)
    head = np.concatenate([contour, over[:-1], mirror(over)[::-1]])
    right_eye = _eye(person, mood)
    right_brow = _brow(person, mood)
    return Anatomy(
        contour=contour,
        head=head,
        left_eye=Eye(
            upper=mirror(right_eye.upper)[::-1],
            lower=mirror(right_eye.lower)[::-1],
            fold=mirror(right_eye.fold)[::-1],
            centre=(-right_eye.centre[0], right_eye.centre[1]),
            radius=right_eye.radius,
        ),
        right_eye=right_eye,
        left_brow=(mirror(right_brow[0]), mirror(right_brow[1])),
        right_brow=right_brow,
        mouth=_mouth(person, mood),
        nose_tip=(0.0, person.nose_length - 0.08),
        nose_half=person.nose_width,
        chin=chin,
        mood=mood,
    )


def _half_contour(person: Person, chin: float) -> Points:
    """(17, 2) from the right temple down to the chin."""
    w, length = person.face_width, chin
    cheek = 1.0 + 0.02 * (person.cheek - 0.5)
    control = points(
        (0.985 * w, -0.10),
        (1.00 * w * cheek, 0.14),
        ((0.84 + 0.15 * person.jaw) * w * cheek, 0.40),
        ((0.08 + 0.98 * person.jaw) * w, 0.66 * length),
        ((0.42 * person.jaw + 0.45 * person.chin + 0.06) * w, 0.86 * length),
        ((0.55 * person.chin + 0.07) * w, 0.975 * length),
        (0, length),
    )
    # the spline ends level at the chin, as if the curve went on to the mirrored side
    curve = spline(np.concatenate([control, [[-control[-2, 0], control[-2, 1]]]]), samples=10)[:-10]
    return resample(curve, 17)


def _eye(person: Person, mood: Mood) -> Eye:
    """The right eye; corners from the inner (left) to the outer one."""
    half = person.eye_width / 2
    inner, outer = person.eye_distance - half, person.eye_distance + half
    rise = person.eye_slope * person.eye_width
    height = person.eye_width * person.eye_opening * mood.lids
    up, low = 0.62 * height, 0.40 * height * (1 - mood.lower_lid * 1.3)
    upper = spline(
        points(
            (inner, 0.022 + rise * 0.2),
            (inner + 0.30 * half, -0.60 * up),
            (inner + 0.92 * half, -up),
            (inner + 1.55 * half, -0.66 * up - 0.6 * rise),
            (outer, -rise),
        )
    )
    lower = spline(
        points(
            (inner, 0.022 + rise * 0.2),
            (inner + 0.45 * half, 0.62 * low + 0.01),
            (inner + 1.15 * half, low),
            (inner + 1.65 * half, 0.70 * low - 0.4 * rise),
            (outer, -rise),
        )
    )
    lift = 0.022 + 0.03 * person.lid_fold
    fold = (
        upper[3:] + np.array([0.008, -lift]) * np.sin(np.linspace(0.5, math.pi - 0.25, len(upper) - 3))[:, None] ** 0.7
    )
    radius = 0.26 * person.eye_width * (0.45 + 0.55 * person.eye_opening / 0.44) ** 0.5
    return Eye(upper, lower, fold, (person.eye_distance, -0.06 * height), radius)


def _brow(person: Person, mood: Mood) -> tuple[Points, Points]:
    """The right brow from the outer end (101) to the inner one: upper and lower edge, each (6, 2)."""
    y = -person.brow_height - mood.brows - 0.5 * person.eye_width * (person.eye_opening - 0.44)
    half = person.eye_width / 2
    inner, outer = person.eye_distance - 1.02 * half, person.eye_distance + 1.28 * half
    t = np.linspace(0, 1, 6)  # 0 = outer end
    x = outer + (inner - outer) * t
    arch = person.brow_arch * np.sin(np.pi * np.clip(t * 0.92 + 0.08, 0, 1)) ** 1.2 * (1.25 - 0.5 * t)
    line = y + 0.05 * (1 - t) ** 2 - person.brow_slope * (0.5 - t) + mood.frown * t**2 - arch
    thick = person.brow_thickness * np.array([0.10, 0.55, 0.85, 1.0, 1.0, 0.72])
    return np.stack([x, line - thick / 2], 1), np.stack([x, line + thick / 2], 1)


def _mouth(person: Person, mood: Mood) -> Mouth:
    half = person.mouth_width * mood.wide
    y = person.mouth_height + 0.25 * mood.jaw
    corner = y - mood.corners
    gap_up, gap_down = 0.30 * mood.gap, 0.70 * mood.gap
    bow = 0.016 * person.lip_bow + 0.004
    thin = 1 - 0.25 * max(0.0, mood.wide - 1) * 4
    up, low = person.lip_upper * thin, person.lip_lower * thin
    sag = 0.35 * mood.corners  # a smile bends the lips' middle down
    left, right = (-half, corner), (half, corner)

    def edge(*inner: tuple[float, float]) -> Points:
        """From corner to corner through the given right half, mirrored."""
        flipped = [(-x, v) for x, v in reversed(inner) if x > 0]
        return spline(points(left, *flipped, *inner, right), samples=6)

    middle = y + sag
    return Mouth(
        upper_outer=edge(
            (0, middle - gap_up - up + bow),
            (0.22 * half, middle - gap_up - up),
            (0.60 * half, (middle + corner) / 2 - 0.66 * up - 0.6 * gap_up),
        ),
        upper_inner=edge(
            (0, middle - gap_up + 0.006),
            (0.35 * half, middle - gap_up - 0.004),
            (0.70 * half, middle * 0.45 + corner * 0.55 - 0.62 * gap_up),
        ),
        lower_inner=edge(
            (0, middle + gap_down + 0.008),
            (0.35 * half, middle + 0.93 * gap_down),
            (0.70 * half, middle * 0.45 + corner * 0.55 + 0.62 * gap_down),
        ),
        lower_outer=edge(
            (0, middle + gap_down + low),
            (0.40 * half, middle + gap_down * 0.95 + 0.93 * low),
            (0.75 * half, middle * 0.4 + corner * 0.6 + 0.66 * gap_down + 0.42 * low),
        ),
    )
