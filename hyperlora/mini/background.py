"""What lies behind a person: a studio wall or a place, out of focus."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hyperlora.mini.canvas import Canvas, Colour, Linear, Radial, darker, mixed
from hyperlora.mini.curves import ellipse, points, spline
from hyperlora.mini.people import Dice


def paint_background(canvas: Canvas, name: str, seed: int) -> None:
    """Fill the canvas with the named background; the seed moves its details.

    It is out of focus, so it is painted at half the size and enlarged.
    """
    d = Dice(f"hyperlora.mini background {name} {seed}")
    behind = Canvas(canvas.size // 2)
    _PLACES[name](_Scene(behind, d))
    canvas.lay(behind)


class _Scene:
    """Drawing in parts of the side: 0..1 across and down."""

    def __init__(self, canvas: Canvas, d: Dice) -> None:
        self.canvas, self.d, self.s = canvas, d, float(canvas.size)

    def sky(self, top: Colour, bottom: Colour, horizon: float = 1.0) -> None:
        self.canvas.paint(self.canvas.everything(), Linear((0, 0), top, (0, horizon * self.s), bottom))

    def glow(self, x: float, y: float, radius: float, colour: Colour, opacity: float, mode: str = "screen") -> None:
        centre = (x * self.s, y * self.s)
        disc = self.canvas.shape(
            ellipse(*centre, radius * self.s * 0.6, radius * self.s * 0.6), blur=radius * self.s * 0.25
        )
        self.canvas.paint(disc, colour, opacity, mode)

    def disc(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, opacity: float = 1.0, blur: float = 0.0
    ) -> None:
        self.canvas.paint(
            self.canvas.shape(ellipse(x * self.s, y * self.s, rx * self.s, ry * self.s), blur * self.s), colour, opacity
        )

    def shape(
        self,
        outline: list[tuple[float, float]],
        colour: Colour,
        opacity: float = 1.0,
        smooth: bool = False,
        blur: float = 0.0,
    ) -> None:
        curve = points(*outline)
        if smooth:
            curve = np.concatenate([spline(curve[:-2]), curve[-2:]])
        self.canvas.paint(self.canvas.shape(curve * self.s, blur * self.s), colour, opacity)

    def bokeh(self, count: int, colours: list[Colour], top: float, bottom: float, size: float, opacity: float) -> None:
        for _ in range(count):
            r = self.d.between(0.5, 1.2) * size
            self.disc(
                self.d.between(0, 1),
                self.d.between(top, bottom),
                r,
                r,
                self.d.pick(colours),
                opacity * self.d.between(0.5, 1),
            )

    def focus(self, blur: float) -> None:
        self.canvas.soften(blur * self.s)


def _studio(light: Colour, dark: Colour) -> Callable[[_Scene], None]:
    def paint(q: _Scene) -> None:
        x, y = q.d.between(0.35, 0.65) * q.s, q.d.between(0.30, 0.5) * q.s
        q.canvas.paint(q.canvas.everything(), Radial((x, y), 0.85 * q.s, light, dark))

    return paint


def _beach(q: _Scene) -> None:
    q.sky((96, 176, 226), (206, 234, 240), 0.5)
    horizon = q.d.between(0.46, 0.54)
    for _ in range(4):
        x, y = q.d.between(0, 1), q.d.between(0.06, 0.3)
        for k in range(4):
            q.disc(x + 0.06 * k, y + q.d.around(0, 0.02), 0.07, 0.03, (255, 255, 255), 0.5)
    q.shape([(0, horizon), (1, horizon), (1, 0.75), (0, 0.75)], (48, 146, 176))
    q.shape([(0, horizon + 0.06), (1, horizon + 0.05), (1, 0.75), (0, 0.75)], (92, 190, 198), 0.8)
    q.shape([(0, 0.68), (0.3, 0.66), (0.7, 0.69), (1, 0.67), (1, 1), (0, 1)], (240, 246, 240))
    q.shape([(0, 0.70), (0.3, 0.68), (0.7, 0.71), (1, 0.69), (1, 1), (0, 1)], (236, 212, 164))
    side = q.d.pick((0.06, 0.94))
    q.shape([(side - 0.02, 0.7), (side + 0.02, 0.7), (side + 0.05, 0.2), (side + 0.02, 0.2)], (128, 92, 60))
    for a in np.linspace(-2.9, -0.2, 6):
        q.shape(
            [
                (side + 0.035, 0.2),
                (side + 0.035 + 0.22 * math.cos(a), 0.2 + 0.14 * math.sin(a) + 0.03),
                (side + 0.035 + 0.2 * math.cos(a), 0.25 + 0.14 * math.sin(a)),
            ],
            (58, 128, 74),
        )
    q.focus(0.009)


def _forest(q: _Scene) -> None:
    q.sky((214, 232, 178), (120, 166, 104), 0.9)
    for layer, (colour, count) in enumerate((((132, 170, 116), 9), ((86, 132, 84), 7), ((52, 92, 62), 5))):
        for k in range(count):
            x = (k + q.d.between(0.1, 0.9)) / count
            w = 0.012 + 0.013 * layer
            q.shape([(x - w, 0), (x + w, 0), (x + 1.4 * w, 1), (x - 1.4 * w, 1)], mixed(colour, (92, 70, 48), 0.35))
        q.bokeh(26, [colour, darker(colour, 1.15), darker(colour, 0.85)], -0.05, 0.36 - 0.05 * layer, 0.075, 0.8)
        q.bokeh(18, [darker(colour, 0.9), darker(colour, 1.05)], 0.80, 1.05, 0.09, 0.85)
    q.glow(q.d.between(0.2, 0.8), 0.12, 0.45, (255, 246, 190), 0.5)
    q.focus(0.014)


def _city(q: _Scene) -> None:
    q.sky((18, 20, 48), (72, 48, 98), 0.8)
    for tone, count, low, high in (((40, 40, 78), 8, 0.18, 0.5), ((26, 26, 54), 6, 0.3, 0.62)):
        for k in range(count):
            x, top = (k + q.d.between(-0.2, 0.2)) / count, q.d.between(low, high)
            w = q.d.between(0.8, 1.3) / count
            q.shape([(x, top), (x + w, top), (x + w, 1), (x, 1)], tone)
            lights: list[tuple[float, float]] = []
            for _ in range(14):
                lights.append((x + w * q.d.between(0.1, 0.9), q.d.between(top + 0.02, 0.95)))
            for lx, ly in lights:
                q.shape(
                    [(lx, ly), (lx + 0.014, ly), (lx + 0.014, ly + 0.02), (lx, ly + 0.02)],
                    q.d.pick([(255, 214, 130), (255, 176, 96), (140, 200, 255)]),
                    0.9,
                )
    q.bokeh(22, [(255, 190, 96), (255, 108, 130), (96, 190, 255), (255, 226, 150)], 0.5, 1.0, 0.030, 0.55)
    q.focus(0.008)


def _library(q: _Scene) -> None:
    q.sky((92, 62, 42), (66, 44, 32), 1.0)
    colours: list[Colour] = [
        (150, 54, 48),
        (54, 88, 108),
        (196, 158, 92),
        (72, 96, 62),
        (112, 66, 88),
        (220, 206, 178),
        (60, 52, 70),
    ]
    for row in range(5):
        base = 0.19 + row * 0.205
        x = q.d.between(-0.03, 0.0)
        while x < 1:
            w, h = q.d.between(0.022, 0.048), q.d.between(0.12, 0.172)
            colour = q.d.pick(colours)
            q.shape(
                [(x, base - h), (x + w * 0.92, base - h), (x + w * 0.92, base), (x, base)],
                darker(colour, q.d.between(0.75, 1.1)),
            )
            x += w
        q.shape([(0, base), (1, base), (1, base + 0.025), (0, base + 0.025)], (142, 98, 62))
    q.glow(q.d.between(0.1, 0.9), 0.15, 0.6, (255, 206, 130), 0.35)
    q.focus(0.009)


def _sunset(q: _Scene) -> None:
    q.sky((92, 78, 152), (250, 150, 92), 0.62)
    x = q.d.between(0.15, 0.85)
    q.glow(x, 0.56, 0.55, (255, 196, 120), 0.75)
    q.disc(x, 0.56, 0.085, 0.085, (255, 238, 190))
    for _ in range(5):
        q.disc(q.d.between(0, 1), q.d.between(0.1, 0.45), q.d.between(0.1, 0.28), 0.014, (252, 172, 140), 0.6, 0.006)
    q.shape([(0, 0.66), (0.2, 0.60), (0.45, 0.66), (0.7, 0.61), (1, 0.65), (1, 1), (0, 1)], (124, 74, 116), smooth=True)
    q.shape([(0, 0.76), (0.3, 0.72), (0.6, 0.77), (1, 0.71), (1, 1), (0, 1)], (70, 46, 86), smooth=True)
    q.focus(0.007)


def _mountains(q: _Scene) -> None:
    q.sky((124, 178, 224), (232, 240, 244), 0.6)
    for base, tone, high in ((0.5, (150, 170, 198), 0.24), (0.62, (104, 130, 166), 0.2), (0.78, (66, 96, 104), 0.14)):
        ridge = [(x, base - high * q.d.between(0.1, 1.0)) for x in np.linspace(0, 1, 8)]
        q.shape([*[(float(x), y) for x, y in ridge], (1, 1), (0, 1)], tone)
        if high > 0.15:
            for x, y in ridge:
                if y < base - 0.5 * high:
                    q.shape(
                        [
                            (float(x), y),
                            (float(x) + 0.035, y + 0.06),
                            (float(x), y + 0.045),
                            (float(x) - 0.035, y + 0.06),
                        ],
                        (250, 252, 255),
                        0.9,
                    )
    q.shape([(0, 0.86), (0.4, 0.82), (1, 0.87), (1, 1), (0, 1)], (84, 132, 86))
    q.focus(0.008)


def _garden(q: _Scene) -> None:
    q.sky((188, 222, 196), (112, 170, 100), 0.8)
    q.bokeh(46, [(96, 152, 84), (126, 180, 98), (72, 128, 76)], 0.1, 1.0, 0.08, 0.7)
    q.bokeh(
        34, [(242, 134, 162), (252, 210, 120), (250, 246, 240), (214, 92, 122), (176, 134, 206)], 0.15, 1.0, 0.030, 0.95
    )
    q.glow(q.d.between(0, 1), 0.05, 0.5, (255, 250, 210), 0.5)
    q.focus(0.011)


def _stars(q: _Scene) -> None:
    q.sky((12, 14, 40), (50, 44, 104), 1.0)
    for _ in range(5):
        q.glow(
            q.d.between(0, 1),
            q.d.between(0, 0.9),
            q.d.between(0.2, 0.4),
            q.d.pick([(84, 60, 150), (40, 90, 150), (140, 64, 130)]),
            0.4,
        )
    for _ in range(90):
        r = q.d.between(0.0015, 0.005)
        q.disc(q.d.between(0, 1), q.d.between(0, 1), r, r, (255, 250, 235), q.d.between(0.4, 1))
    x, y = q.d.pick((0.12, 0.86)), q.d.between(0.1, 0.25)
    q.glow(x, y, 0.2, (255, 244, 214), 0.4)
    q.disc(x, y, 0.065, 0.065, (250, 240, 214))


def _office(q: _Scene) -> None:
    q.sky((226, 228, 226), (196, 200, 202), 1.0)
    for k in range(3):
        x = 0.03 + 0.335 * k + q.d.around(0, 0.02)
        q.shape([(x, 0.08), (x + 0.27, 0.08), (x + 0.27, 0.62), (x, 0.62)], (178, 214, 236))
        q.shape([(x, 0.42), (x + 0.27, 0.36), (x + 0.27, 0.62), (x, 0.62)], (150, 180, 190), 0.8)
        q.shape([(x + 0.13, 0.08), (x + 0.14, 0.08), (x + 0.14, 0.62), (x + 0.13, 0.62)], (242, 242, 240))
    q.shape([(0, 0.76), (1, 0.76), (1, 1), (0, 1)], (172, 136, 100))
    side = q.d.pick((0.1, 0.9))
    for a in np.linspace(-2.7, -0.4, 7):
        q.disc(side + 0.09 * math.cos(a), 0.60 + 0.13 * math.sin(a), 0.045, 0.03, (74, 132, 84))
    q.shape([(side - 0.05, 0.62), (side + 0.05, 0.62), (side + 0.035, 0.77), (side - 0.035, 0.77)], (214, 112, 82))
    q.focus(0.009)


_PLACES: dict[str, Callable[[_Scene], None]] = {
    "grey studio": _studio((206, 208, 210), (128, 132, 140)),
    "blue studio": _studio((152, 190, 222), (62, 96, 142)),
    "warm studio": _studio((246, 214, 174), (190, 128, 96)),
    "beach": _beach,
    "forest": _forest,
    "city at night": _city,
    "library": _library,
    "sunset": _sunset,
    "mountains": _mountains,
    "garden": _garden,
    "starry sky": _stars,
    "office": _office,
}
