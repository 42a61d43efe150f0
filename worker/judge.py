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

import numpy as np
from PIL import Image as PilImage
from PIL.Image import Image

from hyperlora.detail import cut, face_patch, paste
from hyperlora.faces.types import Face
from worker.cast import Cast
from worker.errors import ContentRefused
from worker.renderer import Renderer
from worker.trial import Candidate, Draw, Part, Trial

log = logging.getLogger(__name__)
HALF_WHITE = 128


@dataclass(frozen=True)
class Judgement:
    """What is to be done now: drawings that follow, or, without any and `decided`, record what the trial has."""

    draws: Sequence[Draw] = field(default_factory=tuple)
    decided: bool = False


class Judge:
    """Decides for one renderer; safe to call from several threads, each on a trial of its own."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def look(self, draw: Draw, image: Image, cast: Cast, *, mask: Image | None = None) -> Judgement:
        """Take a finished drawing into its trial; `mask` is what of a given picture was redrawn.

        The caller holds the trial's lock. Raises ContentRefused when no picture may be kept.
        """
        trial = draw.trial
        if draw.part is not None:
            if not trial.add_part(draw.part, image):
                return Judgement()
            return self._weigh(trial, _blended(trial), cast)
        trial.mask = mask
        candidate = Candidate(image, draw.seed, draw.attempt, self._faces(trial, image))
        trial.begin(candidate)
        parts = self._parts(trial, candidate, cast)
        if parts:
            return Judgement(trial.await_parts(parts))
        return self._weigh(trial, candidate, cast)

    def look_without(self, draw: Draw, cast: Cast) -> Judgement:
        """A drawing that followed could not be made: what there is without it is judged.

        The caller holds the trial's lock. A face that was not redrawn stays as it was; a seed that was not drawn is the
        last that was tried.
        """
        trial = draw.trial
        if draw.part is not None:
            if not trial.give_up_part(draw.part):
                return Judgement()
            return self._weigh(trial, _blended(trial), cast)
        return self._settled(trial)

    def _faces(self, trial: Trial, image: Image) -> tuple[Face, ...]:
        """A picture whose faces cannot be looked for is still a picture."""
        try:
            return tuple(self._renderer.faces(image))
        except Exception:
            log.exception("no face could be looked for", extra={"render": str(trial.render.id)})
            return ()

    def _parts(self, trial: Trial, candidate: Candidate, cast: Cast) -> list[Part]:
        """The small faces to be drawn again, each as the one person who stands there."""
        detail = trial.options.detail
        if detail.when == "never" or not candidate.faces:
            return []
        picture, side = candidate.image, self._renderer.detail_side()
        faces = [face for face in candidate.faces if _is_white(trial.mask, face)]
        parts: list[Part] = []
        taken: set[int] = set()
        try:
            for face in self._renderer.small_faces(picture, faces, cast.references, detail):
                member = self._member(cast, face, picture)
                if member in taken or (member is None and len(cast.roles) > 1):
                    continue  # somebody in the background, or a second face of one person
                words = cast.roles[member].prompt if member is not None else ""
                taken |= {member} if member is not None else set()
                patch = face_patch(picture.size, face)
                parts.append(Part(len(parts), patch, cut(picture, patch, side), member, words))
        except Exception:
            log.exception("small faces stay as they are", extra={"render": str(trial.render.id)})
            return []
        return parts

    def _member(self, cast: Cast, face: Face, picture: Image) -> int | None:
        """Whose face it is, in a picture of several people: who stands there, or the most alike of those who do."""
        here = cast.members_at(face, picture.size)
        if len(here) < 2:
            return here[0] if here else None
        references = [cast.references[member] for member in here]
        nearest = self._renderer.most_alike(picture, face, references)
        return None if nearest is None else here[nearest]

    def _weigh(self, trial: Trial, candidate: Candidate, cast: Cast) -> Judgement:
        refusal = self._renderer.refusal(candidate.image)
        if refusal is None:
            similarity, reason = self._similarity(trial, candidate, cast)
            trial.weigh(replace(candidate, similarity=similarity, reason=reason))
        else:
            trial.refusal = refusal
        following = None if trial.is_satisfied() else trial.next_attempt()
        return Judgement((following,)) if following is not None else self._settled(trial)

    def _settled(self, trial: Trial) -> Judgement:
        """No further seed is tried: the best is recorded, or there is none."""
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


def _is_white(mask: Image | None, face: Face) -> bool:
    """Whether the middle of a face lies where the picture was redrawn; everywhere without a mask."""
    if mask is None:
        return True
    x, y = ((face.box_xyxy[:2] + face.box_xyxy[2:]) / 2).tolist()
    place = (min(max(int(x), 0), mask.width - 1), min(max(int(y), 0), mask.height - 1))
    return bool(np.asarray(mask)[place[1], place[0]] >= HALF_WHITE)


def _blended(trial: Trial) -> Candidate:
    """The current picture with its redrawn faces; what a mask keeps stays as it is given."""
    candidate = trial.current
    assert candidate is not None
    image = candidate.image
    for _number, redrawn, part in sorted(trial.redrawn, key=lambda entry: entry[0]):
        image = paste(image, redrawn, part.patch)
    if trial.mask is not None and trial.redrawn:
        image = PilImage.composite(image, candidate.image, trial.mask)
    return replace(candidate, image=image, detail_faces=len(trial.redrawn))


def _told_when_short(trial: Trial, best: Candidate) -> Candidate:
    """The best of all seeds may still be less alike than was asked for; its row says so."""
    gate = trial.options.gate
    if gate is None or gate.min_id_similarity is None or best.similarity is None or trial.is_satisfied():
        return best
    tried = f"{trial.draws} seeds" if trial.draws > 1 else "one seed"
    return replace(best, reason=f"below the wanted {gate.min_id_similarity:g}: the best of {tried}")
