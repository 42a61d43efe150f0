"""Faces in photos before a job is enqueued: the same verdicts as a worker will give, without its models.

The face analyzer looks at every photo as it would when the weight set is made; CLIP is not needed for a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from hyperlora.errors import FaceError, NoUsablePhoto
from hyperlora.faces import FaceAnalyzer, FaceChoice, debug_picture, find_faces, prepare_photo, refusal_picture
from hyperlora.faces.photo import upright_rgb
from hyperlora.identity import prepare_identity
from jobs.errors import JobsError, PhotoRefused
from jobs.photos import decode_photo
from jobs.settings import Settings
from worker.names import safe_part, safe_value
from worker.results import OutputRefused

PHOTO_ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class PhotoLook:
    """What was found in one photo: `usable`, `warning` or `refused`, a stable code and a sentence."""

    photo: str
    verdict: str
    code: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class PersonLook:
    """What was found in a person's photos. `likeness` is the lowest cosine between two usable ones."""

    identity: str
    photos: list[PhotoLook] = field(default_factory=list)
    likeness: float | None = None

    @property
    def usable(self) -> bool:
        """Whether a weight set can be made from at least one photo."""
        return any(look.verdict != "refused" for look in self.photos)


@dataclass(frozen=True)
class PersonPhotos:
    """A person with photos by name: the bytes, or why they could not be read.

    `faces` says for each photo which face is meant, as a manifest does (None, "largest", "central", "0", ...); without
    it the clearest of each is taken.
    """

    identity: str
    photos: list[tuple[str, bytes | JobsError]]
    faces: Sequence[str | None] = ()

    def choice(self, index: int) -> FaceChoice:
        """Which face of photo `index` is meant."""
        named = self.faces[index] if self.faces else None
        if named is not None and named.isdigit():
            return int(named)
        return cast(FaceChoice, named or "clearest")


class _NoTokens:
    """Stands where CLIP would: verdicts do not depend on it."""

    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, 1, 1) zeros."""
        return torch.zeros(len(images), 1, 1)


def photos_in(paths: Sequence[Path], settings: Settings) -> Iterator[PersonPhotos]:
    """People from paths: each folder is a person, and files that are named directly are one person together."""
    loose = [path for path in paths if not path.is_dir()]
    if loose:
        yield PersonPhotos("photos", [(str(path), _read(path, settings)) for path in loose])
    for folder in (path for path in paths if path.is_dir()):
        files = photo_files(folder)
        yield PersonPhotos(folder.name, [(str(path), _read(path, settings)) for path in files])


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder by name: regular files only, as opening a pipe or a device may never end."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS and path.is_file())


def _read(path: Path, settings: Settings) -> bytes | JobsError:
    most = settings.max_photo_bytes
    if path.exists() and not path.is_file():
        return PhotoRefused("is no regular file")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        return PhotoRefused(f"cannot be read: {error.strerror or error}")
    return data if len(data) <= most else PhotoRefused(f"more than {most} bytes; make it smaller")


def look(
    analyzer: FaceAnalyzer, person: PersonPhotos, settings: Settings, *, debug_folder: Path | None = None
) -> PersonLook:
    """Look at every photo of a person; with `debug_folder`, save a picture that explains each one that can be read.

    Raises OutputRefused where such a picture cannot be written.
    """
    looks: dict[int, PhotoLook] = {}
    images: dict[int, Image.Image] = {}
    for index, (name, content) in enumerate(person.photos):
        try:
            if isinstance(content, JobsError):
                raise content
            images[index] = decode_photo(content, settings)
        except JobsError as error:
            looks[index] = PhotoLook(name, "refused", error.code, str(error))
    likeness = _judge(analyzer, person, images, looks)
    if debug_folder is not None:
        folder = debug_folder / safe_part(safe_value(person.identity))
        for index, image in images.items():
            stem = safe_value(Path(looks[index].photo).stem)
            picture = _explained(analyzer, image, person.choice(index), looks[index])
            _save(picture, folder / safe_part(f"{index + 1:02d}-{stem}.png"))
    return PersonLook(person.identity, [looks[index] for index in sorted(looks)], likeness)


def _save(picture: Image.Image, file: Path) -> None:
    """Write a picture and the folders above it. Raises OutputRefused."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    except OSError as error:
        raise OutputRefused(f"{file} cannot be written: {error.strerror or error}") from error


def _judge(
    analyzer: FaceAnalyzer, person: PersonPhotos, images: dict[int, Image.Image], looks: dict[int, PhotoLook]
) -> float | None:
    """Fill in the verdicts of the readable photos; returns the lowest likeness between two usable ones."""
    places = list(images)
    try:
        found = prepare_identity(
            analyzer,
            _NoTokens(),
            [images[place] for place in places],
            faces=[person.choice(place) for place in places],
        )
    except NoUsablePhoto:
        for place in places:
            looks[place] = _refused_alone(analyzer, person.photos[place][0], images[place], person.choice(place))
        return None
    for place, verdict in zip(places, found.verdicts, strict=True):
        looks[place] = PhotoLook(person.photos[place][0], verdict.verdict, verdict.code, verdict.reason)
    return float(found.similarity_NN.min()) if len(found.used) > 1 else None


def _refused_alone(analyzer: FaceAnalyzer, name: str, image: Image.Image, choice: FaceChoice) -> PhotoLook:
    try:
        prepare_photo(analyzer, image, face=choice)
    except FaceError as error:
        return PhotoLook(name, "refused", error.code, str(error))
    raise AssertionError(f"{name} is usable alone but not with others")


def _explained(analyzer: FaceAnalyzer, image: Image.Image, choice: FaceChoice, found: PhotoLook) -> Image.Image:
    """What was found in a photo, or the photo and why it was refused."""
    if found.verdict != "refused":
        return debug_picture(prepare_photo(analyzer, image, face=choice))
    try:
        upright = upright_rgb(image).image
    except FaceError:
        # Too small or without colours: its refusal says so, and there is nothing to look at.
        return refusal_picture(Image.new("RGB", image.size), found.code, found.reason)
    seen = find_faces(analyzer, np.asarray(upright, dtype=np.uint8))
    return refusal_picture(upright, found.code, found.reason, seen)
