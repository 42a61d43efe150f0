"""The brush and the measures of one garment."""

from __future__ import annotations

import numpy as np

from hyperlora.mini.attributes import CLOTHING_COLOURS, Attributes
from hyperlora.mini.canvas import Canvas, Colour, Linear, Mask, darker
from hyperlora.mini.curves import Points, mirror, points, spline
from hyperlora.mini.people import Person
from hyperlora.mini.pose import Pose


class Tailor:
    """The brush and the measures of one garment."""

    def __init__(self, canvas: Canvas, person: Person, attributes: Attributes, pose: Pose) -> None:
        self.canvas, self.pose, self.u = canvas, pose, pose.unit
        self.colour = CLOTHING_COLOURS[attributes.clothing_colour]
        self.wide = {"man": 1.62, "woman": 1.38, "person": 1.5}[person.presentation]
        self.neck = 0.485 * person.face_width / 0.765 - (0.0 if person.presentation == "man" else 0.085)

    def torso(self, opening: Points, colour: Colour, grow: float = 0.0) -> Mask:
        """Shoulders with a neck opening (right half, from the neck's side to the middle), shaded for roundness."""
        w = self.wide + grow
        n = opening[0]
        right = points(
            (n[0], n[1]),
            (n[0] + 0.22, n[1] + 0.115 - grow * 0.4),
            (w - 0.30, 1.50 - grow * 0.5),
            (w, 1.74),
            (w + 0.14, 2.2),
            (w + 0.2, 3.2),
        )
        shoulder = spline(right)
        hole = spline(opening)
        outline = np.concatenate([shoulder, points((0, 3.2)), mirror(shoulder)[::-1], mirror(hole)[1:], hole[::-1][1:]])
        mask = self.canvas.shape(self.pose.body(outline))
        x0, x1 = self.pose.body(points((-w, 1.4), (w, 2.6)))[:, 0]
        y0, y1 = self.pose.body(points((0, 1.3), (0, 2.7)))[:, 1]
        lit_left = self.pose.light[0] < 0
        start, end = (x0, x1) if lit_left else (x1, x0)
        self.canvas.paint(
            mask, Linear((float(start), float(y0)), darker(colour, 1.16), (float(end), float(y1)), darker(colour, 0.66))
        )
        self.folds(mask, colour)
        return mask

    def folds(self, mask: Mask, colour: Colour) -> None:
        """Soft creases from the armpits and shoulders."""
        lines = []
        for s in (-1.0, 1.0):
            lines.append(
                points((s * (self.wide - 0.22), 2.3), (s * (self.wide - 0.36), 2.0), (s * (self.wide - 0.40), 1.86))
            )
            lines.append(points((s * 0.55, 2.35), (s * 0.78, 2.02), (s * 0.95, 1.72)))
            lines.append(points((s * 0.28, 2.4), (s * 0.42, 2.15), (s * 0.62, 1.95)))
        drawn = [self.pose.body(spline(line)) for line in lines]
        self.canvas.paint(
            self.canvas.strokes(drawn, 0.06 * self.u, blur=0.045 * self.u), darker(colour, 0.5), 0.42, clip=mask
        )

    def fill(
        self, outline: Points, colour: Colour, blur: float = 0.0, opacity: float = 1.0, clip: Mask | None = None
    ) -> Mask:
        """A shape of one colour."""
        mask = self.canvas.shape(self.pose.body(outline), blur * self.u)
        self.canvas.paint(mask, colour, opacity, clip=clip)
        return mask

    def line(
        self,
        lines: list[Points],
        colour: Colour,
        width: float,
        opacity: float = 1.0,
        blur: float = 0.0,
        clip: Mask | None = None,
    ) -> None:
        """Seams, strings, ribs."""
        drawn = [self.pose.body(line) for line in lines]
        self.canvas.paint(self.canvas.strokes(drawn, width * self.u, blur * self.u), colour, opacity, clip=clip)

    def both(self, outline: Points, colour: Colour, shade: float = 0.5) -> None:
        """A shape on both sides of the middle, with a soft shadow under it."""
        for half in (outline, mirror(outline)):
            self.fill(half + np.array([0.0, 0.05]), (20, 16, 20), blur=0.035, opacity=shade)
            self.fill(half, colour)
