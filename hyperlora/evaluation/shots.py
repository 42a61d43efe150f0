"""Pictures of many people as the judge sees them: embeddings and labels, kept on disk, and a few to look at.

Shapes: N people, P pictures of each, E numbers of an embedding, A attributes of `SLOTS`, S side of a picture; R
pictures of each that are kept.
"""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.evaluation.judges import Judge, Labeller
from hyperlora.mini.attributes import VOCABULARY, Attributes

SLOTS = ("clothing", "clothing_colour", "background", "accessory", "expression")
"""The attributes that are judged."""
KEPT = 3
"""Pictures of each person that are kept as they are."""
SHOWN_PEOPLE = 6
NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class Shots:
    """What the judge saw.

    Parameters
    ----------
    embeddings_NPE
        float32; NaN for a picture without a face.
    labels_NPA
        int64, each word's place in `VOCABULARY`; -1 where there is no label.
    pictures_NRSS3
        uint8, the first pictures of everybody; black for who could not be drawn.
    """

    embeddings_NPE: npt.NDArray[np.float32]
    labels_NPA: npt.NDArray[np.int64]
    pictures_NRSS3: npt.NDArray[np.uint8]

    @property
    def faceless(self) -> int:
        """Pictures in which the judge found no face."""
        return int(np.isnan(self.embeddings_NPE).any(axis=2).sum())

    def first(self, count: int) -> Shots:
        """Only the first `count` pictures of everybody."""
        return Shots(self.embeddings_NPE[:, :count], self.labels_NPA[:, :count], self.pictures_NRSS3[:, :count])

    def picture(self, row: int, column: int) -> Image.Image:
        """One of the kept pictures."""
        return Image.fromarray(self.pictures_NRSS3[row, column])

    @property
    def shown(self) -> range:
        """The people who are shown in grids."""
        return range(min(SHOWN_PEOPLE, len(self.pictures_NRSS3)))

    def save(self, file: Path) -> None:
        """Write an .npz of plain arrays, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}-{os.getpid()}-{secrets.token_hex(4)}")
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("embeddings_NPE", "labels_NPA", "pictures_NRSS3"):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, getattr(self, name), allow_pickle=False)
        beside.replace(file)

    @classmethod
    def load(cls, file: Path) -> Shots:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as content:
            return cls(content["embeddings_NPE"], content["labels_NPA"], content["pictures_NRSS3"])


def judged(judge: Judge, drawn: Iterable[Sequence[Image.Image] | None], pictures: int) -> Shots:
    """Show everybody's pictures to the judge, `pictures` of each; None stands for a person who could not be drawn.

    Such a person's pictures count as pictures without a face and without labels: failures are counted, not dropped.
    """
    embeddings: list[npt.NDArray[np.float32] | None] = []
    labels: list[npt.NDArray[np.int64]] = []
    kept: list[npt.NDArray[np.uint8] | None] = []
    for images in drawn:
        if images is None:
            embeddings += [None] * pictures
            labels.append(np.full((pictures, len(SLOTS)), NO_LABEL))
            kept.append(None)
            continue
        assert len(images) == pictures
        embeddings += judge.embed(images)
        labels.append(labels_of(judge, images))
        kept.append(np.stack([np.asarray(image.convert("RGB"), np.uint8) for image in images[:KEPT]]))
    width = next((len(each) for each in embeddings if each is not None), 1)
    nobody_E = np.full(width, np.nan, np.float32)
    rows = [nobody_E if each is None else each.astype(np.float32) for each in embeddings]
    return Shots(
        np.stack(rows).reshape(-1, pictures, width),
        np.stack(labels).astype(np.int64),
        _stacked(kept),
    )


def _stacked(kept: Sequence[npt.NDArray[np.uint8] | None]) -> npt.NDArray[np.uint8]:
    """Kept pictures as one array; black ones for who could not be drawn."""
    some = next((each for each in kept if each is not None), None)
    if some is None:
        return np.zeros((len(kept), KEPT, 1, 1, 3), np.uint8)
    return np.stack([np.zeros_like(some) if each is None else each for each in kept])


def labels_of(judge: Judge, images: Sequence[Image.Image]) -> npt.NDArray[np.int64]:
    """(P, A) what the judge reads from the pictures; -1 throughout where it reads no labels."""
    if not isinstance(judge, Labeller):
        return np.full((len(images), len(SLOTS)), NO_LABEL)
    return np.array([[_place(slot, said.get(slot)) for slot in SLOTS] for said in judge.labels(images)], np.int64)


def wanted_labels(said: Sequence[Sequence[Attributes]]) -> npt.NDArray[np.int64]:
    """(N, P, A) what everybody's prompts ask for."""
    return np.array([[[_place(slot, getattr(one, slot)) for slot in SLOTS] for one in row] for row in said], np.int64)


def _place(slot: str, word: str | None) -> int:
    return VOCABULARY[slot].index(word) if word in VOCABULARY[slot] else NO_LABEL
