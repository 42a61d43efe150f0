"""A person's photos become what the hypernetwork is conditioned on.

Shapes: N usable photos, E numbers of a face embedding, T and C tokens and width of CLIP's vision tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image

from hyperlora.config import Branch
from hyperlora.errors import FaceError, InvalidRequest, NoUsablePhoto
from hyperlora.faces.choice import FaceChoice
from hyperlora.faces.findings import Finding
from hyperlora.faces.types import FaceAnalyzer, FloatArray, same_person_cosine, unit_length

SHORTEST_MEAN = 1e-3


class ImageTokens(Protocol):
    """What is needed of CLIP's vision tower; `hyperlora.clip.ClipVision` has it."""

    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, T, C) tokens of N pictures."""
        ...


@dataclass(frozen=True)
class PhotoVerdict:
    """What became of one photo.

    Parameters
    ----------
    index
        Its place among the photos given, from 0.
    verdict
        "usable", "warning" (used, but worth a look) or "refused".
    code
        Stable word of the gravest finding or of the error; None for a usable photo.
    reason
        Sentences for people; empty for a usable photo.
    """

    index: int
    verdict: Literal["usable", "warning", "refused"]
    code: str | None
    reason: str


@dataclass(frozen=True, eq=False)
class IdentityConditions:
    """One person as the hypernetwork reads it.

    Parameters
    ----------
    face_embeddings
        (N, E) float32 on the CPU, rows of unit length.
    reference_embedding
        (E,) of unit length: the mean of the photos' embeddings; finished pictures are measured against it.
    verdicts
        One for each photo given, refused ones included, in their order.
    similarity_NN
        (N, N) cosines between the usable photos' embeddings.
    encoder
        Name of the analyzer that made the embeddings.
    used
        (N,) indices of the usable photos among those given.
    tokens_of
        Branch -> (N, T, C) CLIP tokens of what it is shown; only of those that were asked for.
    """

    face_embeddings: torch.Tensor
    reference_embedding: FloatArray
    verdicts: tuple[PhotoVerdict, ...]
    similarity_NN: FloatArray
    encoder: str
    used: tuple[int, ...]
    tokens_of: Mapping[Branch, torch.Tensor]

    @property
    def clip_tokens(self) -> torch.Tensor:
        """(N, T, C) of the masked faces. Raises `InvalidRequest` where they were not asked for."""
        return self._tokens("id")

    @property
    def base_tokens(self) -> torch.Tensor:
        """(N, T, C) of the surroundings with the face blurred away. Raises `InvalidRequest` as `clip_tokens` does."""
        return self._tokens("base")

    def _tokens(self, branch: Branch) -> torch.Tensor:
        if branch not in self.tokens_of:
            raise InvalidRequest(
                f"CLIP tokens of the branch {branch} were wanted, the person was prepared for "
                f"{' and '.join(self.tokens_of)} only; name the branch when preparing"
            )
        return self.tokens_of[branch]


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """What stays of a usable photo: (E,) embedding, (T, C) CLIP tokens of each branch asked for, and findings."""

    embedding_E: FloatArray
    clip_TC: torch.Tensor | None
    base_TC: torch.Tensor | None
    findings: tuple[Finding, ...]


def prepare_identity(
    analyzer: FaceAnalyzer,
    clip: ImageTokens,
    photos: Sequence[Image.Image],
    *,
    faces: Sequence[FaceChoice] | None = None,
) -> IdentityConditions:
    """Conditions from every photo that shows a usable face; the others are refused, each with its reason.

    Parameters
    ----------
    analyzer, clip
        Face analyzer, and CLIP's vision tower.
    photos
        Opened picture files of one person.
    faces
        For each photo the face that is meant, see `prepare_photo`; None takes the clearest of each.

    Raises
    ------
    NoUsablePhoto
        No photo is usable; the message lists each one's reason.
    InvalidRequest
        Not one choice for each photo, or a choice that is none.
    """
    from hyperlora.people import PersonPhotos, prepare_identities

    found = prepare_identities(analyzer, clip, [PersonPhotos(photos, faces)])[0]
    if isinstance(found, Exception):
        raise found
    return found


def identity_of(encoder: str, photos: Sequence[PreparedPhoto | FaceError]) -> IdentityConditions:
    """One person's photos put together.

    Parameters
    ----------
    encoder
        Name of the analyzer.
    photos
        What each photo became, in their order.

    Raises
    ------
    NoUsablePhoto
        No photo is usable; the message lists each one's reason.
    """
    prepared = {index: photo for index, photo in enumerate(photos) if isinstance(photo, PreparedPhoto)}
    refused = {index: photo for index, photo in enumerate(photos) if isinstance(photo, FaceError)}
    if not prepared:
        raise NoUsablePhoto(_why_none(len(photos), refused))
    used = tuple(prepared)
    embeddings_NE = np.stack([photo.embedding_E for photo in prepared.values()]).astype(np.float32)
    similarity_NN = np.clip(embeddings_NE @ embeddings_NE.T, -1.0, 1.0)
    strangers = _strangers(used, similarity_NN, same_person_cosine(encoder))
    return IdentityConditions(
        face_embeddings=torch.from_numpy(embeddings_NE),
        reference_embedding=_mean_direction(embeddings_NE),
        verdicts=tuple(_verdict(index, prepared, refused, strangers) for index in range(len(photos))),
        similarity_NN=similarity_NN,
        encoder=encoder,
        used=used,
        tokens_of=_tokens_of(list(prepared.values())),
    )


def _tokens_of(photos: Sequence[PreparedPhoto]) -> dict[Branch, torch.Tensor]:
    """Branch -> (N, T, C); copied, so that a chunk's tokens are let go."""
    rows: dict[Branch, list[torch.Tensor]] = {
        "id": [photo.clip_TC for photo in photos if photo.clip_TC is not None],
        "base": [photo.base_TC for photo in photos if photo.base_TC is not None],
    }
    return {branch: torch.stack(each) for branch, each in rows.items() if each}


def _strangers(used: tuple[int, ...], similarity_NN: FloatArray, threshold: float) -> dict[int, Finding]:
    """Photos whose face is, in the median over the other photos, less alike than one person's faces should be."""
    if len(used) < 2:
        return {}
    out = {}
    for row, index in enumerate(used):
        middle = float(np.median(np.delete(similarity_NN[row], row)))
        if middle < threshold:
            out[index] = Finding(
                "photos_disagree",
                f"the face does not look like the person in the other photos (similarity {middle:.2f}, one person's "
                f"photos usually reach {threshold:.2f}); remove the photo if it shows somebody else",
            )
    return out


def _verdict(
    index: int,
    prepared: Mapping[int, PreparedPhoto],
    refused: dict[int, FaceError],
    strangers: dict[int, Finding],
) -> PhotoVerdict:
    if index in refused:
        return PhotoVerdict(index, "refused", refused[index].code, str(refused[index]))
    found = [*([strangers[index]] if index in strangers else []), *prepared[index].findings]
    if not found:
        return PhotoVerdict(index, "usable", None, "")
    return PhotoVerdict(index, "warning", found[0].code, "; ".join(finding.message for finding in found))


def _mean_direction(embeddings_NE: FloatArray) -> FloatArray:
    mean_E = embeddings_NE.mean(axis=0)
    # Opposite embeddings cancel; then no direction is better than that of the first photo.
    return unit_length(mean_E if float(np.linalg.norm(mean_E)) > SHORTEST_MEAN else embeddings_NE[0])


def _why_none(count: int, refused: dict[int, FaceError]) -> str:
    if count == 0:
        return "the person has no photos; at least one photo with a visible face is needed"
    reasons = "; ".join(f"photo {index + 1}: {fault}" for index, fault in refused.items())
    return f"none of the person's {count} photo{'s' if count > 1 else ''} can be used: {reasons}"
