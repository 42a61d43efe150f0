"""A small raster canvas: anti-aliased shapes, soft edges, gradients, blend modes.

Everything is asked for in picture pixels; inside it works at `OVERSAMPLE` times that and averages at the end. A shape
is a `Mask`, a window of coverage values, so that painting an eye costs an eye's pixels and not the picture's. OpenCV
fills the polygons, being there for the face detector anyway: no drawing library is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from hyperlora.mini.curves import Points

Colour = tuple[float, float, float]
Pixels = npt.NDArray[Any]  # float32

OVERSAMPLE = 2
_ENOUGH = 2.5  # a blur of so many pixels hides the grid below it
_SHIFT = 4  # OpenCV takes polygon corners in fixed point: 4 bits of fraction


class Paint(Protocol):
    """Something with a colour at every place of a window."""

    def pixels(self, left: int, top: int, height: int, width: int) -> Pixels:
        """RGB planes (3, height, width) in 0..255 for a window given in oversampled pixels."""
        ...


@dataclass(frozen=True)
class Mask:
    """Coverage 0..1 of a window whose corner lies at (left, top), in oversampled pixels."""

    left: int
    top: int
    alpha: Pixels

    def __and__(self, other: Mask) -> Mask:
        """The common part of two masks."""
        return _overlap(self, other)

    def faded(self, opacity: float) -> Mask:
        """The same shape, thinner."""
        return Mask(self.left, self.top, self.alpha * np.float32(opacity))


def _overlap(one: Mask, two: Mask) -> Mask:
    left, top = max(one.left, two.left), max(one.top, two.top)
    right = min(one.left + one.alpha.shape[1], two.left + two.alpha.shape[1])
    bottom = min(one.top + one.alpha.shape[0], two.top + two.alpha.shape[0])
    if right <= left or bottom <= top:
        return Mask(left, top, np.zeros((0, 0), np.float32))
    a = one.alpha[top - one.top : bottom - one.top, left - one.left : right - one.left]
    b = two.alpha[top - two.top : bottom - two.top, left - two.left : right - two.left]
    return Mask(left, top, a * b)


@dataclass(frozen=True)
class Linear:
    """A gradient from one point and colour to another, in picture pixels; smooth at both ends."""

    start: tuple[float, float]
    first: Colour
    end: tuple[float, float]
    second: Colour

    def pixels(self, left: int, top: int, height: int, width: int) -> Pixels:
        """See `Paint`."""
        x = (np.arange(left, left + width, dtype=np.float32) / OVERSAMPLE)[None, :]
        y = (np.arange(top, top + height, dtype=np.float32) / OVERSAMPLE)[:, None]
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        t = ((x - self.start[0]) * dx + (y - self.start[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
        return _mix(self.first, self.second, t)


@dataclass(frozen=True)
class Radial:
    """A round gradient from the centre's colour to the rim's; `stretch` is height over width."""

    centre: tuple[float, float]
    radius: float
    inner: Colour
    outer: Colour
    stretch: float = 1.0

    def pixels(self, left: int, top: int, height: int, width: int) -> Pixels:
        """See `Paint`."""
        x = (np.arange(left, left + width, dtype=np.float32) / OVERSAMPLE - self.centre[0])[None, :]
        y = (np.arange(top, top + height, dtype=np.float32) / OVERSAMPLE - self.centre[1])[:, None] / self.stretch
        return _mix(self.inner, self.outer, np.sqrt(x * x + y * y) / self.radius)


def _mix(first: Colour, second: Colour, t: Pixels) -> Pixels:
    t = np.clip(t, 0, 1)
    t = t * t * (3 - 2 * t)
    a, b = (np.array(colour, np.float32)[:, None, None] for colour in (first, second))
    mixed: Pixels = a + (b - a) * t[None]
    return mixed


class Canvas:
    """A square picture being painted, `size` pixels wide."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.inner = size * OVERSAMPLE
        # planes, not pixels: one coverage value then serves three long rows instead of three neighbours
        self.rgb: Pixels = np.zeros((3, self.inner, self.inner), np.float32)

    def shape(self, outlines: Points | Sequence[Points], blur: float = 0.0) -> Mask:
        """The union of closed outlines; `blur` is the standard deviation of a soft edge."""
        return self._draw([outlines] if isinstance(outlines, np.ndarray) else list(outlines), blur, None)

    def strokes(self, lines: Sequence[Points], width: float, blur: float = 0.0) -> Mask:
        """Open lines of one width, round ends."""
        return self._draw(list(lines), blur, width)

    def _draw(self, lines: list[Points], blur: float, width: float | None) -> Mask:
        # a soft shape has no fine detail: draw it coarser, by a power of two, and enlarge it
        coarse = 1 << max(0, math.floor(math.log2(max(blur * OVERSAMPLE / _ENOUGH, 1))))
        reach = math.ceil((blur * 3 + (width or 0) + 1) * OVERSAMPLE)
        every = np.concatenate(lines) * OVERSAMPLE
        left, top = (max(0, int(v) - reach) for v in np.floor(every.min(0)))
        right, bottom = (min(self.inner, int(v) + reach + 1) for v in np.ceil(every.max(0)))
        if right <= left or bottom <= top:
            return Mask(0, 0, np.zeros((0, 0), np.float32))
        plane = np.zeros((-(-(bottom - top) // coarse), -(-(right - left) // coarse)), np.uint8)
        corner = np.array([left, top], np.float64)
        unit = (1 << _SHIFT) / coarse
        middle = 0.5 * (1 << _SHIFT)  # OpenCV counts from the middle of a pixel
        fixed = [np.rint((line * OVERSAMPLE - corner) * unit - middle).astype(np.int32) for line in lines]
        if width is None:
            for outline in fixed:
                cv2.fillPoly(plane, [outline], 255, cv2.LINE_AA, _SHIFT)
        else:
            thick = width * OVERSAMPLE / coarse
            whole = max(1, round(thick))
            tone = 255 if thick >= 1 else round(255 * thick)  # thinner than a pixel: paler
            cv2.polylines(plane, fixed, False, tone, whole, cv2.LINE_AA, _SHIFT)
        alpha: Pixels = plane.astype(np.float32) * np.float32(1 / 255)
        if blur:
            # beyond the picture's edge the shape goes on; its own window has room for the whole blur
            alpha = cv2.GaussianBlur(alpha, (0, 0), blur * OVERSAMPLE / coarse, borderType=cv2.BORDER_REPLICATE)
        if coarse > 1:
            whole_size = (alpha.shape[1] * coarse, alpha.shape[0] * coarse)
            alpha = cv2.resize(alpha, whole_size, interpolation=cv2.INTER_LINEAR)[: bottom - top, : right - left]
        return Mask(left, top, alpha)

    def everything(self) -> Mask:
        """The whole picture."""
        return Mask(0, 0, np.ones((self.inner, self.inner), np.float32))

    def paint(
        self, mask: Mask, paint: Colour | Paint, opacity: float = 1.0, mode: str = "normal", clip: Mask | None = None
    ) -> None:
        """Lay a colour or gradient over the picture where the mask (and the clip) says.

        `mode` is "normal", "multiply" (shadow), "screen" (light) or "soft" (tint that keeps the tones below).
        """
        if clip is not None:
            mask = _overlap(mask, clip)
        height, width = mask.alpha.shape
        if not height or not width:
            return
        under = self.rgb[:, mask.top : mask.top + height, mask.left : mask.left + width]
        over: Pixels
        if isinstance(paint, tuple):
            over = np.array(paint, np.float32)[:, None, None]
        else:
            over = paint.pixels(mask.left, mask.top, height, width)
        if mode == "multiply":
            over = under * over * np.float32(1 / 255)
        elif mode == "screen":
            over = 255 - (255 - under) * (255 - over) * np.float32(1 / 255)
        elif mode == "soft":
            over = under + (over - 128) * np.float32(0.5)
        elif mode != "normal":
            raise ValueError(f"blend mode must be normal, multiply, screen or soft, not {mode!r}")
        change = over - under
        change *= mask.alpha if opacity == 1.0 else mask.alpha * np.float32(opacity)
        under += change

    def soften(self, blur: float) -> None:
        """Blur all that is there, as a lens does with what lies behind."""
        for plane in self.rgb:
            plane[:] = cv2.GaussianBlur(plane, (0, 0), blur * OVERSAMPLE, borderType=cv2.BORDER_REFLECT)

    def lay(self, other: Canvas) -> None:
        """Replace everything by another canvas, enlarged or reduced to this one's size."""
        for plane, source in zip(self.rgb, other.rgb, strict=True):
            plane[:] = cv2.resize(source, (self.inner, self.inner), interpolation=cv2.INTER_LINEAR)

    def pixels(self) -> Pixels:
        """The finished picture, float32 RGB (size, size, 3) in 0..255."""
        side = (self.size, self.size)
        small = [cv2.resize(np.clip(plane, 0, 255), side, interpolation=cv2.INTER_AREA) for plane in self.rgb]
        return np.stack(small, -1).astype(np.float32, copy=False)


def mixed(first: Colour, second: Colour, t: float) -> Colour:
    """The colour at a fraction `t` between two."""
    r, g, b = (a + (z - a) * t for a, z in zip(first, second, strict=True))
    return (r, g, b)


def darker(colour: Colour, factor: float) -> Colour:
    """The colour times a factor; above 1 it is lighter, and never above white."""
    r, g, b = (min(255.0, c * factor) for c in colour)
    return (r, g, b)
