"""Hair cuts as sheets of guides: how hair grows from the skull, falls, and is combed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hyperlora.mini.curves import points
from hyperlora.mini.people import Person
from hyperlora.mini.strands import Sheet

LONG = ("long straight", "long wavy", "long curly")
TIED = ("ponytail", "bun")


class Head:
    """Where hair can grow on one person: the skull's rim and the hairline, by an angle from ear over crown to ear."""

    def __init__(self, person: Person) -> None:
        self.w = person.face_width
        self.line = person.hairline
        self.volume = 0.05 + 0.10 * person.hair_volume

    def rim(self, t: float, lift: float) -> tuple[float, float]:
        """The outline of hair lying `lift` above the skull; t = -1 left ear, 0 crown, 1 right ear, beyond: below."""
        a = t * math.radians(100)
        return ((self.w * 0.985 + lift) * math.sin(a), -0.25 - (0.84 + lift) * math.cos(a))

    def line_at(self, t: float, inset: float = 0.0) -> tuple[float, float]:
        """The hairline; t as in `rim`."""
        a = t * math.radians(90)
        fall = abs(math.cos(a)) ** 0.5
        return ((0.93 * self.w - inset) * math.copysign(abs(math.sin(a)) ** 0.92, a), -0.08 + (self.line + 0.08) * fall)


def back_sheets(person: Person) -> list[Sheet]:
    """What hangs behind the face."""
    h = Head(person)
    cut, v = person.hair_cut, h.volume
    w = h.w
    if cut in LONG:
        wave = {"long straight": 0.0, "long wavy": 0.05, "long curly": 0.06}[cut]
        out = {"long straight": 0.10, "long wavy": 0.22, "long curly": 0.30}[cut] + v
        end = 1.55 + 0.25 * person.hair_volume
        return [_fall(h, v + 0.05, w + out, end, wave)]
    if cut in ("bob", "fringe bob"):
        return [_fall(h, v + 0.05, w + 0.13 + v, 0.72 + 0.25 * person.hair_volume, 0.0, tuck=0.10)]
    if cut == "chin length":
        return [_fall(h, v, w + 0.05 + v, 0.86, 0.03)]
    if cut == "afro":
        return [
            Sheet(
                [
                    points((0.2 * s, -0.9), h.rim(0.7 * s, v + 0.26), h.rim(1.12 * s, v + 0.16))
                    for s in np.linspace(-1, 1, 9)
                ],
                depth=-0.25,
                dark=0.75,
            )
        ]
    if cut == "ponytail":
        side = math.copysign(1.0, person.hair_part)
        guides = []
        for k in (0.0, 0.5, 1.0):  # the tail's inner edge, middle, outer edge
            bend, tip = (side * (w + 0.12 + k * 0.26), -0.72 + 0.1 * k), (side * (w + 0.02 + 0.22 * k), 1.5 - 0.3 * k)
            guides.append(points((side * 0.35, -0.85), bend, (side * (w + 0.12 + k * 0.30), 0.3), tip))
        return [Sheet(guides, wave=0.035, shine=0.45, depth=-0.3, dark=0.86)]
    return []


def _fall(h: Head, lift: float, reach: float, end: float, wave: float, tuck: float = 0.0) -> Sheet:
    """Hair from the crown down on both sides, fanned over the whole width."""
    guides = []
    for s in np.linspace(-1, 1, 9):
        x = float(s)
        guides.append(
            points(
                (0.15 * x, -0.98),
                (h.rim(0.62 * x, lift)),
                (x * (reach - 0.02), 0.10),
                (x * reach, 0.60 * end),
                (x * (reach - tuck - 0.06), end - 0.06 * x * x),
            )
        )
    return Sheet(guides, wave=wave, shine=0.4, depth=-0.2, dark=0.72)


def front_sheets(person: Person) -> list[Sheet]:
    """What lies over the skull and falls over the forehead."""
    h = Head(person)
    cut, v, p = person.hair_cut, h.volume, person.hair_part
    w = h.w
    if cut == "bald":
        return []
    if cut == "buzz":
        return [_swept(h, 0.03, 0.0, reach=1.02)]
    if cut in ("swept back", *TIED):
        return [_swept(h, 0.55 * v + 0.02, 0.0, reach=0.98 if cut == "swept back" else 1.0)]
    if cut == "quiff":
        return [_temples(h, 0.03), _swept(h, v + 0.14, 0.10 * math.copysign(1, p), reach=0.62)]
    if cut == "crop":
        tips = [(x, h.line + 0.16 + 0.05 * math.cos(7 * x + 3 * p)) for x in np.linspace(-0.52, 0.52, 7)]
        return [_temples(h, 0.045), _forward(h, v + 0.03, tips, 0.80)]
    if cut in ("curly", "afro", "long curly"):
        return [_swept(h, v + (0.30 if cut == "afro" else 0.14), 0.0, reach=1.0 if cut != "curly" else 0.96)]
    if cut == "fringe bob":
        tips = [(x, -0.335 + 0.05 * abs(x)) for x in np.linspace(-0.64, 0.64, 9)]
        return [
            _scalp(h, v + 0.055),
            *_curtains(h, 0.0, v, end=0.72 + 0.25 * person.hair_volume, open_=0.93, reach=w + 0.11 + v),
            _forward(h, v + 0.03, tips, 0.72),
        ]
    if cut == "pixie":
        side = math.copysign(1.0, p)
        tips = [(side * x, -0.44 + 0.30 * x * x + 0.03 * math.sin(9 * x)) for x in np.linspace(-0.60, 0.70, 8)]
        return [
            _temples(h, 0.05, low=0.12),
            _forward(h, v + 0.05, tips if side > 0 else tips[::-1], 0.8, part=-0.3 * side),
        ]
    if cut == "side part":
        return [_temples(h, 0.04), *_parted(h, p, v + 0.05)]
    end = {"bob": 0.70 + 0.25 * person.hair_volume, "chin length": 0.84}.get(cut, 1.5)
    reach = w + {"long straight": 0.08, "long wavy": 0.16, "bob": 0.10, "chin length": 0.04}[cut] + v
    wave = {"long wavy": 0.045, "chin length": 0.02}.get(cut, 0.0)
    return [_scalp(h, v + 0.055), *_curtains(h, p, v, end=end, open_=0.86, reach=reach, wave=wave)]


def _swept(h: Head, lift: float, skew: float, reach: float) -> Sheet:
    """Combed from the hairline up and back over the skull."""
    guides = []
    for t in np.linspace(-1, 1, 13):
        s = float(t)
        root, tip = h.line_at(s * 0.98), h.rim(s * reach + skew, lift)
        middle = ((root[0] + tip[0]) / 2 * 1.03, (root[1] + tip[1]) / 2 - 0.02)
        guides.append(points(root, middle, tip))
    return Sheet(guides, shine=0.55)


def _scalp(h: Head, lift: float) -> Sheet:
    """The crown below a parting: from the hairline to the rim, so that no skin shows between the locks."""
    guides = []
    for t in np.linspace(-1, 1, 13):
        s = float(t)
        root, tip = h.line_at(s * 0.8), h.rim(s * 0.74, lift)
        guides.append(points(tip, (0.5 * (root[0] + tip[0]), 0.5 * (root[1] + tip[1])), root))
    return Sheet(guides, shine=0.3, dark=0.92)


def _temples(h: Head, lift: float, low: float = 0.0) -> Sheet:
    """Short hair around the skull, down to the sideburns."""
    guides = []
    for t in np.linspace(-1, 1, 13):
        s = float(t)
        root = h.line_at(s * 0.99, inset=0.03)
        drop = 0.10 + low if abs(s) > 0.95 else 0.0
        root = (root[0], root[1] + drop)
        tip = h.rim(s * 1.02, lift)
        guides.append(points(tip, ((root[0] + tip[0]) / 2, (root[1] + tip[1]) / 2), root))
    return Sheet(guides, shine=0.3, dark=0.86)


def _forward(h: Head, lift: float, tips: Sequence[tuple[float, float]], reach: float, part: float = 0.0) -> Sheet:
    """From the crown over the rim down to tips on the forehead."""
    guides = []
    for k, tip in enumerate(tips):
        s = -1 + 2 * k / (len(tips) - 1)
        crown = (0.10 * s + part * 0.5, -1.06 - lift * 0.6)
        over = h.rim(s * reach * 0.72, lift)
        near = (tip[0] * 1.12, 0.45 * over[1] + 0.55 * tip[1] - 0.05)
        guides.append(points(crown, over, near, tip))
    return Sheet(guides, shine=0.42)


def _parted(h: Head, p: float, lift: float) -> list[Sheet]:
    """A short side parting: hair from the part sweeps to both sides."""
    sheets = []
    for side in (-1.0, 1.0):
        far = side * p < 0  # the wide side
        guides = []
        for k in np.linspace(0, 1, 7):
            f = float(k)  # 0 = along the forehead, 1 = over the rim
            t_part = math.degrees(math.asin(p / (h.w + lift))) / 100
            crown = h.rim(t_part, lift * 0.72)
            start = (p - 0.025 * side, h.line + 0.02 + f * (crown[1] - h.line - 0.02))
            t_bow = t_part + 0.45 * (side * 0.85 - t_part)
            low = h.line_at(t_bow * 1.15)
            high = h.rim(t_bow, lift)
            drop = 0.03 if far else -0.01
            bow = (low[0] + (high[0] - low[0]) * f, low[1] - 0.07 + drop + (high[1] - low[1] + 0.07 - drop) * f)
            foot, end = h.line_at(side * 0.92, inset=-0.01), h.rim(side * 0.93, 0.03)
            tip = (foot[0] + (end[0] - foot[0]) * f, foot[1] + (end[1] - foot[1]) * f)
            knee_low, knee_high = h.line_at(side * 0.74, inset=-0.02), h.rim(side * 0.72, lift * 0.75)
            knee = (knee_low[0] + (knee_high[0] - knee_low[0]) * f, knee_low[1] + (knee_high[1] - knee_low[1]) * f)
            guides.append(points(start, bow, knee, tip))
        sheets.append(Sheet(guides, shine=0.4, dark=1.0 if far else 0.93))
    return sheets


def _curtains(h: Head, p: float, v: float, *, end: float, open_: float, reach: float, wave: float = 0.0) -> list[Sheet]:
    """Long hair from the part down both sides of the face."""
    sheets = []
    for side in (-1.0, 1.0):
        guides = []
        for k in np.linspace(0, 1, 7):
            f = float(k)  # 0 = beside the face, 1 = the outer edge
            top = (p, -0.80 - 0.30 * f - 0.5 * v * f)
            inner = h.line_at(side * (0.62 + 0.06 * side * p), inset=0.02)
            outer = h.rim(side * 0.52, v + 0.03)
            bow = (inner[0] + (outer[0] - inner[0]) * f, inner[1] + 0.05 + (outer[1] - inner[1] - 0.05) * f)
            cheek = (side * (open_ * h.w + (reach - open_ * h.w) * f), 0.02)
            jaw = (side * (0.97 * h.w + (reach + 0.03 - 0.97 * h.w) * f), 0.5 * end + 0.08)
            tip = (side * (0.94 * h.w + (reach - 0.94 * h.w) * f), end - 0.04 * f)
            guides.append(points(top, bow, cheek, jaw, tip))
        sheets.append(Sheet(guides, wave=wave, shine=0.28))
    return sheets
