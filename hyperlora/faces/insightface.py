"""An InsightFace pack (antelopev2, buffalo_l, or one of your own) from a local folder.

The pack is loaded by InsightFace's own `FaceAnalysis`, which tells detector, 106 landmarks and recogniser apart by the
shapes of their ONNX files; other models of the pack (age, 3D landmarks) are not loaded. `FaceAnalysis` downloads what
it does not find, so the folder is checked before it is asked. Packs from the InsightFace project are for
non-commercial research only, unless licensed otherwise.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hyperlora.errors import WeightsMissing
from hyperlora.faces.align import aligned_crop
from hyperlora.faces.types import Face, FloatArray, RGBArray, check_rgb, unit_length

DETECTION, LANDMARKS, RECOGNITION = "detection", "landmark_2d_106", "recognition"
SCORE_THRESHOLD = 0.5


class InsightFaceAnalyzer:
    """SCRFD, 106 landmarks and an ArcFace-like recogniser behind the analyzer's interface; one lock guards all."""

    def __init__(self, folder: str | Path, *, providers: Sequence[str] | None = None) -> None:
        """Load a pack.

        Parameters
        ----------
        folder
            The pack's folder of ONNX files; its name becomes part of the analyzer's name.
        providers
            ONNX Runtime's execution providers; None lets InsightFace choose the GPU where it can.

        Raises
        ------
        WeightsMissing
            Package, folder or one of the three models is missing, or a file cannot be read.
        """
        place = _pack_folder(folder)
        self.name = f"insightface-{place.name}"
        self._lock = threading.Lock()
        self._models = _load_models(place, providers)
        self._detector: Any = self._models[DETECTION]
        self._recogniser: Any = self._models[RECOGNITION]
        self._side = int(self._recogniser.input_size[0])
        self.embedding_size = self._measured_width()

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        """Every face seen when the photo is fitted into a square of `size` pixels, with landmarks, best score first.

        A detector whose ONNX input has a fixed size always uses that one.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture.
        """
        check_rgb(rgb_HW3)
        bgr_HW3 = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2BGR)
        with self._lock:
            boxes_F5, points_F52 = self._detector.detect(bgr_HW3, input_size=(size, size))
            faces = [
                self._with_landmarks(bgr_HW3, box_5, points_52)
                for box_5, points_52 in zip(boxes_F5, points_F52, strict=True)
                if np.isfinite(box_5).all() and np.isfinite(points_52).all()
            ]
        return sorted(faces, key=lambda face: -face.score)

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        """(E,) embedding of unit length.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture, or a face whose points lie in one place.
        """
        check_rgb(rgb_HW3)
        aligned_SS3 = cv2.cvtColor(aligned_crop(rgb_HW3, face.points_5_2, self._side), cv2.COLOR_RGB2BGR)
        with self._lock:
            feature_1E = self._recogniser.get_feat(aligned_SS3)
        return unit_length(feature_1E)

    def _with_landmarks(self, bgr_HW3: Any, box_5: FloatArray, points_52: FloatArray) -> Face:
        from insightface.app.common import Face as PackFace

        pack_face = PackFace(bbox=box_5[:4], kps=points_52, det_score=box_5[4])
        points_106_2 = self._models[LANDMARKS].get(bgr_HW3, pack_face)
        return Face(
            box_xyxy=np.asarray(box_5[:4], dtype=np.float32),
            score=float(box_5[4]),
            points_5_2=np.asarray(points_52, dtype=np.float32),
            points_106_2=np.asarray(points_106_2, dtype=np.float32),
        )

    def _measured_width(self) -> int:
        """The numbers of an embedding; files may leave the output's shape open, so one blank square is recognised."""
        blank_SS3 = np.full((self._side, self._side, 3), 127, dtype=np.uint8)
        return int(np.asarray(self._recogniser.get_feat(blank_SS3)).size)


def _pack_folder(folder: str | Path) -> Path:
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise WeightsMissing(
            f"the InsightFace pack folder {place} is not there; download the pack (antelopev2 for the released "
            "HyperLoRA weights), unpack its ONNX files into that folder, and mind its licence"
        )
    if not any(place.glob("*.onnx")) and not (place / "manifest.json").is_file():
        deeper = sorted({file.parent for file in place.glob("*/*.onnx")})
        hint = f"; they lie one level deeper, in {deeper[0]}: name that folder" if deeper else ""
        raise WeightsMissing(f"the InsightFace pack folder {place} holds no ONNX files{hint}")
    return place


def _load_models(place: Path, providers: Sequence[str] | None) -> dict[str, Any]:
    if importlib.util.find_spec("insightface") is None or importlib.util.find_spec("onnxruntime") is None:
        raise WeightsMissing(
            "InsightFace packs need the packages insightface and onnxruntime; "
            "run: pip install 'hyperlora-portraits[insightface]'"
        )
    from google.protobuf.message import DecodeError
    from insightface.app import FaceAnalysis
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    torn = (runtime.InvalidProtobuf, runtime.InvalidGraph, runtime.InvalidArgument, runtime.Fail, runtime.NoSuchFile,
            runtime.NotImplemented, runtime.RuntimeException, DecodeError)  # fmt: skip
    settings: dict[str, Any] = {} if providers is None else {"providers": list(providers)}
    try:
        analysis = FaceAnalysis(
            name=str(place), root=str(place.parent), allowed_modules=[DETECTION, LANDMARKS, RECOGNITION], **settings
        )
        analysis.prepare(ctx_id=0, det_thresh=SCORE_THRESHOLD, det_size=(640, 640))
    except AssertionError as fault:
        raise WeightsMissing(f"the InsightFace pack {place} has no usable detection model: {fault}") from fault
    except (*torn, RuntimeError, ValueError, OSError) as fault:
        raise WeightsMissing(f"the InsightFace pack {place} cannot be loaded: {fault}") from fault
    models: dict[str, Any] = dict(analysis.models)
    wanted = {
        DETECTION: "a detector with 9 outputs (SCRFD with five points)",
        LANDMARKS: "a landmark model of 192 px input and 212 outputs (2d106det.onnx)",
        RECOGNITION: "a recogniser of a square input of 112 px or more (glintr100.onnx)",
    }
    missing = [f"{kind}: {what}" for kind, what in wanted.items() if kind not in models]
    if not missing and not models[DETECTION].use_kps:
        missing = [f"{DETECTION}: {wanted[DETECTION]}; the one found gives boxes only"]
    if missing:
        found = ", ".join(sorted(models)) or "nothing"
        raise WeightsMissing(f"the InsightFace pack {place} lacks {'; '.join(missing)}. Found: {found}")
    return models
