"""The seam for every method that is compared: photos once, then any number of pictures.

A method is anything that has these three members; nothing is inherited. `docs/evaluation.md` says how to add one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from hyperlora.config import Branch
from hyperlora.errors import CheckpointMismatch, InvalidRequest
from hyperlora.evaluation.model import PortraitModel


@dataclass(frozen=True, eq=False)
class Prepared:
    """One person as a method knows them, and what it cost to get to know them.

    Parameters
    ----------
    identity
        The method's own; handed back to `render` as it is.
    seconds
        Everything that is done once per person: faces found, encoded, weights made or trained.
    """

    identity: Any
    seconds: float


@dataclass(frozen=True, eq=False)
class Rendered:
    """Pictures in the order that was asked for, and the seconds for all of them together."""

    images: list[Image.Image]
    seconds: float


class Method(Protocol):
    """A way from photos and prompts to portraits."""

    @property
    def name(self) -> str:
        """Stable name, as the command line and the tables write it."""
        ...

    def prepare(self, photos: Sequence[Image.Image]) -> Prepared:
        """Get to know one person. Raises `NoUsablePhoto`, which is counted as a failure of this person."""
        ...

    def render(self, prepared: Prepared, prompts: Sequence[str], seeds: Sequence[int]) -> Rendered:
        """A picture for each prompt with the seed of the same place."""
        ...


class HyperLoRAMethod:
    """HyperLoRA as it is used: one pass of the hypernetwork, the LoRAs merged, the trigger words in front.

    Parameters
    ----------
    model
        A loaded base model with its HyperLoRA.
    branches
        `("id",)` is HyperLoRA (ID), `("id", "base")` is HyperLoRA (Full).

    Raises
    ------
    CheckpointMismatch
        The checkpoint lacks a branch.
    """

    def __init__(self, model: PortraitModel, branches: tuple[Branch, ...] = ("id",)) -> None:
        for branch in branches:
            model.network.config.rank_of(branch)
        self._model, self._branches = model, branches
        self.name = "hyperlora-id" if branches == ("id",) else "hyperlora-full"

    def prepare(self, photos: Sequence[Image.Image]) -> Prepared:
        """Photos to LoRAs."""
        started = time.perf_counter()
        known = self._model.read(photos)
        loras = [self._model.lora(self._model.coefficients(known, branch=branch), branch) for branch in self._branches]
        return Prepared(loras, time.perf_counter() - started)

    def render(self, prepared: Prepared, prompts: Sequence[str], seeds: Sequence[int]) -> Rendered:
        """The LoRAs merged and the pictures drawn; the merging counts."""
        weighted = [(lora, self._model.setting.weight) for lora in prepared.identity]
        return Rendered(*self._model.draw(weighted, prompts, seeds))


class PlainSDXL:
    """The base model alone: it never looks at a photo. The baseline of everything."""

    name = "sdxl"

    def __init__(self, model: PortraitModel) -> None:
        self._model = model

    def prepare(self, photos: Sequence[Image.Image]) -> Prepared:
        """Nothing to prepare."""
        return Prepared(len(photos), 0.0)

    def render(self, prepared: Prepared, prompts: Sequence[str], seeds: Sequence[int]) -> Rendered:
        """Pictures of the prompts, without trigger words."""
        return Rendered(*self._model.draw([], prompts, seeds, trigger_words=False))


METHODS: dict[str, Callable[[PortraitModel], Method]] = {
    "hyperlora-id": HyperLoRAMethod,
    "hyperlora-full": lambda model: HyperLoRAMethod(model, ("id", "base")),
    "sdxl": PlainSDXL,
}
"""Name -> how the method is made from the model that is evaluated."""


def make_method(name: str, model: PortraitModel) -> Method:
    """The method of this name. Raises `InvalidRequest` listing all, and for one that the model cannot be."""
    if name not in METHODS:
        raise InvalidRequest(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    try:
        return METHODS[name](model)
    except CheckpointMismatch as error:
        raise InvalidRequest(f"method {name} cannot be evaluated with {model.name}: {error}") from error
