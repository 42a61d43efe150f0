"""Looks at finished pictures, behind the device: which face is drawn again, what is refused, what is alike enough.

1. small faces are cut out, to be redrawn, and blended back when they come
2. the safety checker looks at the whole picture
3. the ID similarity is measured
4. the gate keeps the best, and asks for another seed while it is not alike enough and seeds are left
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL.Image import Image

from hyperlora.detail import cut, face_patch, paste
from hyperlora.faces.types import Face
from worker.cast import Cast
from worker.errors import ContentRefused
from worker.renderer import Renderer
from worker.trial import Candidate, Draw, Part, Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """What is to be done now: drawings that follow, or, without any and `decided`, record what the trial has."""

    draws: Sequence[Draw] = field(default_factory=tuple)
    decided: bool = False


class Judge:
    """Decides for one renderer; safe to call from several threads, each on a trial of its own."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def look(self, draw: Draw, image: Image, cast: Cast) -> Judgement:
        """Take a finished drawing into its trial. The caller holds the trial's lock."""
        trial = draw.trial
        if draw.part is not None:
            if not trial.add_part(draw.part, image):
                return Judgement()
            assert trial.current is not None
            return self._weigh(trial, _blended(trial, trial.current), cast)
        candidate = Candidate(image, draw.seed, draw.attempt, self._faces(trial, image))
        trial.begin(candidate)
        parts = self._parts(trial, candidate, cast)
        if parts:
            return Judgement(trial.await_parts(parts))
        return self._weigh(trial, candidate, cast)

    def _faces(self, trial: Trial, image: Image) -> tuple[Face, ...]:
        """A picture whose faces cannot be looked for is still a picture."""
        try:
            return tuple(self._renderer.faces(image))
        except Exception:
            log.exception("no face could be looked for", extra={"render": str(trial.render.id)})
            return ()

    def _parts(self, trial: Trial, candidate: Candidate, cast: Cast) -> list[Part]:
        detail = trial.options.detail
        if detail.when == "never" or not candidate.faces:
            return []
        picture = candidate.image
        small = self._renderer.small_faces(picture, candidate.faces, cast.references, detail)
        side = self._renderer.detail_side()
        parts = []
        for number, face in enumerate(small):
            patch = face_patch(picture.size, face)
            member = cast.member_at(face, picture.size)
            words = cast.roles[member].prompt if member is not None else ""
            parts.append(Part(number, patch, cut(picture, patch, side), member, words))
        return parts

    def _weigh(self, trial: Trial, candidate: Candidate, cast: Cast) -> Judgement:
        refusal = self._renderer.refusal(candidate.image)
        if refusal is None:
            similarity, reason = self._similarity(trial, candidate, cast)
            trial.weigh(replace(candidate, similarity=similarity, reason=reason))
        else:
            trial.refusal = refusal
        following = None if trial.is_satisfied() else trial.next_attempt()
        if following is not None:
            return Judgement((following,))
        if trial.best is None:
            seeds = f"{trial.draws} seeds" if trial.draws > 1 else "the seed"
            raise ContentRefused(f"the picture was refused under {seeds} and is not stored: {trial.refusal}")
        trial.best = _told_when_short(trial, trial.best)
        return Judgement(decided=True)

    def _similarity(self, trial: Trial, candidate: Candidate, cast: Cast) -> tuple[float | None, str | None]:
        """A picture that cannot be measured is still a picture: null, with the reason."""
        try:
            return self._renderer.similarity(candidate.image, candidate.faces, cast.references)
        except Exception as error:
            log.exception("the ID similarity could not be measured", extra={"render": str(trial.render.id)})
            return None, f"could not be measured: {type(error).__name__}"


def _blended(trial: Trial, candidate: Candidate) -> Candidate:
    image = candidate.image
    for _number, redrawn, part in sorted(trial.redrawn, key=lambda entry: entry[0]):
        image = paste(image, redrawn, part.patch)
    return replace(candidate, image=image, detail_faces=len(trial.redrawn))


def _told_when_short(trial: Trial, best: Candidate) -> Candidate:
    """The best of all seeds may still be less alike than was asked for; its row says so."""
    gate = trial.options.gate
    if gate is None or gate.min_id_similarity is None or best.similarity is None or trial.is_satisfied():
        return best
    tried = f"{trial.draws} seeds" if trial.draws > 1 else "one seed"
    return replace(best, reason=f"below the wanted {gate.min_id_similarity:g}: the best of {tried}")
