"""One photo becomes what the hypernetwork is conditioned on: two pictures for CLIP and one face embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from hyperlora.errors import BadPhoto, FaceError, InvalidRequest
from hyperlora.faces.choice import FaceChoice, choose_face
from hyperlora.faces.closer import CloserLook, embed_closely_many
from hyperlora.faces.crops import base_box, faceless, masked_face
from hyperlora.faces.find import Search, quarter_turns_many, search_many
from hyperlora.faces.findings import TINY_FACE_PIXELS, Finding, findings
from hyperlora.faces.photo import Photo, upright_rgb
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, RGBArray
from hyperlora.side_by_side import side_by_side

Verdict = Literal["usable", "warning"]
PhotoFault: TypeAlias = FaceError | InvalidRequest
PHOTO_FAULTS = (FaceError, InvalidRequest)


@dataclass(frozen=True, eq=False)
class PhotoConditions:
    """What one photo tells the hypernetwork.

    Parameters
    ----------
    clip_image
        RGB; the face on grey, for the ID branch's CLIP stream.
    face_embedding
        (E,) of unit length.
    face
        The face that was taken, in the coordinates of `photo`.
    verdict
        "usable", or "warning" where there are findings.
    findings
        Stable codes and sentences.
    encoder
        Name of the analyzer; the embedding means nothing to any other.
    photo
        The upright RGB photo that everything was cut from.
    others
        Further faces of the photo, best score first.
    surroundings
        The picture for the Base branch where it was cut beforehand, else None: see `base_image`.
    """

    clip_image: Image.Image
    face_embedding: FloatArray
    face: Face
    verdict: Verdict
    findings: tuple[Finding, ...]
    encoder: str
    photo: Image.Image
    others: tuple[Face, ...] = ()
    surroundings: Image.Image | None = None

    @property
    def base_image(self) -> Image.Image:
        """RGB; the surroundings with the face blurred away, for the Base branch; cut now if it was not yet."""
        return self.surroundings or faceless(self.photo, self.face)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings' sentences."""
        return tuple(finding.message for finding in self.findings)


@dataclass(frozen=True, eq=False)
class Upright:
    """A photo as its face stands upright, the search in it, and the degrees it was turned counter-clockwise."""

    photo: Image.Image
    search: Search
    turn: int


def prepare_photo(analyzer: FaceAnalyzer, image: Image.Image, *, face: FaceChoice = "clearest") -> PhotoConditions:
    """Everything the hypernetwork needs from one photo.

    Parameters
    ----------
    analyzer
        Finds and knows faces.
    image
        An opened picture file of any kind.
    face
        Which face is meant where the photo shows several: "clearest" (best score), "largest", "central", or its number
        from the left in the upright photo, 0 for the leftmost.

    Raises
    ------
    NoFaceFound
        No detector size shows a face, not even with a margin around the photo, or a closer look did not confirm it.
    BadPhoto
        The file cannot be decoded, the photo has no face of that number, or the face is too small or its landmarks are
        senseless.
    InvalidRequest
        `face` is none of the words and no number from 0 on.
    """
    prepared = prepare_photos(analyzer, [upright_rgb(image)], [face])[0]
    if isinstance(prepared, PHOTO_FAULTS):
        raise prepared
    return prepared


def prepare_photos(
    analyzer: FaceAnalyzer, opened: Sequence[Photo], choices: Sequence[FaceChoice], *, surroundings: bool = True
) -> list[PhotoConditions | PhotoFault]:
    """What `prepare_photo` makes of each of several photos, or the error that it would raise.

    Detector and recogniser are given all of them together; the rest is done in threads.

    Parameters
    ----------
    analyzer
        Finds and knows faces.
    opened
        The photos, opaque and upright by their files; see `upright_rgb`.
    choices
        For each the face that is meant.
    surroundings
        Whether to cut the pictures for the Base branch, too.
    """
    # 1. Upright by the face, where the file does not say so.
    upright = upright_searches(analyzer, [photo.image for photo in opened])
    # 2. The face that is meant.
    chosen = [_chosen(each, choice) for each, choice in zip(upright, choices, strict=True)]
    # 3. The face stream: look again, closely, then recognise.
    able = {at: face for at, face in enumerate(chosen) if isinstance(face, Face)}
    looks = embed_closely_many(analyzer, [(upright[at].photo, face) for at, face in able.items()])
    closer: dict[int, CloserLook | FaceError] = dict(zip(able, looks, strict=True))

    def finished(at: int) -> PhotoConditions | PhotoFault:
        face, look = chosen[at], closer.get(at)
        if not isinstance(face, Face):
            return face
        if not isinstance(look, CloserLook):
            assert look is not None
            return look
        try:
            return _conditions(analyzer.name, upright[at], face, choices[at], look, opened[at].notes, surroundings)
        except FaceError as fault:
            return fault

    # 4. What to tell the owner, and the pictures for CLIP.
    return side_by_side(finished, range(len(opened)))


def _chosen(upright: Upright, choice: FaceChoice) -> Face | PhotoFault:
    try:
        return _large_enough(choose_face(upright.search.faces, choice, upright.photo.size))
    except PHOTO_FAULTS as fault:
        return fault


def _conditions(
    encoder: str,
    upright: Upright,
    chosen: Face,
    choice: FaceChoice,
    closer: CloserLook,
    notes: tuple[Finding, ...],
    surroundings: bool,
) -> PhotoConditions:
    photo, search = upright.photo, upright.search
    rgb_HW3: RGBArray = np.asarray(photo, dtype=np.uint8)
    found = [*findings(photo, rgb_HW3, search, upright.turn, face=chosen, choice=choice), *closer.findings, *notes]
    base_box(photo, chosen)  # a face beside the photo is refused for either branch
    return PhotoConditions(
        clip_image=masked_face(photo, chosen),
        face_embedding=closer.embedding_E,
        face=chosen,
        verdict="warning" if found else "usable",
        findings=tuple(found),
        encoder=encoder,
        photo=photo,
        others=tuple(other for other in search.faces if other is not chosen),
        surroundings=faceless(photo, chosen) if surroundings else None,
    )


def upright_search(analyzer: FaceAnalyzer, image: Image.Image) -> tuple[Image.Image, Search, int]:
    """The photo as its face stands upright, the search in it, and the degrees it was turned counter-clockwise."""
    found = upright_searches(analyzer, [image])[0]
    return found.photo, found.search, found.turn


def upright_searches(analyzer: FaceAnalyzer, images: Sequence[Image.Image]) -> list[Upright]:
    """What `upright_search` makes of each of several photos."""
    photos: list[RGBArray] = [np.asarray(image, dtype=np.uint8) for image in images]
    searches = search_many(analyzer, photos)
    turns = quarter_turns_many(analyzer, photos, searches)
    lying = [at for at, turn in enumerate(turns) if turn]
    turned: list[RGBArray] = [np.ascontiguousarray(np.rot90(photos[at], turns[at])) for at in lying]
    again = dict(zip(lying, zip(turned, search_many(analyzer, turned), strict=True), strict=True))
    out = []
    for at, image in enumerate(images):
        if at in again:
            rgb_HW3, search = again[at]
            out.append(Upright(Image.fromarray(rgb_HW3), search, turns[at] * 90))
        else:
            out.append(Upright(image, searches[at], 0))
    return out


def _large_enough(face: Face) -> Face:
    side = min(face.width, face.height)
    if side < TINY_FACE_PIXELS:
        raise BadPhoto(
            f"the face is only {side:.0f} pixels wide, too few to know a person by; at least {TINY_FACE_PIXELS} are "
            "needed and 64 or more are better: use a larger photo or stand closer"
        )
    return face
