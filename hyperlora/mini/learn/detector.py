"""The mini pack's face detector: one small network that looks at a picture in three sizes.

Shapes: B canvases of S = 64 pixels, A = 2 anchors, h x w cells of 4 pixels, P positive cells.

The network finds faces of 10 to 52 pixels on a grid of 4 pixels. InsightFace wants scores, boxes and five points at
strides of 8, 16 and 32; the ONNX file shrinks the picture by 2, 4 and 8 and runs the same network, with the same
weights, on each: so faces of 20 to 416 pixels of the detector's square are found, and the answers, in cells, mean the
same at every stride. A cell's place is its upper left corner, as in SCRFD (Guo and others, "Sample and Computation
Redistribution for Efficient Face Detection", 2021). The first anchor is for small faces, the second for large ones.

Faces that lie on their side are taught as none: the turn of a photo is found by what the detector misses.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hyperlora.faces.types import FloatArray, RGBArray
from hyperlora.mini.attributes import BACKGROUNDS
from hyperlora.mini.background import paint_background
from hyperlora.mini.canvas import Canvas
from hyperlora.mini.learn.convnet import Size, Stack, batch_of
from hyperlora.mini.learn.crops import MIRRORED_FIVE, carried, face_box, five_points, placed, shrunk, warped, worn
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.onnx_files import GraphWriter

CELL, SIDE, ANCHORS, SHRINKS = 4, 64, 2, (2, 4, 8)
MEAN, STD = 127.5, 128.0
# Sizes (the longer side of the box, pixels of a canvas) that an anchor is for, and within which it may do as it likes.
SIZES = ((10.0, 24.0), (20.0, 52.0))
UNDECIDED = ((8.0, 30.0), (16.0, 64.0))
_SCENE = 96
_HUGE = 400.0  # the largest face of which a part is shown as none
_CLOSEST = 6.0  # how much a scene without a face may be enlarged
# A face scores 5 and more before the sigmoid, a blot in the background or half a face up to 2; InsightFace's threshold,
# one half, is laid between the two.
CAUTION = 2.5
_VALUES = 14  # four distances, five points
_EMPTY = 0.2  # share of canvases without a face
_WRONG = 0.25  # share of canvases with faces too large or lying on their side

TINY = tuple(Size(*row) for row in ((16, 2), (32, 2), (32, 1), (32, 1, 2), (32, 1, 4), (32, 1, 2), (32, 1)))
FULL = tuple(Size(*row) for row in ((24, 2), (48, 2), (48, 1), (48, 1, 2), (48, 1, 4), (48, 1, 2), (48, 1)))


class Detector(nn.Module):
    """(B, 3, H, W), scaled by `MEAN` and `STD`, to (B, A, h, w) scores and (B, A, 14, h, w) values."""

    def __init__(self, sizes: tuple[Size, ...] = TINY) -> None:
        super().__init__()
        self.stack = Stack(sizes)
        self.score = nn.Conv2d(self.stack.width, ANCHORS, 1)
        self.box = nn.Conv2d(self.stack.width, ANCHORS * 4, 1)
        self.points = nn.Conv2d(self.stack.width, ANCHORS * 10, 1)
        with torch.no_grad():
            # A face is rare; where there is one, half of it, in cells, for either anchor.
            for head, start in ((self.score, [-4.0] * 2), (self.box, [2.0] * 4 + [4.0] * 4)):
                assert head.bias is not None
                head.bias.copy_(torch.tensor(start))

    def forward(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores before the sigmoid, and distances and points in cells."""
        seen_BCHW = self.stack(x_BCHW)
        batch, _, high, wide = seen_BCHW.shape
        box = self.box(seen_BCHW).reshape(batch, ANCHORS, 4, high, wide)
        points = self.points(seen_BCHW).reshape(batch, ANCHORS, 10, high, wide)
        return self.score(seen_BCHW), torch.cat([box, points], 2)


def write_detector(model: Detector, path: Path) -> None:
    """The nine outputs that InsightFace takes for SCRFD: scores, boxes, points, each at strides 8, 16, 32."""
    graph = GraphWriter("mini_detector", None)
    scorer = copy.deepcopy(model.score)
    with torch.no_grad():
        assert scorer.bias is not None
        scorer.bias -= CAUTION
    outputs: dict[str, dict[str, tuple[str | int, ...]]] = {"score": {}, "bbox": {}, "kps": {}}
    for shrink in SHRINKS:
        stride = shrink * CELL
        seen = model.stack.write(graph, graph.pooled(graph.source, shrink))
        score = graph.node("Sigmoid", graph.conv(seen, scorer))
        box, five = graph.conv(seen, model.box), graph.conv(seen, model.points)
        parts = (("score", score, 1), ("bbox", box, 4), ("kps", five, 10))
        for kind, value, width in parts:
            last = graph.node("Transpose", value, perm=[0, 2, 3, 1])
            shape = graph.constant(f"rows_of_{width}", np.array([-1, width], np.int64))
            name = graph.named(f"{kind}_{stride}", graph.node("Reshape", last, shape))
            outputs[kind][name] = (f"n{stride}", width)
    graph.save(path, {name: shape for kind in outputs.values() for name, shape in kind.items()})


@dataclass(frozen=True, eq=False)
class Canvases:
    """A batch.

    Parameters
    ----------
    pixels
        (B, S, S, 3) uint8.
    wanted
        (B, A, h, w) float32: 1 a face, 0 none, -1 either will do.
    cells
        (P, 4) batch, anchor, row, column of the cells that tell a face.
    values
        (P, 14) what they tell, in cells.
    sizes
        (P,) the faces' sizes in cells.
    """

    pixels: torch.Tensor
    wanted: torch.Tensor
    cells: torch.Tensor
    values: torch.Tensor
    sizes: torch.Tensor


class CanvasMaker:
    """Draws canvases with portraits on them, and portraits that must not be taken for faces."""

    def __init__(self, drawings: Drawings) -> None:
        self._drawings = drawings
        self._empty = [_background(name, seed) for name in BACKGROUNDS for seed in range(3)]

    def draw(self, dice: np.random.Generator, batch: int) -> Canvases:
        """A batch of canvases."""
        cells = SIDE // CELL
        pixels = np.empty((batch, SIDE, SIDE, 3), np.uint8)
        wanted = np.zeros((batch, ANCHORS, cells, cells), np.float32)
        found: list[tuple[list[int], FloatArray, float]] = []
        for place in range(batch):
            canvas, faces = self._canvas(dice)
            pixels[place] = worn(canvas, dice)
            for box_4, five_52 in faces:
                found += _told(wanted[place], place, box_4, five_52)
        return Canvases(
            torch.from_numpy(pixels),
            torch.from_numpy(wanted),
            torch.tensor([cell for cell, _, _ in found], dtype=torch.long).reshape(-1, 4),
            torch.from_numpy(np.array([value for _, value, _ in found], np.float32).reshape(-1, _VALUES)),
            torch.tensor([size for _, _, size in found], dtype=torch.float32),
        )

    def _canvas(self, dice: np.random.Generator) -> tuple[RGBArray, list[tuple[FloatArray, FloatArray]]]:
        canvas = self._ground(dice)
        kind = dice.random()
        if kind < _EMPTY:
            return canvas, []
        if kind < _EMPTY + _WRONG:
            return self._pasted(canvas, dice, *self._wrong(dice))[0], []
        faces: list[tuple[FloatArray, FloatArray]] = []
        largest = SIZES[1][1]
        for _ in range(int(dice.integers(1, 3))):
            size = float(np.exp(dice.uniform(np.log(SIZES[0][0]), np.log(largest))))
            fresh, box_4, five_52, frame_4 = self._pasted(canvas, dice, size, dice.normal(0, 0.16))
            if any(_meet(frame_4, before_4) for before_4, _ in faces):
                continue
            canvas = fresh
            faces.append((box_4, five_52))
            largest = 0.5 * SIZES[1][1]
        return canvas, faces

    def _wrong(self, dice: np.random.Generator) -> tuple[float, float]:
        """Size and angle of what is to be no face."""
        if dice.random() < 0.5:
            return float(np.exp(dice.uniform(np.log(UNDECIDED[1][1] + 6), np.log(_HUGE)))), dice.normal(0, 0.2)
        return dice.uniform(12, 50), np.pi / 2 * int(dice.integers(1, 4)) + dice.normal(0, 0.1)

    def _ground(self, dice: np.random.Generator) -> RGBArray:
        kind = dice.random()
        canvas: RGBArray = np.zeros((SIDE, SIDE, 3), np.uint8)
        if kind < 0.2:
            return canvas
        if kind < 0.45:
            canvas[:] = 127 if dice.random() < 0.4 else dice.integers(0, 256, 3)
            return canvas
        if kind < 0.9:
            scene = self._empty[int(dice.integers(len(self._empty)))]
            scale = float(np.exp(dice.uniform(np.log(0.67), np.log(_CLOSEST))))
            # As much of the scene as the canvas holds, from anywhere in it.
            room = max(0.0, len(scene) - SIDE / scale)
            corner_2 = dice.uniform(0, room, 2) if room else np.zeros(2)
            return warped(scene, placed(corner_2, scale, 0.0, np.zeros(2, np.float32)), SIDE)
        return np.asarray(dice.integers(0, 256, (SIDE, SIDE, 3)), dtype=np.uint8)

    def _pasted(
        self, canvas: RGBArray, dice: np.random.Generator, size: float, angle: float
    ) -> tuple[RGBArray, FloatArray, FloatArray, FloatArray]:
        """The canvas with a portrait; the face's box, its five points, and the box of the whole portrait."""
        index = int(dice.integers(len(self._drawings)))
        picture = shrunk(self._drawings.pixels[index], 64 if dice.random() < 0.5 else self._drawings.pixels.shape[1])
        side = len(picture)
        # Index coordinates: the middle of the first pixel is 0.
        points_N2 = self._drawings.landmarks[index] * side - 0.5
        box_4 = face_box(points_N2)
        scale = size / float(max(box_4[2] - box_4[0], box_4[3] - box_4[1]))
        mirrored = bool(dice.random() < 0.5)
        reach = min(0.5 * size, SIDE / 2 - 1)
        to_2 = dice.uniform(reach * 0.9, SIDE - reach * 0.9, 2).astype(np.float32)
        matrix_23 = placed(_middle(box_4), scale, angle, to_2, mirrored)
        made = warped(picture, matrix_23, SIDE, canvas)
        five_52 = carried(matrix_23, five_points(points_N2)) + 0.5
        frame_42 = carried(matrix_23, np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float32))
        return (
            made,
            face_box(carried(matrix_23, points_N2)) + 0.5,
            five_52[list(MIRRORED_FIVE)] if mirrored else five_52,
            np.concatenate([frame_42.min(0), frame_42.max(0)]),
        )


def detector_loss(model: Detector, canvases: Canvases) -> torch.Tensor:
    """Cross entropy of the scores, sure mistakes weighing most, and the error of boxes and points in face sizes."""
    device = model.score.weight.device
    score_BAhw, values_BAVhw = model(batch_of(canvases.pixels.to(device), MEAN, STD))
    wanted_BAhw, cells_P4 = canvases.wanted.to(device), canvases.cells.to(device)
    count = max(1, len(cells_P4))
    each_BAhw = nn.functional.binary_cross_entropy_with_logits(score_BAhw, wanted_BAhw.clamp_min(0), reduction="none")
    wrong_BAhw = score_BAhw.detach().sigmoid() ** 2
    weight_BAhw = torch.where(wanted_BAhw > 0, torch.ones_like(wrong_BAhw), wrong_BAhw * (wanted_BAhw == 0))
    surely = (each_BAhw * weight_BAhw).sum() / count
    if not len(cells_P4):
        return surely
    b, a, row, column = cells_P4.unbind(1)
    told_PV = values_BAVhw[b, a, :, row, column]
    off_PV = (told_PV - canvases.values.to(device)) / canvases.sizes.to(device)[:, None]
    where = nn.functional.smooth_l1_loss(off_PV, torch.zeros_like(off_PV), beta=0.01)
    return surely + 30 * where


def _told(
    wanted_Ahw: FloatArray, place: int, box_4: FloatArray, five_52: FloatArray
) -> list[tuple[list[int], FloatArray, float]]:
    """Mark a face in its anchors' maps; the cells that tell it, with what they tell."""
    told: list[tuple[list[int], FloatArray, float]] = []
    size = float(max(box_4[2] - box_4[0], box_4[3] - box_4[1]))
    middle_2 = _middle(box_4) / CELL
    rows, columns = np.indices(wanted_Ahw.shape[1:])
    far_hw = np.maximum(np.abs(rows - middle_2[1]), np.abs(columns - middle_2[0]))
    near = max(0.75, 0.15 * size / CELL)
    for anchor in range(ANCHORS):
        (low, high), (least, most) = SIZES[anchor], UNDECIDED[anchor]
        if not least <= size <= most:
            continue
        map_hw = wanted_Ahw[anchor]
        map_hw[(far_hw < 2.2 * near) & (map_hw < 1)] = -1
        if not low <= size <= high:
            continue
        for row, column in np.argwhere(far_hw < near).tolist():
            map_hw[row, column] = 1
            corner_2 = np.array([column, row], np.float32)
            low_2, high_2 = corner_2 - box_4[:2] / CELL, box_4[2:] / CELL - corner_2
            values = np.concatenate([low_2, high_2, (five_52 / CELL - corner_2).reshape(-1)])
            told.append(([place, anchor, row, column], values, size / CELL))
    return told


def _background(name: str, seed: int) -> RGBArray:
    canvas = Canvas(_SCENE)
    paint_background(canvas, name, seed)
    return np.clip(np.rint(canvas.pixels()), 0, 255).astype(np.uint8)


def _middle(box_4: FloatArray) -> FloatArray:
    return np.asarray((box_4[:2] + box_4[2:]) / 2, dtype=np.float32)


def _meet(one_4: FloatArray, other_4: FloatArray) -> bool:
    return bool((one_4[:2] < other_4[2:]).all() and (other_4[:2] < one_4[2:]).all())
