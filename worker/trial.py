"""A render's way from the first drawing to the chosen picture: seeds that were tried, small faces that are redrawn.

Most renders are drawn once. One with a gate is drawn again under other seeds until its face is alike enough; one with
a small face is followed by a drawing of that face alone. Such follow-ups are planned like everything else, so that
they share batches.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace

from PIL.Image import Image

from hyperlora.detail import FacePatch
from hyperlora.faces.types import Face
from jobs.options import RenderOptions
from jobs.planned import candidate_seed
from jobs.repository.renders import CandidateRow, WaitingRender


@dataclass(frozen=True, eq=False)
class Part:
    """A small face that is drawn again: its place in the picture, what it looks like now, and who it is."""

    number: int
    patch: FacePatch
    start: Image
    member: int | None  # of a picture of several people; None: whoever the picture shows
    words: str = ""  # what is said of that member


@dataclass(frozen=True, eq=False)
class Draw:
    """One drawing to be made: the picture under a seed, or a part of it."""

    trial: Trial
    attempt: int
    part: Part | None = None

    @property
    def render(self) -> WaitingRender:
        """What was asked for."""
        return self.trial.render

    @property
    def seed(self) -> int:
        """The seed of this attempt."""
        return candidate_seed(self.render.seed, self.attempt)

    @property
    def is_first(self) -> bool:
        """Whether the render has not been begun; what has been begun is brought to its end."""
        return self.attempt == 0 and self.part is None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A finished picture that may be chosen."""

    image: Image
    seed: int
    attempt: int
    faces: tuple[Face, ...] = ()
    detail_faces: int = 0
    similarity: float | None = None
    reason: str | None = None

    def beats(self, other: Candidate) -> bool:
        """More alike; a picture without a measurable face loses, and of equals the earlier stays."""
        return (-2.0 if self.similarity is None else self.similarity) > (
            -2.0 if other.similarity is None else other.similarity
        )


@dataclass(eq=False)
class Trial:
    """What is known so far of one render. Its methods are called under `lock`.

    `seconds` are those of merge, denoise, decode and detail, over all drawings.
    """

    render: WaitingRender
    lock: threading.Lock = field(default_factory=threading.Lock)
    draws: int = 0
    batch_size: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    current: Candidate | None = None
    parts: dict[int, Part] = field(default_factory=dict)  # of the current picture, still to be drawn
    redrawn: list[tuple[int, Image, Part]] = field(default_factory=list)
    best: Candidate | None = None
    losers: list[Candidate] = field(default_factory=list)  # not stored yet
    others: list[CandidateRow] = field(default_factory=list)  # stored
    refusal: str | None = None
    mask: Image | None = None  # of a given picture: what is not black is redrawn
    is_open: bool = True

    @property
    def options(self) -> RenderOptions:
        """What is asked for beyond prompt, seed and size."""
        return self.render.options

    @property
    def attempts(self) -> int:
        """How many seeds may be tried."""
        return self.options.gate.attempts if self.options.gate else 1

    def first(self) -> Draw:
        """The drawing that everything begins with."""
        return Draw(self, 0)

    def next_attempt(self) -> Draw | None:
        """The drawing under the next seed, None when all have been tried."""
        return Draw(self, self.draws) if self.draws < self.attempts else None

    def begin(self, candidate: Candidate) -> None:
        """A picture was drawn under a new seed."""
        self.draws += 1
        self.current, self.parts, self.redrawn = candidate, {}, []

    def await_parts(self, parts: list[Part]) -> list[Draw]:
        """The drawings of these faces of the current picture."""
        assert self.current is not None
        self.parts = {part.number: part for part in parts}
        return [Draw(self, self.current.attempt, part) for part in parts]

    def add_part(self, part: Part, image: Image) -> bool:
        """A face was redrawn; whether it was the last that was waited for."""
        if self.parts.pop(part.number, None) is not None:
            self.redrawn.append((part.number, image, part))
        return not self.parts

    def give_up_part(self, part: Part) -> bool:
        """A face could not be redrawn; whether it was the last that was waited for."""
        self.parts.pop(part.number, None)
        return not self.parts

    def close(self) -> None:
        """Everything is recorded, or nothing will be: let the pictures go."""
        self.is_open = False
        self.current = self.best = self.mask = None
        self.parts, self.redrawn, self.losers = {}, [], []

    def weigh(self, candidate: Candidate) -> None:
        """Keep the better of this picture and the best before; the other is a candidate that was not chosen."""
        if self.best is None:
            self.best = candidate
        elif candidate.beats(self.best):
            self.losers.append(self.best)
            self.best = candidate
        else:
            self.losers.append(candidate)

    def is_satisfied(self) -> bool:
        """Whether the best picture is as alike as was asked for."""
        gate = self.options.gate
        if gate is None:
            return self.best is not None
        if self.best is None or gate.min_id_similarity is None or self.best.similarity is None:
            return False
        return self.best.similarity >= gate.min_id_similarity


def with_measure(candidate: Candidate, similarity: float | None, reason: str | None) -> Candidate:
    """The candidate with its ID similarity."""
    return replace(candidate, similarity=similarity, reason=reason)
