"""Methods side by side, each through the same seam: fidelity, likeness, editing, text, and what they cost.

The measures are those of the slides' table. Every number is a mean over people.

Shapes: N people, E numbers of the judge's embedding, D width of CLIP's common space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.errors import InvalidRequest, NoUsablePhoto
from hyperlora.evaluation.clip_scores import ClipScores
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.judges import Judge
from hyperlora.evaluation.methods import Method
from hyperlora.evaluation.statistics import Estimate, mean_over_people
from hyperlora.faces.types import FloatArray, unit_length

SHOWN_PEOPLE, SHOWN_PROMPTS = 6, 2


@dataclass(frozen=True, eq=False)
class Subject:
    """A person to be drawn.

    Parameters
    ----------
    name
        For tables and grids.
    photos
        What the methods are given, and what CLIP-I compares with.
    prompts, seeds
        The pictures that are asked for, in pairs.
    gallery
        Portraits that the judge knows the person by; None takes the photos.
    """

    name: str
    photos: Sequence[Image.Image]
    prompts: Sequence[str]
    seeds: Sequence[int]
    gallery: Sequence[Image.Image] | None = None


@dataclass(frozen=True)
class Scores:
    """What one method reached.

    Parameters
    ----------
    method
        Its name.
    id_similarity
        Judge's cosine between picture and person; a picture without a face, or of a person who could not be prepared,
        counts as 0.
    clip_i_fidelity
        CLIP cosine between picture and photos; None without a CLIP model.
    clip_i_editing
        CLIP cosine between the pictures with and without the identity, for one prompt and seed.
    clip_t
        CLIP cosine between picture and prompt.
    preprocess_ms, inference_ms
        Medians: per person, and per picture.
    people, unprepared
        How many, and how many of them could not be prepared, for want of a usable photo.
    pictures, faceless
        How many were drawn, and in how many of them the judge found no face.
    """

    method: str
    id_similarity: Estimate
    clip_i_fidelity: Estimate | None
    clip_i_editing: Estimate | None
    clip_t: Estimate | None
    preprocess_ms: float
    inference_ms: float
    people: int
    unprepared: int
    pictures: int
    faceless: int

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(eq=False)
class Comparison:
    """Subjects, a judge, and the pictures without identity that editing is measured against.

    Parameters
    ----------
    subjects
        The people; none of them may be without a face for the judge.
    judge, clip
        Who judges. Without `clip` its scores are not measured.
    plain
        The method that draws without an identity.
    on_progress
        Called with (what, done, total).
    """

    subjects: Sequence[Subject]
    judge: Judge
    plain: Method
    clip: ClipScores | None = None
    on_progress: Callable[[str, int, int], None] | None = None
    _known: dict[int, FloatArray] = field(default_factory=dict)
    _without: dict[int, list[Image.Image]] = field(default_factory=dict)
    _shown: dict[str, dict[int, list[Image.Image]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.subjects:
            raise InvalidRequest("methods are compared on at least one person, found none")

    def scores(self, method: Method) -> Scores:
        """Draw everybody with the method and measure. Raises `InvalidRequest` for a person unknown to the judge."""
        measured: list[_Person] = []
        self._warm_up(method)
        for index, subject in enumerate(self.subjects):
            if self.on_progress is not None:
                self.on_progress(method.name, index, len(self.subjects))
            measured.append(self._measure(method, index, subject))
        drawn = [one for one in measured if one.inference_ms is not None]
        clip = {name: self._mean([getattr(one, name) for one in drawn]) for name in ("fidelity", "editing", "text")}
        return Scores(
            method=method.name,
            id_similarity=mean_over_people(np.array([one.likeness for one in measured])),
            clip_i_fidelity=clip["fidelity"],
            clip_i_editing=clip["editing"],
            clip_t=clip["text"],
            preprocess_ms=_median([one.preprocess_ms for one in drawn]),
            inference_ms=_median([one.inference_ms for one in drawn]),
            people=len(measured),
            unprepared=len(measured) - len(drawn),
            pictures=sum(len(subject.prompts) for subject in self.subjects),
            faceless=sum(one.faceless for one in measured),
        )

    def grid(self) -> Grid:
        """The first people's photos and pictures of every method that was measured, side by side."""
        columns = ["photo"]
        for method in self._shown:
            columns += [f"{method} {place + 1}" for place in range(self._shown_prompts)]
        rows = []
        for index, subject in enumerate(self.subjects[:SHOWN_PEOPLE]):
            pictures: list[Image.Image | None] = [subject.photos[0]]
            for shown in self._shown.values():
                pictures += shown.get(index, [None] * self._shown_prompts)
            rows.append((subject.name, pictures))
        return Grid("The same prompts and seeds", columns, rows)

    @property
    def _shown_prompts(self) -> int:
        return min(SHOWN_PROMPTS, *(len(subject.prompts) for subject in self.subjects))

    def _warm_up(self, method: Method) -> None:
        """One picture that is not timed: libraries load and compile on first use."""
        for subject in self.subjects:
            try:
                prepared = method.prepare(subject.photos)
            except NoUsablePhoto:
                continue
            method.render(prepared, subject.prompts[:1], subject.seeds[:1])
            return

    def _measure(self, method: Method, index: int, subject: Subject) -> _Person:
        # 1. Photos, once.
        try:
            prepared = method.prepare(subject.photos)
        except NoUsablePhoto:
            return _Person(faceless=len(subject.prompts))
        # 2. Pictures.
        rendered = method.render(prepared, subject.prompts, subject.seeds)
        images = rendered.images
        if index < SHOWN_PEOPLE:
            self._shown.setdefault(method.name, {})[index] = images[: self._shown_prompts]
        # 3. The judge's word.
        seen = [embedding for embedding in self.judge.embed(images) if embedding is not None]
        likeness = sum(float(each @ self._person(index)) for each in seen) / len(images)
        one = _Person(
            likeness=likeness,
            faceless=len(images) - len(seen),
            preprocess_ms=1000 * prepared.seconds,
            inference_ms=1000 * rendered.seconds / len(images),
        )
        # 4. CLIP's.
        if self.clip is None:
            return one
        pictures_PD = self.clip.images(images)
        photos_MD = self.clip.images(subject.photos)
        without_PD = self.clip.images(self._plain(index))
        texts_PD = self.clip.texts(subject.prompts)
        one.fidelity = float((pictures_PD @ photos_MD.T).mean())
        one.editing = _paired(pictures_PD, without_PD)
        one.text = _paired(pictures_PD, texts_PD)
        return one

    def _person(self, index: int) -> FloatArray:
        """By what the judge knows somebody: the mean of the embeddings, of unit length."""
        if index not in self._known:
            subject = self.subjects[index]
            found = [each for each in self.judge.embed(subject.gallery or subject.photos) if each is not None]
            if not found:
                raise InvalidRequest(
                    f"the judge {self.judge.name!r} finds no face in any photo of {subject.name}; leave this person "
                    "out, or use photos that show the face"
                )
            self._known[index] = unit_length(np.mean(found, axis=0))
        return self._known[index]

    def _plain(self, index: int) -> list[Image.Image]:
        if index not in self._without:
            subject = self.subjects[index]
            prepared = self.plain.prepare(subject.photos)
            self._without[index] = self.plain.render(prepared, subject.prompts, subject.seeds).images
        return self._without[index]

    def _mean(self, values: Sequence[float | None]) -> Estimate | None:
        found = [value for value in values if value is not None]
        return mean_over_people(np.array(found)) if found else None


@dataclass
class _Person:
    """One person's numbers; as it stands, those of somebody who could not be prepared."""

    likeness: float = 0.0
    faceless: int = 0
    preprocess_ms: float | None = None
    inference_ms: float | None = None
    fidelity: float | None = None
    editing: float | None = None
    text: float | None = None


def _median(values: Sequence[float | None]) -> float:
    found = [value for value in values if value is not None]
    return float(np.median(found)) if found else float("nan")


def _paired(one_PD: torch.Tensor, other_PD: torch.Tensor) -> float:
    return float((one_PD * other_PD).sum(dim=-1).mean())
