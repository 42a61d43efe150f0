"""One ONNX network, given many pictures at a time where its graph allows it.

Whether a graph may be trusted with several pictures cannot be read from its shapes alone: detectors flatten the batch
into their rows in one order or another. So two pictures are shown together and alone when a network is loaded; only
where each answers as it does alone are batches used. Otherwise pictures go one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hyperlora.faces.providers import CPU
from hyperlora.faces.types import RGBArray

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
# Relative to the largest number of an answer: batched products are summed in another order.
TOLERANCE = 1e-4


def blob(squares: Sequence[RGBArray], mean: float, deviation: float) -> Floats:
    """(N, 3, H, W) float32 from squares (H, W, 3) of one size: every value less the mean, over the deviation."""
    return np.asarray(cv2.dnn.blobFromImages(list(squares), 1 / deviation, mean=(mean,) * 3), dtype=np.float32)


class OnnxBatch:
    """A session of one picture input; safe to call from several threads, as ONNX Runtime's sessions are."""

    def __init__(self, session: Any, probe_3HW: tuple[int, int, int], *, most: int) -> None:
        """Look at the session once.

        Parameters
        ----------
        session
            An ONNX Runtime session.
        probe_3HW
            Shape of a small picture that the network takes.
        most
            Pictures in one call.
        """
        self._session, self._most = session, most
        source = session.get_inputs()[0]
        self._input, self._outputs = source.name, [output.name for output in session.get_outputs()]
        # GPUs search or build anew for every shape: there, batches are filled up to powers of two.
        self._fill = session.get_providers()[:1] != [CPU]
        self.batches = not isinstance(source.shape[0], int) and self._answers_alike(probe_3HW)
        if not self.batches:
            log.info("the ONNX graph with input %s takes one picture at a time", source.shape)

    def run(self, pictures_N3HW: Floats) -> list[list[Floats]]:
        """Each picture's outputs, shaped as those of a call with that picture alone."""
        most = self._most if self.batches else 1
        answers: list[list[Floats]] = []
        for begin in range(0, len(pictures_N3HW), most):
            answers += self._call(pictures_N3HW[begin : begin + most])
        return answers

    def _call(self, pictures_N3HW: Floats) -> list[list[Floats]]:
        count = len(pictures_N3HW)
        filled = self._filled(pictures_N3HW) if self._fill and self.batches else pictures_N3HW
        outputs = self._session.run(self._outputs, {self._input: np.ascontiguousarray(filled)})
        parts = [np.split(output, len(filled)) for output in outputs]
        return [[part[row] for part in parts] for row in range(count)]

    def _filled(self, pictures_N3HW: Floats) -> Floats:
        """With black pictures up to the next power of two, as far as `most`."""
        count = len(pictures_N3HW)
        size = min(1 << (count - 1).bit_length(), self._most)
        black = np.zeros((size - count, *pictures_N3HW.shape[1:]), dtype=np.float32)
        return np.concatenate([pictures_N3HW, black]) if size > count else pictures_N3HW

    def _answers_alike(self, shape_3HW: tuple[int, int, int]) -> bool:
        pictures_N3HW = np.random.default_rng(0).uniform(-1, 1, (2, *shape_3HW)).astype(np.float32)
        names, given = self._outputs, self._input
        alone = [self._session.run(names, {given: picture[None]}) for picture in pictures_N3HW]
        try:
            together = self._session.run(names, {given: pictures_N3HW})
        # The binding has an exception class for each kind of refusal, with no class of its own above them.
        except Exception as fault:  # noqa: BLE001 - whatever it was, the graph takes no batch
            log.info("the ONNX graph names a batch axis and refuses two pictures: %s", fault)
            return False
        apart = [np.concatenate([one[place] for one in alone]) for place in range(len(names))]
        if any(both.shape != each.shape for both, each in zip(together, apart, strict=True)):
            log.info("the ONNX graph names a batch axis and does not answer two pictures in it")
            return False
        worst = float(np.max([_difference(both, each) for both, each in zip(together, apart, strict=True)]))
        if not worst <= TOLERANCE:  # so that NaN is refused too
            log.warning(
                "the ONNX graph with input %s answers two pictures otherwise than each alone, by %.1e of the largest "
                "number where %.0e is rounding: photos go through it one by one, which is slower",
                shape_3HW,
                worst,
                TOLERANCE,
            )
            return False
        return True


def _difference(together: Floats, apart: Floats) -> float:
    """The largest, as a share of the largest number where that is above one; NaN where there are such."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return float(np.abs(together - apart).max(initial=0) / max(1.0, float(np.abs(apart).max(initial=0))))
