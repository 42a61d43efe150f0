"""The mini pack's 106 landmarks: a face's square becomes 212 numbers.

Shapes: B faces, S = 64 pixels, N = 106 points.

InsightFace cuts a square of 192 pixels, one and a half times the longer side of the detector's box, and reads the
answers as -1 to 1 across it. The ONNX file shrinks it to 64 pixels first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hyperlora.faces.types import FloatArray, RGBArray
from hyperlora.mini.learn.convnet import Size, Stack, batch_of
from hyperlora.mini.learn.crops import carried, face_box, placed, shrunk, warped, worn
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.onnx_files import GraphWriter

CROP, SHRINK, POINTS = 192, 3, 106
SIDE = CROP // SHRINK
MEAN, STD = 127.5, 128.0
ROOM = 1.5  # of the box's longer side
_BEFORE = 64  # numbers ahead of the last layer: faces are smooth shapes, fewer than 212 numbers tell them

TINY = tuple(Size(*row) for row in ((16, 2), (24, 2), (32, 1), (48, 2), (48, 1), (64, 2), (64, 1)))
FULL = tuple(Size(*row) for row in ((24, 2), (32, 2), (32, 1), (48, 2), (48, 1), (64, 2), (64, 1)))


class PointFinder(nn.Module):
    """(B, 3, 64, 64), scaled by `MEAN` and `STD`, to (B, 212)."""

    def __init__(self, sizes: tuple[Size, ...] = TINY) -> None:
        super().__init__()
        self.stack = Stack(sizes)
        self.gather = nn.Linear(self.stack.width * (SIDE // 16) ** 2, _BEFORE)
        self.spread = nn.Linear(_BEFORE, POINTS * 2)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """x and y of the points in turn, -1 to 1 across the square."""
        told_BN: torch.Tensor = self.spread(self.gather(self.stack(x_BCHW).flatten(1)))
        return told_BN


def write_points(model: PointFinder, path: Path) -> None:
    """The file that InsightFace takes for `2d106det`."""
    graph = GraphWriter("mini_points", CROP)
    seen = graph.node("Flatten", model.stack.write(graph, graph.pooled(graph.source, SHRINK)))
    told = graph.named("points", graph.dense(graph.dense(seen, model.gather), model.spread))
    graph.save(path, {told: ("batch", POINTS * 2)})


@dataclass(frozen=True, eq=False)
class FaceSquares:
    """(B, 64, 64, 3) uint8 squares and the (B, 212) answers."""

    pixels: torch.Tensor
    answers: torch.Tensor


class SquareMaker:
    """Cuts faces as a detector that is a little off would."""

    def __init__(self, drawings: Drawings) -> None:
        self._drawings = drawings
        self._mirrored = mirrored_order(drawings.landmarks)

    def draw(self, dice: np.random.Generator, batch: int) -> FaceSquares:
        """A batch of squares."""
        rows = [self._square(dice) for _ in range(batch)]
        return FaceSquares(
            torch.from_numpy(np.stack([pixels for pixels, _ in rows])),
            torch.from_numpy(np.stack([answer for _, answer in rows])),
        )

    def _square(self, dice: np.random.Generator) -> tuple[RGBArray, FloatArray]:
        index = int(dice.integers(len(self._drawings)))
        picture = shrunk(self._drawings.pixels[index], 64 if dice.random() < 0.5 else self._drawings.pixels.shape[1])
        points_N2 = self._drawings.landmarks[index] * len(picture)
        box_4 = face_box(points_N2)
        size = float(max(box_4[2] - box_4[0], box_4[3] - box_4[1]))
        centre_2 = (box_4[:2] + box_4[2:]) / 2 + dice.normal(0, 0.04 * size, 2).astype(np.float32)
        scale = SIDE / (size * ROOM) * float(np.exp(dice.normal(0, 0.08)))
        mirrored = bool(dice.random() < 0.5)
        middle_2 = np.full(2, SIDE / 2, np.float32)
        matrix_23 = placed(centre_2, scale, dice.normal(0, 0.15), middle_2, mirrored)
        # Points are places between pixels, the warp counts from the middle of the first pixel.
        shifted_23 = matrix_23.copy()
        shifted_23[:, 2] += matrix_23[:, :2].sum(axis=1) * 0.5 - 0.5
        told_N2 = carried(matrix_23, points_N2) / (SIDE / 2) - 1
        if mirrored:
            told_N2 = told_N2[self._mirrored]
        return worn(warped(picture, shifted_23, SIDE), dice), told_N2.reshape(-1).astype(np.float32)


def points_loss(model: PointFinder, squares: FaceSquares) -> torch.Tensor:
    """Smooth L1 distance of the points; beyond a pixel of the small square it grows evenly."""
    device = model.gather.weight.device
    told_BN = model(batch_of(squares.pixels.to(device), MEAN, STD))
    return nn.functional.smooth_l1_loss(told_BN, squares.answers.to(device), beta=0.03) * 10


def mirrored_order(landmarks_LN2: FloatArray) -> list[int]:
    """For each of the 106 points its partner in a mirrored face, found from many faces.

    The mean face is even; each point's partner is the one that lies nearest to its mirror image, and partners are
    each other's.
    """
    mean_N2 = landmarks_LN2.mean(axis=0)
    middle = float(mean_N2[:, 0].mean())
    flipped_N2 = mean_N2 * [-1, 1] + [2 * middle, 0]
    far_NN = np.hypot(*(flipped_N2[:, None] - mean_N2[None]).transpose(2, 0, 1))
    partners = [int(row.argmin()) for row in far_NN]
    # The pupils are told twice, in one place: they are given out in turn.
    partners[34], partners[38], partners[88], partners[92] = 92, 88, 38, 34
    return partners
