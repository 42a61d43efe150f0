"""One photo becomes what the hypernetwork is conditioned on: two pictures for CLIP and one face embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from hyperlora.errors import BadPhoto, NoFaceFound
from hyperlora.faces.choice import FaceChoice, choose_face
from hyperlora.faces.crops import FACE_STREAM_SIDES, crop_padded, faceless, masked_face
from hyperlora.faces.find import DETECTOR_SIZES, Search, quarter_turns, search_faces
from hyperlora.faces.findings import TINY_FACE_PIXELS, Finding, findings
from hyperlora.faces.geometry import landmark_box
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, RGBArray

Verdict = Literal["usable", "warning"]
# The same face seen twice shares more than this part of the boxes' common area.
SAME_FACE_OVERLAP = 0.3
# A detector that scores lower than this in both looks may be looking at something else.
SURE_SCORE = 0.75
_FIRST_DETECTION = Finding(
    "first_detection_used",
    "a second, closer look did not show the face again, so the likeness rests on the first look alone",
)
_UNSURE = (
    "the detector is not sure that this is a face (score {:.2f}); it may be covered, drawn, turned away or badly lit"
)


@dataclass(frozen=True, eq=False)
class PhotoConditions:
    """What one photo tells the hypernetwork.

    Parameters
    ----------
    clip_image
        RGB; the face on grey, for the ID branch's CLIP stream.
    base_image
        RGB; the surroundings with the face blurred away, for the Base branch.
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
    """

    clip_image: Image.Image
    base_image: Image.Image
    face_embedding: FloatArray
    face: Face
    verdict: Verdict
    findings: tuple[Finding, ...]
    encoder: str
    photo: Image.Image
    others: tuple[Face, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings' sentences."""
        return tuple(finding.message for finding in self.findings)


@dataclass(frozen=True, eq=False)
class CloserLook:
    """A face's (E,) embedding of unit length, and what was noticed on the way."""

    embedding_E: FloatArray
    findings: tuple[Finding, ...]


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
    # 1. Opaque, 8 bit RGB, upright by its file and, where that is missing, by its face.
    opened = upright_rgb(image)
    # 2. The face that is meant.
    photo, search, turn = upright_search(analyzer, opened.image)
    chosen = _large_enough(choose_face(search.faces, face, photo.size))
    # 3. The face stream: look again, closely, then recognise.
    closer = embed_closely(analyzer, photo, chosen)
    # 4. What to tell the owner.
    rgb_HW3: RGBArray = np.asarray(photo, dtype=np.uint8)
    found = [*findings(photo, rgb_HW3, search, turn, face=chosen, choice=face), *closer.findings]
    found += opened.notes
    # 5. The pictures for CLIP.
    return PhotoConditions(
        clip_image=masked_face(photo, chosen),
        base_image=faceless(photo, chosen),
        face_embedding=closer.embedding_E,
        face=chosen,
        verdict="warning" if found else "usable",
        findings=tuple(found),
        encoder=analyzer.name,
        photo=photo,
        others=tuple(other for other in search.faces if other is not chosen),
    )


def embed_closely(analyzer: FaceAnalyzer, image: Image.Image, face: Face) -> CloserLook:
    """The embedding from a crop of twice the landmark box, in which the face is detected again at 640 pixels.

    Raises
    ------
    NoFaceFound
        The first look was unsure and the second saw nothing: most likely no face at all.
    BadPhoto
        The face's points cannot be used.
    """
    crop, corner = crop_padded(image, landmark_box(face, FACE_STREAM_SIDES))
    rgb_HW3: RGBArray = np.asarray(crop, dtype=np.uint8)
    expected = face.moved(-corner[0], -corner[1])
    again = max(analyzer.detect(rgb_HW3, DETECTOR_SIZES[0]), key=expected.overlap, default=None)
    # A neighbour may stand in the crop too: it must be the same face, not just any.
    if again is None or expected.overlap(again) < SAME_FACE_OVERLAP:
        if face.score < SURE_SCORE:
            raise NoFaceFound(
                f"no face found: something at {tuple(round(float(v)) for v in face.box_xyxy)} looked like one "
                f"(score {face.score:.2f}), but a closer look did not confirm it; use a photo that shows the face "
                "from the front, uncovered and in focus"
            )
        return CloserLook(analyzer.embed(rgb_HW3, expected), (_FIRST_DETECTION,))
    unsure: tuple[Finding, ...] = ()
    score = max(face.score, again.score)
    if score < SURE_SCORE:
        unsure = (Finding("unsure_face", _UNSURE.format(score)),)
    return CloserLook(analyzer.embed(rgb_HW3, again), unsure)


def upright_search(analyzer: FaceAnalyzer, image: Image.Image) -> tuple[Image.Image, Search, int]:
    """The photo as its face stands upright, the search in it, and the degrees it was turned counter-clockwise."""
    rgb_HW3: RGBArray = np.asarray(image, dtype=np.uint8)
    search = search_faces(analyzer, rgb_HW3)
    turns = quarter_turns(analyzer, rgb_HW3, search)
    if turns == 0:
        return image, search, 0
    turned_HW3 = np.ascontiguousarray(np.rot90(rgb_HW3, turns))
    return Image.fromarray(turned_HW3), search_faces(analyzer, turned_HW3), turns * 90


def _large_enough(face: Face) -> Face:
    side = min(face.width, face.height)
    if side < TINY_FACE_PIXELS:
        raise BadPhoto(
            f"the face is only {side:.0f} pixels wide, too few to know a person by; at least {TINY_FACE_PIXELS} are "
            "needed and 64 or more are better: use a larger photo or stand closer"
        )
    return face
