"""An InsightFace pack (antelopev2, buffalo_l, or one of your own) from a local folder.

The pack is loaded by InsightFace's own `FaceAnalysis`, which tells detector, 106 landmarks and recogniser apart by the
shapes of their ONNX files; other models of the pack (age, 3D landmarks) are not loaded. `FaceAnalysis` downloads what
it does not find, so the folder is checked before it is asked. Packs from the InsightFace project are for
non-commercial research only, unless licensed otherwise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperlora.errors import BadPhoto, WeightsMissing
from hyperlora.faces.align import aligned_crop
from hyperlora.faces.landmarks import Landmarks
from hyperlora.faces.onnx_batch import OnnxBatch, blob
from hyperlora.faces.providers import Providers, choose_providers
from hyperlora.faces.scrfd import Scrfd
from hyperlora.faces.types import Face, FloatArray, RGBArray, check_rgb, unit_length

DETECTION, LANDMARKS, RECOGNITION = "detection", "landmark_2d_106", "recognition"
SCORE_THRESHOLD = 0.5
MOST_FACES = 32


class InsightFaceAnalyzer:
    """SCRFD, 106 landmarks and an ArcFace-like recogniser behind the analyzer's interface.

    Many photos go through each network together where its graph allows it; one is the case of one. ONNX Runtime's
    sessions may be called from several threads at once, and nothing else here changes.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        providers: Sequence[str] | None = None,
        engine_cache: Path | None = None,
        gpu: int | None = None,
        gpu_bytes: int | None = None,
    ) -> None:
        """Load a pack.

        Parameters
        ----------
        folder
            The pack's folder of ONNX files; its name becomes part of the analyzer's name.
        providers
            Execution providers, best first: tensorrt, cuda, cpu or ONNX Runtime's names; None takes the best present.
        engine_cache
            Folder for TensorRT's engines.
        gpu, gpu_bytes
            Number of the GPU to run on, None for the first, and the most bytes of it that each network may take.

        Raises
        ------
        WeightsMissing
            Package, folder or one of the three models is missing, or a file cannot be read.
        ProviderMissing
            A provider was asked for that is not there or cannot be used.
        """
        place = _pack_folder(folder)
        self.name = f"insightface-{place.name}"
        _require_packages()
        chosen = choose_providers(providers, engine_cache=engine_cache, gpu=gpu, gpu_bytes=gpu_bytes)
        models = _load_models(place, chosen)
        self.providers = chosen.check(place, [model.session.get_providers() for model in models.values()])
        """What the networks run on, the preferred one first."""
        self._detector, self._landmarks = Scrfd(models[DETECTION]), Landmarks(models[LANDMARKS])
        self._recogniser: Any = models[RECOGNITION]
        self._side = int(self._recogniser.input_size[0])
        self._embedder = OnnxBatch(self._recogniser.session, (3, self._side, self._side), most=MOST_FACES)
        self.embedding_size = self._measured_width()

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        """Every face seen when the photo is fitted into a square of `size` pixels, with landmarks, best score first.

        A detector whose ONNX input has a fixed size always uses that one.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture.
        """
        return self.detect_many([rgb_HW3], size)[0]

    def detect_many(self, photos: Sequence[RGBArray], size: int = 640) -> list[list[Face]]:
        """What `detect` finds in each of the photos; raises the same."""
        for rgb_HW3 in photos:
            check_rgb(rgb_HW3)
        found = self._detector.detect(photos, size)
        seen = [(photos[at], box_5[:4]) for at, each in enumerate(found) for box_5 in each.boxes_F5]
        landmarks = iter(self._landmarks.find(seen))
        return [
            [
                Face(box_xyxy=box_5[:4].copy(), score=float(box_5[4]), points_5_2=points_52, points_106_2=points_106_2)
                for box_5, points_52, points_106_2 in zip(each.boxes_F5, each.points_F52, landmarks, strict=False)
            ]
            for each in found
        ]

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        """(E,) embedding of unit length.

        Raises
        ------
        BadPhoto
            Not an 8 bit RGB picture, or a face whose points lie in one place.
        """
        answer = self.embed_many([(rgb_HW3, face)])[0]
        if isinstance(answer, BadPhoto):
            raise answer
        return answer

    def embed_many(self, faces: Sequence[tuple[RGBArray, Face]]) -> list[FloatArray | BadPhoto]:
        """What `embed` makes of each face, or the error that it would raise."""
        answers: list[FloatArray | BadPhoto] = [BadPhoto()] * len(faces)
        squares: dict[int, RGBArray] = {}
        for at, (rgb_HW3, face) in enumerate(faces):
            try:
                check_rgb(rgb_HW3)
                squares[at] = aligned_crop(rgb_HW3, face.points_5_2, self._side)
            except BadPhoto as fault:
                answers[at] = fault
        for at, feature_E in zip(squares, self._features(list(squares.values())), strict=True):
            try:
                answers[at] = unit_length(feature_E)
            except BadPhoto as fault:
                answers[at] = fault
        return answers

    def _features(self, squares: Sequence[RGBArray]) -> list[FloatArray]:
        """The recogniser's answers for aligned RGB squares, of any length."""
        mean, deviation = float(self._recogniser.input_mean), float(self._recogniser.input_std)
        features: list[FloatArray] = []
        for begin in range(0, len(squares), MOST_FACES):
            answers = self._embedder.run(blob(squares[begin : begin + MOST_FACES], mean, deviation))
            features += [answer[0].reshape(-1) for answer in answers]
        return features

    def _measured_width(self) -> int:
        """The numbers of an embedding; files may leave the output's shape open, so one blank square is recognised."""
        return self._features([np.full((self._side, self._side, 3), 127, dtype=np.uint8)])[0].size


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


def _require_packages() -> None:
    if importlib.util.find_spec("insightface") is None or importlib.util.find_spec("onnxruntime") is None:
        raise WeightsMissing(
            "InsightFace packs need the packages insightface and onnxruntime; "
            "run: pip install 'hyperlora-portraits[insightface]'"
        )


def _load_models(place: Path, providers: Providers) -> dict[str, Any]:
    from google.protobuf.message import DecodeError
    from insightface.app import FaceAnalysis
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    torn = (runtime.InvalidProtobuf, runtime.InvalidGraph, runtime.InvalidArgument, runtime.Fail, runtime.NoSuchFile,
            runtime.NotImplemented, runtime.RuntimeException, DecodeError)  # fmt: skip
    settings: dict[str, Any] = {"providers": list(providers.names), "provider_options": list(providers.options)}
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
