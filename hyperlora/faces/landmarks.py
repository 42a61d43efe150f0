"""106 landmarks of faces, many in one call.

The network is shown each face in a square, its box's centre in the middle and its longer side two thirds of it, and
answers with places in that square, -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hyperlora.faces.onnx_batch import Floats, OnnxBatch, blob
from hyperlora.faces.types import FloatArray, RGBArray

MARGIN = 1.5
POINTS = 106
MOST_FACES = 32


class Landmarks:
    """The landmark network of a pack."""

    def __init__(self, model: Any) -> None:
        """`model` is InsightFace's, whose session and scaling of the input are used."""
        self._side = int(model.input_size[0])
        self._mean, self._deviation = float(model.input_mean), float(model.input_std)
        self._network = OnnxBatch(model.session, (3, self._side, self._side), most=MOST_FACES)
        self.batches = self._network.batches

    def find(self, seen: Sequence[tuple[RGBArray, FloatArray]]) -> list[FloatArray]:
        """(106, 2) points in the photo's coordinates for each photo and box (left, top, right, bottom)."""
        found: list[FloatArray] = []
        for begin in range(0, len(seen), MOST_FACES):
            chunk = seen[begin : begin + MOST_FACES]
            matrices = [self._matrix(box_4) for _, box_4 in chunk]
            squares: list[RGBArray] = [
                np.asarray(cv2.warpAffine(rgb_HW3, matrix_23, (self._side, self._side), borderValue=0.0), np.uint8)
                for (rgb_HW3, _), matrix_23 in zip(chunk, matrices, strict=True)
            ]
            answers = self._network.run(blob(squares, self._mean, self._deviation))
            found += [self._read(answer[0], matrix) for answer, matrix in zip(answers, matrices, strict=True)]
        return found

    def _matrix(self, box_4: FloatArray) -> npt.NDArray[np.float64]:
        """(2, 3) from the photo into the square."""
        left, top, right, bottom = (float(value) for value in box_4)
        scale = self._side / (max(right - left, bottom - top) * MARGIN)
        x, y = (left + right) / 2, (top + bottom) / 2
        return np.array([[scale, 0, self._side / 2 - x * scale], [0, scale, self._side / 2 - y * scale]])

    def _read(self, answer: Floats, matrix_23: npt.NDArray[np.float64]) -> FloatArray:
        places_P2 = (answer.reshape(-1, 2)[-POINTS:] + 1) * (self._side // 2)
        points_P2 = (places_P2 - matrix_23[:, 2]) / matrix_23[0, 0]
        return np.asarray(points_P2, dtype=np.float32)
