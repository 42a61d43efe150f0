"""The mini pack's InsightFace folder, trained from nothing and measured through the real `FaceAnalysis`.

det.onnx           detector; 2d106det.onnx  landmarks; recogniser.onnx  512 numbers
metrics.json       what was measured on people who were not trained with
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hyperlora.mini.learn import detector, embedding, points
from hyperlora.mini.learn.convnet import Size
from hyperlora.mini.learn.drawings import PIECE, Drawings, DrawingSet
from hyperlora.mini.learn.measures import measure_pack
from hyperlora.mini.learn.steps import OnStep, Steps, on_device, take_steps

PackSize = Literal["tiny", "full"]
DETECTOR, POINTS, RECOGNISER, METRICS = "det.onnx", "2d106det.onnx", "recogniser.onnx", "metrics.json"
SIDES: dict[PackSize, int] = {"tiny": 64, "full": 128}  # of the pictures of either world
_ARRAYS = ("pixels", "landmarks", "labels")


@dataclass(frozen=True)
class Part:
    """One network: its layers, its steps, and how many drawings it sees (the first ones; None for all)."""

    sizes: tuple[Size, ...]
    steps: Steps
    pictures: int | None = None


@dataclass(frozen=True)
class FaceRecipe:
    """The three networks of a pack."""

    detector: Part
    points: Part
    recogniser: Part


RECIPES: dict[PackSize, FaceRecipe] = {
    # Some ten minutes of one CPU core.
    "tiny": FaceRecipe(
        Part(detector.TINY, Steps(1200, 32, 3e-3, seed=1), 5_000),
        Part(points.TINY, Steps(1200, 64, 3e-3, seed=2), 5_000),
        Part(embedding.TINY, Steps(700, 96, 3e-3, seed=3, keep_every=50)),
    ),
    # Some minutes of a GPU; drawing batches is what takes the time.
    "full": FaceRecipe(
        Part(detector.FULL, Steps(5_000, 128, 3e-3, seed=1)),
        Part(points.FULL, Steps(6_000, 256, 3e-3, seed=2)),
        Part(embedding.FULL, Steps(8_000, 512, 3e-3, seed=3)),
    ),
}


def train_face_pack(
    drawings: Path,
    folder: Path,
    size: PackSize = "tiny",
    *,
    device: str = "cpu",
    threads: int = 0,
    seconds: float | None = None,
    recipe: FaceRecipe | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any] | None:
    """Train, write and measure a pack; answers with its metrics, or with None if the time ran out first.

    Parameters
    ----------
    drawings
        Holds the sets `train` and `validation`. What an unfinished training needs to go on lies beside it, in
        `faces-training`.
    folder
        Becomes the pack.
    size
        Which recipe, unless one is given.
    threads
        Batches are drawn ahead on so many threads; for a GPU.
    seconds
        No step is begun after so many; the next call goes on.
    on_step
        See `take_steps`.

    Raises
    ------
    FileNotFoundError
        A set is not drawn to its end.
    CheckpointMismatch
        What lies beside the drawings is of another recipe.
    """
    until = None if seconds is None else time.monotonic() + seconds
    chosen = recipe or RECIPES[size]
    state = drawings.with_name("faces-training")
    began = time.monotonic()

    def trained(name: str, model: nn.Module, part: Part, maker: Callable[..., Any], loss: Callable[..., Any]) -> bool:
        on_device(model, device)
        draw = maker(first_drawings(drawings / "train", part.pictures)).draw
        return take_steps(
            name, model, part.steps, draw, lambda batch: loss(model, batch), state,
            threads=threads, until=until, on_step=on_step,
        )  # fmt: skip

    # 1. Each network, from where an earlier call left it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.detector.steps.seed)
        finder = detector.Detector(chosen.detector.sizes)
        placer = points.PointFinder(chosen.points.sizes)
        encoder = embedding.FaceEncoder(chosen.recogniser.sizes)
    done = (
        trained("detector", finder, chosen.detector, detector.CanvasMaker, detector.detector_loss)
        and trained("points", placer, chosen.points, points.SquareMaker, points.points_loss)
        and trained("recogniser", encoder, chosen.recogniser, embedding.PairMaker, embedding.encoder_loss)
    )
    if not done:
        return None
    # 2. The files.
    folder.mkdir(parents=True, exist_ok=True)
    detector.write_detector(finder, folder / DETECTOR)
    points.write_points(placer, folder / POINTS)
    embedding.write_encoder(encoder, folder / RECOGNISER)
    # 3. What they are worth.
    metrics = {
        "size": size,
        "parts": {name: {"pictures": part.pictures, **asdict(part.steps)} for name, part in vars(chosen).items()},
        "seconds_of_last_call": round(time.monotonic() - began),
        "validation": measure_pack(folder, Drawings.load(drawings / "validation"), SIDES[size]),
    }
    (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8", newline="\n")
    return metrics


def first_drawings(place: Path, count: int | None = None) -> Drawings:
    """The first pieces of a drawn set, `count` pictures or a few more; None for the whole set.

    Raises
    ------
    FileNotFoundError
        A piece that is needed is not drawn yet.
    """
    if count is None:
        return Drawings.load(place)
    described = json.loads((place / "set.json").read_text(encoding="utf-8"))
    described.pop("recipe")
    wanted = DrawingSet(**described)
    pieces = [np.load(place / f"{start:07d}.npz") for start in range(0, min(count, len(wanted)), PIECE)]
    pixels, landmarks, labels = (np.concatenate([piece[name] for piece in pieces]) for name in _ARRAYS)
    persons = np.array([wanted.person_seed(index) for index in range(len(pixels))])
    captions = tuple(wanted.caption(index) for index in range(len(pixels)))
    return Drawings(pixels, landmarks, labels.astype(np.int64), persons, captions)
