"""Everything random of a step, from (seed, step) alone.

Shapes: G samples of a step over all processes and passes; latents (c, h, w).

Nothing is kept between steps, so a run that was interrupted draws on as if it had not been. Draws are made on the CPU
for the whole step, and each process takes its rows: the numbers do not depend on how many processes share a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hyperlora.training.stages import Setting

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """What was drawn for the samples of a step, or for some of them.

    Parameters
    ----------
    indices
        Rows of the dataset.
    references
        Rows whose face conditions are used; None for the pictures' own.
    settings
        Places in the stage's list of settings.
    dropped
        True where the caption is left out.
    timesteps_B, noise_BCHW
        Of the diffusion.
    """

    indices: Indices
    references: Indices | None
    settings: Indices
    dropped: npt.NDArray[np.bool_]
    timesteps_B: torch.Tensor
    noise_BCHW: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, start: int, stop: int) -> Draws:
        """A part of the samples."""
        part = slice(start, stop)
        return replace(
            self,
            indices=self.indices[part],
            references=None if self.references is None else self.references[part],
            settings=self.settings[part],
            dropped=self.dropped[part],
            timesteps_B=self.timesteps_B[part],
            noise_BCHW=self.noise_BCHW[part],
        )


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of its own for a seed and a purpose."""
    digest = hashlib.sha256(":".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Order:
    """The order of the samples: every epoch a permutation of its own, steps running on over their borders."""

    def __init__(self, samples: int, seed: int) -> None:
        self._samples, self._seed = samples, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def take(self, start: int, count: int) -> Indices:
        """The samples at `start` to `start + count` of the endless sequence."""
        parts = []
        while count:
            epoch, place = divmod(start, self._samples)
            if epoch != self._epoch:
                drawn = torch.randperm(self._samples, generator=generator(self._seed, "epoch", epoch))
                self._epoch, self._permutation = epoch, drawn.numpy()
            taken = self._permutation[place : place + count]
            parts.append(taken)
            start, count = start + len(taken), count - len(taken)
        return np.concatenate(parts)


class Others:
    """Other pictures of the same person, found by a sort instead of a table for each picture."""

    def __init__(self, persons: Indices) -> None:
        self._by_person = np.argsort(persons, kind="stable")
        ordered = persons[self._by_person]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, len(persons)])
        self._start = np.empty(len(persons), np.int64)
        self._size = np.empty(len(persons), np.int64)
        self._rank = np.empty(len(persons), np.int64)
        self._start[self._by_person] = np.repeat(starts, sizes)
        self._size[self._by_person] = np.repeat(sizes, sizes)
        self._rank[self._by_person] = np.arange(len(persons)) - np.repeat(starts, sizes)

    def draw(self, indices: Indices, dice: torch.Generator) -> Indices:
        """For each picture another one of its person, or itself where it is the only one."""
        share = torch.rand(len(indices), generator=dice, dtype=torch.float64).numpy()
        size = self._size[indices]
        step = 1 + np.minimum(share * (size - 1), size - 2).astype(np.int64)
        place = (self._rank[indices] + np.where(size > 1, step, 0)) % size
        return self._by_person[self._start[indices] + place]


class Dice:
    """Draws whole steps."""

    def __init__(
        self,
        settings: Sequence[Setting],
        order: Order,
        *,
        seed: int,
        samples: int,
        timesteps: range,
        latents: tuple[int, int, int],
        caption_dropout: float,
        others: Others | None = None,
    ) -> None:
        self._borders = np.cumsum([setting.share for setting in settings])[:-1]
        self._order, self._others = order, others
        self._seed, self._samples, self._timesteps = seed, samples, timesteps
        self._latents, self._dropout = latents, caption_dropout

    def step(self, step: int) -> Draws:
        """The draws of a step, counted from 0."""
        dice, count = generator(self._seed, "step", step), self._samples
        indices = self._order.take(step * count, count)
        chances_2G = torch.rand((2, count), generator=dice, dtype=torch.float64).numpy()
        return Draws(
            indices=indices,
            settings=np.searchsorted(self._borders, chances_2G[0], side="right").astype(np.int64),
            dropped=chances_2G[1] < self._dropout,
            timesteps_B=torch.randint(self._timesteps.start, self._timesteps.stop, (count,), generator=dice),
            noise_BCHW=torch.randn((count, *self._latents), generator=dice),
            references=None if self._others is None else self._others.draw(indices, dice),
        )
