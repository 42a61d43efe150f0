"""Everybody's photos as the hypernetwork reads them: read once, kept, and served to every network of the same encoders.

Shapes: N people, E face embedding, T CLIP tokens of width C.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hyperlora.errors import InvalidRequest, NoUsablePhoto
from hyperlora.evaluation.model import Known, PortraitModel
from hyperlora.evaluation.people import HeldOut

RECIPE = 1  # raise it when the same arguments measure something else: what is kept is then made anew


class ReadPhotos:
    """The photos of held-out people, by their place among a person's photos.

    `place_of(name, key)` says where something that rests on a key is kept, or None; `tell(what, done, total)` is told
    how far the reading is.
    """

    def __init__(
        self,
        model: PortraitModel,
        people: Sequence[HeldOut],
        place_of: Callable[[str, str | None], Path | None],
        tell: Callable[[str, int, int], None],
    ) -> None:
        self._model, self._people, self._place_of, self._tell = model, people, place_of, tell
        self._photos: dict[int, dict[str, torch.Tensor]] = {}

    @cached_property
    def key(self) -> str:
        """What kept photos rest on: encoders and people."""
        return digest(self._model.encoders, f"{self._people[0].photo_size} px", f"{len(self._people)} people")

    def known(self, index: int, photos: int) -> Known:
        """What the model reads from one person's first photos. Raises `NoUsablePhoto`."""
        rows = [self._photo(place) for place in range(photos)]
        used = tuple(place for place, row in enumerate(rows) if bool(row["usable"][index]))
        if not used:
            raise NoUsablePhoto(f"none of the first {photos} photos of person {self._people[index].seed} is usable")
        face, clip, base = (torch.stack([rows[p][name][index] for p in used]) for name in ("face", "clip", "base"))
        return Known(face, clip, base, used)

    def usable(self, photos: int) -> list[int]:
        """The people with a usable one among their first photos."""
        usable = torch.stack([self._photo(place)["usable"] for place in range(photos)]).any(dim=0)
        return [index for index, yes in enumerate(usable.tolist()) if yes]

    def _photo(self, place: int) -> dict[str, torch.Tensor]:
        """Everybody's photo of one place as the hypernetwork reads it, rows of unusable photos zero."""
        if place not in self._photos:
            file = self._place_of(f"photo-{place}.safetensors", self.key)
            if file is not None and file.is_file():
                self._photos[place] = load_file(file)
            else:
                self._photos[place] = self._read(place)
                if file is not None:
                    _save(self._photos[place], file)
        return self._photos[place]

    def _read(self, place: int) -> dict[str, torch.Tensor]:
        rows: list[Known | None] = []
        for index, one in enumerate(self._people):
            self._tell(f"reading photo {place + 1} of everybody", index, len(self._people))
            try:
                rows.append(self._model.read([one.photo(place)]))
            except NoUsablePhoto:
                rows.append(None)
        if not any(rows):
            # One person without a usable photo is a failure that counts; everybody is a wrong analyzer.
            raise InvalidRequest(
                f"the face analyzer {self._model.analyzer.name!r} found a face in none of {len(rows)} drawn photos"
            )
        some = next(row for row in rows if row is not None)
        nobody = (some.face_embeddings_NE * 0, some.clip_tokens_NTC * 0, some.base_tokens_NTC * 0)
        columns = zip(
            *((row.face_embeddings_NE, row.clip_tokens_NTC, row.base_tokens_NTC) if row else nobody for row in rows),
            strict=True,
        )
        read = {
            name: torch.cat(list(column)).float().contiguous()
            for name, column in zip(("face", "clip", "base"), columns, strict=True)
        }
        return {**read, "usable": torch.tensor([row is not None for row in rows])}


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}-{secrets.token_hex(4)}")
    save_file(tensors, beside)
    beside.replace(file)


def digest(*parts: str) -> str:
    """64 hex digits for what a kept result rests on."""
    return hashlib.sha256(json.dumps([RECIPE, *parts]).encode()).hexdigest()
