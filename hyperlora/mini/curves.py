"""Curves as arrays of points: splines, ellipses, tapered strokes.

Legend: N points, 2 coordinates (x right, y down). Nothing here knows what it draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def points(*pairs: tuple[float, float]) -> Points:
    """The pairs as an (N, 2) array."""
    return np.array(pairs, dtype=np.float64)


def spline(control: Points | Sequence[tuple[float, float]], closed: bool = False, samples: int = 8) -> Points:
    """A smooth curve through every control point (uniform Catmull-Rom), `samples` points per stretch."""
    p = np.asarray(control, dtype=np.float64)
    if closed:
        before, start, end, after = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(samples) / samples)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, start, end, after))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat: Points = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, p[-1:]])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 32) -> Points:
    """A closed ellipse; `angle` in radians, clockwise as y points down."""
    t = np.linspace(0, 2 * math.pi, count, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * math.cos(angle) - v * math.sin(angle), y + u * math.sin(angle) + v * math.cos(angle)], 1)


def resample(curve: Points, count: int) -> Points:
    """`count` points at equal arc length along the open curve, both ends included."""
    steps = np.hypot(*np.diff(curve, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, along[-1], count)
    return np.stack([np.interp(wanted, along, curve[:, 0]), np.interp(wanted, along, curve[:, 1])], 1)


def tapered(curve: Points, widths: Sequence[float]) -> Points:
    """The outline of a brush stroke along an open curve; `widths` are spread evenly over its length."""
    tangent = np.gradient(curve, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    half = 0.5 * np.interp(np.linspace(0, 1, len(curve)), np.linspace(0, 1, len(widths)), widths)[:, None]
    return np.concatenate([curve + normal * half, (curve - normal * half)[::-1]])


def mirror(curve: Points) -> Points:
    """The curve on the other side of x = 0."""
    flipped: Points = curve * np.array([-1.0, 1.0])
    return flipped


def between(first: Points, second: Points, t: float) -> Points:
    """The curve at a fraction `t` of the way from the first to the second (equal lengths)."""
    mixed: Points = first + (second - first) * t
    return mixed
