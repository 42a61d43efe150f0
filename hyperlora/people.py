"""Many people's photos become what the hypernetwork is conditioned on, in a few passes over every network.

Photos are decoded by a few threads, gathered into chunks whoever they show, found and recognised together, read by CLIP
together, and given back to their people. A person who cannot be used becomes a fault of that person alone. No more than
a chunk's photos lie in memory: what stays of a photo is an embedding and its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image

from hyperlora.config import Branch
from hyperlora.errors import FaceError, InvalidRequest
from hyperlora.faces.choice import FaceChoice
from hyperlora.faces.photo import Photo, upright_rgb
from hyperlora.faces.prepare import PhotoConditions, PhotoFault, prepare_photos
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.identity import IdentityConditions, ImageTokens, PreparedPhoto, identity_of
from hyperlora.side_by_side import ahead

MOST_PHOTOS = 32
"""Photos that are looked at together; CLIP is shown up to two pictures of each."""
MOST_PIXELS = 64_000_000
"""Pixels of the photos that are looked at together, 3 bytes each; four times as many where a margin must be added."""

OpenPhoto: TypeAlias = Image.Image | Callable[[], Image.Image]
"""An opened picture file, or what opens it when its turn comes, on any thread."""


@dataclass(frozen=True)
class PersonPhotos:
    """The photos of one person, and for each the face that is meant; None takes the clearest of each."""

    photos: Sequence[OpenPhoto]
    faces: Sequence[FaceChoice] | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    """One photo of somebody, decoded, or why it could not be."""

    person: int
    index: int
    choice: FaceChoice
    photo: Photo | Exception


def prepare_identities(
    analyzer: FaceAnalyzer,
    clip: ImageTokens,
    people: Sequence[PersonPhotos | Sequence[OpenPhoto]],
    *,
    branches: Sequence[Branch] = ("id", "base"),
) -> list[IdentityConditions | Exception]:
    """For each person what `prepare_identity` makes of the photos, or the error that it would raise.

    Parameters
    ----------
    analyzer, clip
        Face analyzer, and CLIP's vision tower.
    people
        Each person's photos. What a function that opens one raises is a fault of its photo where it is a `FaceError`,
        and of its person otherwise.
    branches
        Whose CLIP tokens are wanted; leaving one out halves CLIP's work.
    """
    asked = [each if isinstance(each, PersonPhotos) else PersonPhotos(each) for each in people]
    faults: dict[int, Exception] = {
        person: fault for person, each in enumerate(asked) if (fault := _choices_fault(each)) is not None
    }
    found: list[dict[int, PreparedPhoto | FaceError]] = [{} for _ in asked]
    for chunk in _chunks(ahead(_open, _photos(asked, faults))):
        for opened, prepared in _prepared(analyzer, clip, chunk, branches):
            if isinstance(prepared, PreparedPhoto | FaceError):
                found[opened.person][opened.index] = prepared
            else:
                # The first of a person's photos decides, as when they are looked at in their order.
                faults.setdefault(opened.person, prepared)
    return [faults.get(person) or _identity(analyzer.name, found[person]) for person in range(len(asked))]


def _identity(encoder: str, found: dict[int, PreparedPhoto | FaceError]) -> IdentityConditions | Exception:
    try:
        return identity_of(encoder, [found[index] for index in sorted(found)])
    except FaceError as fault:
        return fault


def _choices_fault(person: PersonPhotos) -> InvalidRequest | None:
    if person.faces is None or len(person.faces) == len(person.photos):
        return None
    return InvalidRequest(
        f"one choice of a face for each photo: found {len(person.faces)} for {len(person.photos)} photos"
    )


Waiting: TypeAlias = tuple[int, int, FaceChoice, OpenPhoto]


def _photos(asked: Sequence[PersonPhotos], faults: dict[int, Exception]) -> Iterator[Waiting]:
    """Everybody's photos, as long as nothing is known against their person."""
    for person, each in enumerate(asked):
        for index, photo in enumerate(each.photos):
            if person in faults:
                break
            yield person, index, "clearest" if each.faces is None else each.faces[index], photo


def _open(waiting: Waiting) -> _Opened:
    person, index, choice, photo = waiting
    try:
        image = photo if isinstance(photo, Image.Image) else photo()
        return _Opened(person, index, choice, upright_rgb(image))
    except Exception as fault:  # noqa: BLE001 - it becomes the person's fault, whatever it was
        return _Opened(person, index, choice, fault)


def _chunks(photos: Iterable[_Opened]) -> Iterator[list[_Opened]]:
    """As many together as the limits allow, one at least."""
    chunk: list[_Opened] = []
    pixels = 0
    for each in photos:
        own = 0 if isinstance(each.photo, Exception) else each.photo.image.width * each.photo.image.height
        if chunk and (len(chunk) == MOST_PHOTOS or pixels + own > MOST_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(each)
        pixels += own
    if chunk:
        yield chunk


def _prepared(
    analyzer: FaceAnalyzer, clip: ImageTokens, chunk: Sequence[_Opened], branches: Sequence[Branch]
) -> list[tuple[_Opened, PreparedPhoto | Exception]]:
    # 1. What could be opened, through detector and recogniser.
    able = [each for each in chunk if not isinstance(each.photo, Exception)]
    photos = [each.photo for each in able if isinstance(each.photo, Photo)]
    made = prepare_photos(analyzer, photos, [each.choice for each in able], surroundings="base" in branches)
    # 2. Both streams of CLIP in one call.
    usable = {at: each for at, each in enumerate(made) if isinstance(each, PhotoConditions)}
    tokens = _tokens(clip, list(usable.values()), branches)
    # 3. To each photo what is its own.
    row_of = {at: row for row, at in enumerate(usable)}

    def kept(at: int) -> PreparedPhoto | PhotoFault:
        photo = made[at]
        if not isinstance(photo, PhotoConditions):
            return photo
        own = {branch: tokens_NTC[row_of[at]] for branch, tokens_NTC in tokens.items()}
        return PreparedPhoto(photo.face_embedding, own.get("id"), own.get("base"), photo.findings)

    answers = iter([kept(at) for at in range(len(made))])
    return [(each, each.photo if isinstance(each.photo, Exception) else next(answers)) for each in chunk]


def _tokens(
    clip: ImageTokens, photos: Sequence[PhotoConditions], branches: Sequence[Branch]
) -> dict[Branch, torch.Tensor]:
    """Branch -> (N, T, C), all from one call."""
    if not photos or not branches:
        return {}
    shown: dict[Branch, list[Image.Image]] = {}
    if "id" in branches:
        shown["id"] = [photo.clip_image for photo in photos]
    if "base" in branches:
        shown["base"] = [photo.base_image for photo in photos]
    tokens_MTC = clip.tokens([picture for pictures in shown.values() for picture in pictures])
    return dict(zip(shown, tokens_MTC.tensor_split(len(shown)), strict=True))
