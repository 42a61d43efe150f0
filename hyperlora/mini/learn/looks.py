"""What CLIP is shown of each drawn portrait: the masked face and the surroundings, cut as at inference.

Shapes: N portraits, V pixels of the vision tower's side.

The landmarks of a drawing are exact, so no face needs to be found. Pieces lie beside the drawings' own, and those that
are there are not made again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.faces.crops import faceless, masked_face
from hyperlora.faces.types import Face
from hyperlora.mini.learn.crops import face_box, five_points
from hyperlora.mini.learn.drawings import PIECE, Drawings
from hyperlora.mini.learn.pieces import each_piece

FACES, SURROUNDINGS = 0, 1


def face_of(landmarks_N2: npt.NDArray[np.float32], side: int) -> Face:
    """A drawing's face, from landmarks in parts of the side."""
    points = (landmarks_N2 * side).astype(np.float32)
    return Face(face_box(points), 1.0, five_points(points), points)


def cut_looks(drawings: Drawings, place: Path, side: int, processes: int | None = None) -> npt.NDArray[np.uint8]:
    """(N, 2, V, V, 3) RGB: masked face and surroundings of each portrait, cut into files of `place` where missing."""
    place.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(drawings), PIECE)
    tasks = [
        (drawings.pixels[start : start + PIECE], drawings.landmarks[start : start + PIECE], _file(place, start), side)
        for start in starts
        if not _file(place, start).exists()
    ]
    each_piece(_cut, tasks, processes)
    pieces = [np.load(_file(place, start), allow_pickle=False) for start in starts]
    looks: npt.NDArray[np.uint8] = np.concatenate(pieces)
    if looks.shape[2] != side:
        raise FileExistsError(f"{place} holds looks of {looks.shape[2]} pixels, {side} were wanted; remove it")
    return looks


def processor_config(side: int) -> dict[str, Any]:
    """CLIP's own preprocessing at this side, as `preprocessor_config.json` holds it."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }


def write_processor(folder: Path, side: int) -> None:
    """Write `preprocessor_config.json`."""
    content = json.dumps(processor_config(side), indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(content, encoding="utf-8", newline="\n")


def _file(place: Path, start: int) -> Path:
    return place / f"{start:07d}.npy"


def _cut(task: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], Path, int]) -> None:
    from transformers import CLIPImageProcessorPil

    pixels, landmarks, file, side = task
    settings = {**processor_config(side), "do_rescale": False, "do_normalize": False}
    settings.pop("image_processor_type")
    processor = CLIPImageProcessorPil(**settings)
    rows = []
    for portrait, points in zip(pixels, landmarks, strict=True):
        image, face = Image.fromarray(portrait), face_of(points, len(portrait))
        shown = processor([masked_face(image, face), faceless(image, face)], return_tensors="np")["pixel_values"]
        rows.append(np.clip(np.rint(shown), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))
    beside = file.with_name(f".{file.stem}-{os.getpid()}.npy")
    np.save(beside, np.stack(rows), allow_pickle=False)
    beside.rename(file)
