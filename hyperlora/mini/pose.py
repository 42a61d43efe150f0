"""What nobody says about a portrait: how the head is turned, how large it is, where the light stands.

`Pose.head` carries points from head units (see `person`) to picture pixels. The head is a little three-dimensional:
every point has a depth towards the viewer, so that turning moves the nose more than the ears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hyperlora.mini.curves import Points
from hyperlora.mini.people import Dice


@dataclass(frozen=True)
class Pose:
    """Angles in radians, lengths as parts of the picture's side."""

    size: int
    turn: float = 0.0  # to the viewer's right
    nod: float = 0.0  # downwards
    tilt: float = 0.0  # clockwise
    scale: float = 0.245  # one head unit
    x: float = 0.5  # where the eye line's middle is
    y: float = 0.455
    light: tuple[float, float, float] = (-0.45, -0.5, 0.75)  # towards the light, x right, y down, z to the viewer
    gaze: float = 0.0
    strength: float = 1.0  # brightness of the key light

    @property
    def unit(self) -> float:
        """Pixels in one head unit."""
        return self.scale * self.size

    def head(self, curve: Points, depth: float | Points | None = None) -> Points:
        """Head units to pixels. `depth` defaults to the face's own surface at each point."""
        z = surface(curve) if depth is None else depth
        x = curve[:, 0] * math.cos(self.turn) + z * math.sin(self.turn)
        y = curve[:, 1] * math.cos(self.nod) + z * math.sin(self.nod)
        y = y - 1.0  # the head tilts about the neck's top, one unit below the eyes
        turned_x = x * math.cos(self.tilt) - y * math.sin(self.tilt)
        turned_y = x * math.sin(self.tilt) + y * math.cos(self.tilt) + 1.0
        return np.stack([self.size * self.x + self.unit * turned_x, self.size * self.y + self.unit * turned_y], 1)

    def body(self, curve: Points) -> Points:
        """Units below the head to pixels: the body neither tilts nor nods and turns half as far."""
        shift = 0.1 * math.sin(self.turn)
        return np.stack(
            [self.size * self.x + self.unit * (curve[:, 0] + shift), self.size * self.y + self.unit * curve[:, 1]], 1
        )

    def flat(self, turned: Points) -> Points:
        """Pixels to head units as they lie in the turned head: undoes place, size and tilt only."""
        x = (turned[..., 0] - self.size * self.x) / self.unit
        y = (turned[..., 1] - self.size * self.y) / self.unit - 1.0
        c, s = math.cos(self.tilt), math.sin(self.tilt)
        return np.stack([x * c + y * s, -x * s + y * c + 1.0], -1)

    def turned(self, x: float, y: float, z: float | None = None) -> tuple[float, float]:
        """Where a point of the head lies after turning and nodding, still in head units."""
        depth = float(surface(np.array([[x, y]]))[0]) if z is None else z
        return (
            x * math.cos(self.turn) + depth * math.sin(self.turn),
            y * math.cos(self.nod) + depth * math.sin(self.nod),
        )


def surface(curve: Points) -> Points:
    """The face's depth at points of the head: a flattened ball."""
    inside = 1 - (curve[:, 0] / 0.98) ** 2 - ((curve[:, 1] - 0.1) / 1.45) ** 2
    depth: Points = 0.62 * np.sqrt(np.clip(inside, 0, None))
    return depth


def outline_depth(curve: Points) -> Points:
    """The depth of the face's outline: nothing at temples and crown, more towards the chin, which lies in front."""
    low = np.clip((curve[:, 1] - 0.35) / 0.65, 0, 1)
    depth: Points = 0.46 * low * low * (3 - 2 * low) * np.clip(1 - (curve[:, 0] / 0.62) ** 2, 0, 1)
    return depth


def draw_pose(seed: int, size: int) -> Pose:
    """A random pose of the kind people take for a portrait."""
    d = Dice(f"hyperlora.mini pose {seed}")
    side = d.pick((-1.0, 1.0))
    light_x, light_y = side * d.between(0.25, 0.7), -d.between(0.25, 0.6)
    norm = math.sqrt(light_x**2 + light_y**2 + 0.75**2)
    return Pose(
        size=size,
        turn=d.around(0, 0.30),
        nod=d.around(0, 0.10),
        tilt=d.around(0, 0.13),
        scale=d.around(0.262, 0.022),
        x=d.around(0.5, 0.035),
        y=d.around(0.46, 0.02),
        light=(light_x / norm, light_y / norm, 0.75 / norm),
        gaze=d.around(0, 0.3),
        strength=d.around(1.0, 0.12),
    )
