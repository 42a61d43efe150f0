"""Drawn portraits as arrays: what every network of the mini pack is trained on.

Shapes: N portraits, S pixels of a side, A attributes of `VOCABULARY`.

A set is a range of people, each drawn a few times; what is drawn depends on the person and on the number of the picture
alone, so a set can be drawn in pieces, on any number of processes, and again. Pieces lie in `.npz` files of
`PIECE` portraits; those that are there are not drawn again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperlora.mini.attributes import VOCABULARY, Attributes, caption, draw_attributes
from hyperlora.mini.learn.pieces import each_piece
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person, split_of

PIECE = 500  # portraits a file
RECIPE = 1  # raise it when the same numbers draw other pictures
_STRIDE = 100_003  # keeps the attributes of one person's pictures apart from the next person's


@dataclass(frozen=True)
class DrawingSet:
    """People `first` to `first + people`, each drawn `each` times, at `size` pixels.

    `styles` is the share of portraits that are drawn in a style other than the plain one.
    """

    name: str
    first: int
    people: int
    each: int
    size: int = 128
    styles: float = 0.0

    def __post_init__(self) -> None:
        splits = {split_of(self.first), split_of(self.first + self.people - 1)}
        if len(splits) != 1 or "spare" in splits:
            raise ValueError(f"people {self.first:,} to {self.first + self.people - 1:,} lie in no one split: {splits}")

    def __len__(self) -> int:
        return self.people * self.each

    def person_seed(self, index: int) -> int:
        """Whose portrait it is; neighbours in the set are different people."""
        return self.first + index % self.people

    def attributes(self, index: int) -> Attributes:
        """What the portrait's caption says."""
        seed = self.person_seed(index) * _STRIDE + index // self.people
        share = (seed * 2_654_435_761 % 2**32) / 2**32
        drawn = draw_attributes(seed, None if share < self.styles else "plain")
        return drawn

    def caption(self, index: int) -> str:
        """The portrait's caption."""
        return caption(person(self.person_seed(index)), self.attributes(index))


def draw_set(wanted: DrawingSet, folder: Path, processes: int | None = None) -> Path:
    """Draw what is not drawn yet into `folder/NAME`; answers with that folder.

    Raises `FileExistsError` if the folder holds another set.
    """
    place = folder / wanted.name
    place.mkdir(parents=True, exist_ok=True)
    described = {**wanted.__dict__, "recipe": RECIPE}
    marker = place / "set.json"
    if marker.exists():
        if json.loads(marker.read_text(encoding="utf-8")) != described:
            raise FileExistsError(f"{place} holds another set of drawings than {described}; remove it")
    else:
        marker.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    missing = [start for start in range(0, len(wanted), PIECE) if not _piece(place, start).exists()]
    each_piece(_draw_piece, [(wanted, place, start) for start in missing], processes)
    return place


@dataclass(frozen=True, eq=False)
class Drawings:
    """A set in memory.

    Parameters
    ----------
    pixels
        (N, S, S, 3) uint8, RGB.
    landmarks
        (N, 106, 2) float32, in parts of the side.
    labels
        (N, A) int64, the place of each word in `VOCABULARY`.
    persons
        (N,) int64 seeds.
    captions
        N sentences.
    """

    pixels: npt.NDArray[np.uint8]
    landmarks: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    persons: npt.NDArray[np.int64]
    captions: tuple[str, ...]

    @classmethod
    def load(cls, place: Path) -> Drawings:
        """Read a drawn set. Raises `FileNotFoundError` for a piece that is not drawn yet."""
        described = json.loads((place / "set.json").read_text(encoding="utf-8"))
        described.pop("recipe")
        wanted = DrawingSet(**described)
        pieces = [np.load(_piece(place, start)) for start in range(0, len(wanted), PIECE)]
        return cls(
            np.concatenate([piece["pixels"] for piece in pieces]),
            np.concatenate([piece["landmarks"] for piece in pieces]),
            np.concatenate([piece["labels"] for piece in pieces]).astype(np.int64),
            np.array([wanted.person_seed(index) for index in range(len(wanted))]),
            tuple(wanted.caption(index) for index in range(len(wanted))),
        )

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def others(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each portrait the places of the same person's other portraits."""
        by_person: dict[int, list[int]] = {}
        for index, seed in enumerate(self.persons.tolist()):
            by_person.setdefault(seed, []).append(index)
        return tuple(
            np.array([other for other in by_person[seed] if other != index])
            for index, seed in enumerate(self.persons.tolist())
        )


def _piece(place: Path, start: int) -> Path:
    return place / f"{start:07d}.npz"


def _draw_piece(task: tuple[DrawingSet, Path, int]) -> None:
    wanted, place, start = task
    rows = list(_rows(wanted, range(start, min(start + PIECE, len(wanted)))))
    content: dict[str, Any] = {
        "pixels": np.stack([row[0] for row in rows]),
        "landmarks": np.stack([row[1] for row in rows]),
        "labels": np.stack([row[2] for row in rows]),
    }
    beside = place / f".{start:07d}-{os.getpid()}"
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    beside.rename(_piece(place, start))


def _rows(wanted: DrawingSet, indices: range) -> Iterator[tuple[Any, Any, Any]]:
    for index in indices:
        said, seed = wanted.attributes(index), wanted.person_seed(index)
        drawn = portrait(person(seed), said, seed * 1_000 + index // wanted.people, size=wanted.size)
        labels = [VOCABULARY[name].index(word) for name, word in said.labels().items()]
        yield np.asarray(drawn), drawn.info["landmarks"] / wanted.size, np.array(labels, np.uint8)
