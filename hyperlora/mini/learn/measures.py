"""How good the face pack and the judge are, on drawings of people whom neither was trained with.

Shapes: L pictures, E numbers of an embedding, P people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.faces.insightface import InsightFaceAnalyzer
from hyperlora.faces.types import Face, FloatArray, RGBArray
from hyperlora.mini.attributes import BACKGROUNDS, VOCABULARY
from hyperlora.mini.background import paint_background
from hyperlora.mini.canvas import Canvas
from hyperlora.mini.learn.crops import five_points, shrunk
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.judge import LABELS, SIDE, MiniJudge

_FEW, _SIZES = 50, (512, 384, 256)


def measure_pack(folder: Path, drawings: Drawings, side: int) -> dict[str, Any]:
    """How a pack does on drawings of `side` pixels, through the real `FaceAnalysis`.

    found: share of portraits in which exactly one face is found. points: mean distance of the five points in parts of
    the eyes' distance; landmarks: the same of the 106. rank1: share of portraits whose person's mean embedding, made
    of the person's other portraits, is the nearest among all people. On a few of them: found_at, the share found at
    smaller detector sizes; small, when the portrait takes a fifth of the photo; turned, the share of portraits lying on
    their side in which nothing is found. none: share of scenes without a person in which nothing is found.
    """
    analyzer = InsightFaceAnalyzer(folder, providers=["CPUExecutionProvider"])
    pictures = [shrunk(pixels, side) for pixels in drawings.pixels]
    found = [analyzer.detect(picture, 640) for picture in pictures]
    faces = [_nearest(some, side) for some in found]
    embeddings = [None if face is None else analyzer.embed(p, face) for p, face in zip(pictures, faces, strict=True)]
    few = pictures[:_FEW]
    lying = [np.ascontiguousarray(np.rot90(picture)) for picture in few]
    return {
        "side": side,
        "found": _share([len(some) == 1 for some in found]),
        "score_median": round(float(np.median([face.score if face else 0.0 for face in faces])), 3),
        "points": _distance(faces, drawings, side, five=True),
        "landmarks": _distance(faces, drawings, side, five=False),
        "rank1": rank1(embeddings, drawings.persons),
        "found_at": {
            str(size): _share([len(analyzer.detect(picture, size)) == 1 for picture in few]) for size in _SIZES
        },
        "small": _share([len(analyzer.detect(_in_a_corner(picture), 640)) == 1 for picture in few]),
        "turned": _share([not analyzer.detect(picture, 640) for picture in lying]),
        "none": _share([not analyzer.detect(scene, 640) for scene in _scenes()]),
    }


def measure_judge(judge: MiniJudge, drawings: Drawings) -> dict[str, Any]:
    """How a judge does on drawings at 64 pixels, sharp and as soft as generated pictures are.

    rank1 as in `measure_pack`; the labels: share of pictures whose word is right.
    """
    places = list(VOCABULARY)
    told: dict[str, Any] = {}
    for kind, radius in (("sharp", 0.0), ("soft", 0.7)):
        pictures = [_softened(shrunk(pixels, SIDE), radius) for pixels in drawings.pixels]
        read = judge.labels(pictures)
        told[kind] = {"rank1": rank1(judge.embed(pictures), drawings.persons)}
        for name in LABELS:
            right_L = [VOCABULARY[name][place] for place in drawings.labels[:, places.index(name)]]
            told[kind][name] = _share([one[name] == word for one, word in zip(read, right_L, strict=True)])
    return told


def rank1(embeddings_LE: Sequence[FloatArray | None], persons_L: npt.NDArray[np.int64]) -> float:
    """Share of pictures whose own person is the nearest: each against the mean of the person's other pictures, and of
    all pictures of everybody else. A picture without an embedding is a miss, and is in nobody's mean.
    """
    people = np.unique(persons_L)
    has_L = np.array([row is not None for row in embeddings_LE])
    if not has_L.any():
        return 0.0
    width = next(len(row) for row in embeddings_LE if row is not None)
    rows_LE = np.stack([np.zeros(width, np.float32) if row is None else row for row in embeddings_LE])
    sums_PE = np.stack([rows_LE[persons_L == one].sum(axis=0) for one in people])
    right = 0
    for row_E, one, has in zip(rows_LE, persons_L, has_L, strict=True):
        own = int(np.searchsorted(people, one))
        means_PE = sums_PE.copy()
        means_PE[own] -= row_E
        means_PE /= np.linalg.norm(means_PE, axis=1, keepdims=True) + 1e-9
        right += bool(has) and int((means_PE @ row_E).argmax()) == own
    return round(right / len(rows_LE), 4)


def _nearest(faces: list[Face], side: int) -> Face | None:
    """The face that a portrait shows: the one nearest to its middle."""
    return min(
        faces, key=lambda face: float(np.abs(face.box_xyxy.reshape(2, 2).mean(0) - side / 2).sum()), default=None
    )


def _distance(faces: list[Face | None], drawings: Drawings, side: int, *, five: bool) -> float | None:
    far: list[float] = []
    for face, landmarks_N2 in zip(faces, drawings.landmarks, strict=True):
        true_N2 = landmarks_N2 * side
        eyes = float(np.hypot(*(true_N2[88] - true_N2[38])))
        if face is None or face.points_106_2 is None:
            continue
        told, wanted = (face.points_5_2, five_points(true_N2)) if five else (face.points_106_2, true_N2)
        far.append(float(np.hypot(*(told - wanted).T).mean()) / eyes)
    return round(float(np.mean(far)), 4) if far else None


def _in_a_corner(pixels_SS3: RGBArray) -> RGBArray:
    """The portrait in the upper left corner of a grey picture of five times its side."""
    side = len(pixels_SS3)
    canvas: RGBArray = np.full((5 * side, 5 * side, 3), 127, np.uint8)
    canvas[side // 2 : side // 2 + side, side // 2 : side // 2 + side] = pixels_SS3
    return canvas


def _scenes() -> list[RGBArray]:
    """Pictures without a person: every background, grey, black, white, noise."""
    scenes: list[RGBArray] = [np.full((128, 128, 3), value, np.uint8) for value in (0, 127, 255)]
    scenes.append(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    for seed, name in enumerate(BACKGROUNDS, start=101):
        canvas = Canvas(128)
        paint_background(canvas, name, seed)
        scenes.append(np.clip(np.rint(canvas.pixels()), 0, 255).astype(np.uint8))
    return scenes


def _share(right: list[bool]) -> float:
    return round(float(np.mean(right)), 4)


def _softened(rgb_SS3: RGBArray, radius: float) -> Image.Image:
    return Image.fromarray(np.asarray(cv2.GaussianBlur(rgb_SS3, (0, 0), radius)) if radius else rgb_SS3)
