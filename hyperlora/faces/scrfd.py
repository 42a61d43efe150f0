"""From photos to SCRFD's input and from its output to boxes and points, for many photos in one call.

The network looks at squares cut into cells of 8, 16 and 32 pixels (nets of 15 outputs: up to 128, one anchor a cell),
two anchors in each cell, and answers for every anchor with a score, the distances to the box's four sides and the
offsets of five points, in units of the cell (Guo et al., "Sample and Computation Redistribution for Efficient Face
Detection", 2021). What overlaps a better box by more than 0.4 is dropped.

Shapes: B photos, S side of the square, A anchors of one stride, F faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from hyperlora.faces.onnx_batch import Floats, OnnxBatch, blob
from hyperlora.faces.types import RGBArray

MEAN, DEVIATION = 127.5, 128.0
STRIDES = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}  # outputs -> strides, anchors of a cell
PROBE_SIDE = 128  # a multiple of all strides
MOST_SQUARES = 16  # of 640 pixels: 79 MB of input


@dataclass(frozen=True, eq=False)
class Detection:
    """The faces of one photo in its own coordinates, best first: boxes and scores (F, 5), points (F, 5, 2)."""

    boxes_F5: Floats
    points_F52: Floats


class Scrfd:
    """The detector of a pack."""

    def __init__(self, detector: Any) -> None:
        """`detector` is InsightFace's, whose session, threshold and non-maximum suppression are used."""
        self._detector = detector
        self._strides, self._anchors = STRIDES[len(detector.session.get_outputs())]
        fixed = [side if isinstance(side, int) else None for side in detector.session.get_inputs()[0].shape[2:4]]
        height, width = fixed
        self._fixed = None if height is None or width is None else (height, width)
        sides = self._fixed or (PROBE_SIDE, PROBE_SIDE)
        self._network = OnnxBatch(detector.session, (3, *sides), most=MOST_SQUARES)
        self.batches = self._network.batches

    def detect(self, photos: Sequence[RGBArray], size: int) -> list[Detection]:
        """The faces of each photo when it is fitted into a square of `size` pixels, or the graph's own size."""
        sides = self._fixed or (size, size)
        found: list[Detection] = []
        for begin in range(0, len(photos), MOST_SQUARES):
            chunk = photos[begin : begin + MOST_SQUARES]
            fitted = [_fitted(photo, sides) for photo in chunk]
            squares_B3SS = blob([square for square, _ in fitted], MEAN, DEVIATION)
            answers = self._network.run(squares_B3SS)
            scales = [scale for _, scale in fitted]
            found += [self._read(answer, sides, scale) for answer, scale in zip(answers, scales, strict=True)]
        return found

    def _read(self, outputs: Sequence[Floats], sides: tuple[int, int], scale: float) -> Detection:
        count = len(self._strides)
        boxes, points = [], []
        for place, stride in enumerate(self._strides):
            scores_A = outputs[place].reshape(-1)
            sure = np.flatnonzero(scores_A >= self._detector.det_thresh)
            centres_A2 = _centres(sides, stride, self._anchors)[sure]
            reach_A4 = outputs[count + place].reshape(-1, 4)[sure] * stride
            offsets_A52 = outputs[2 * count + place].reshape(-1, 5, 2)[sure] * stride
            corners = [centres_A2 - reach_A4[:, :2], centres_A2 + reach_A4[:, 2:]]
            boxes.append(np.hstack([np.hstack(corners) / scale, scores_A[sure, None]]))
            points.append((centres_A2[:, None] + offsets_A52) / scale)
        return self._best(np.vstack(boxes).astype(np.float32), np.concatenate(points).astype(np.float32))

    def _best(self, boxes_A5: Floats, points_A52: Floats) -> Detection:
        finite = np.isfinite(boxes_A5).all(axis=1) & np.isfinite(points_A52).all(axis=(1, 2))
        boxes_A5, points_A52 = boxes_A5[finite], points_A52[finite]
        order = np.argsort(-boxes_A5[:, 4], kind="stable")
        boxes_A5, points_A52 = boxes_A5[order], points_A52[order]
        kept = self._detector.nms(boxes_A5) if len(boxes_A5) else []
        return Detection(boxes_A5[kept], points_A52[kept])


def _fitted(rgb_HW3: RGBArray, sides: tuple[int, int]) -> tuple[RGBArray, float]:
    """The photo in the upper left of a black square, and the scale by which it was multiplied."""
    height, width = rgb_HW3.shape[:2]
    ratio = height / width
    tall = ratio > sides[0] / sides[1]
    new_height = sides[0] if tall else max(1, int(sides[1] * ratio))
    new_width = max(1, int(sides[0] / ratio)) if tall else sides[1]
    square: RGBArray = np.zeros((*sides, 3), dtype=np.uint8)
    square[:new_height, :new_width] = cv2.resize(rgb_HW3, (new_width, new_height))
    return square, new_height / height


@lru_cache(maxsize=64)
def _centres(sides: tuple[int, int], stride: int, anchors: int) -> Floats:
    """(A, 2) the cells' upper left corners, row by row, once for each anchor."""
    y_A, x_A = np.mgrid[: sides[0] // stride, : sides[1] // stride].reshape(2, -1)
    return np.repeat(np.stack([x_A, y_A], axis=-1) * stride, anchors, axis=0).astype(np.float32)
