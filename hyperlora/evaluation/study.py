"""The mini world's evaluation: everything that several claims need, made once and kept in a folder.

Shapes: N people, E numbers of the judge's embedding, P pictures of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.config import Branch
from hyperlora.errors import InvalidRequest, NoUsablePhoto
from hyperlora.evaluation.judges import Judge, Labeller
from hyperlora.evaluation.model import PortraitModel
from hyperlora.evaluation.people import GALLERY, PHOTO_SIZE, PHOTOS, HeldOut, held_out, prompt_of
from hyperlora.evaluation.read_photos import ReadPhotos, digest
from hyperlora.evaluation.shots import Shots, judged, wanted_labels
from hyperlora.faces.types import unit_length
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA

FEW = 4

Weighted = list[tuple[LoRA, float]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Parameters
    ----------
    people
        Held-out persons, from seed 2,000,000 on.
    prompts
        Pictures of each for the claims about identity and text; the other claims take at most four of them.
    photos
        Photos of each that the model is given where a claim does not say otherwise.
    refine_people
        Persons for whom LoRAs are trained, which is slow.
    refine_steps
        Steps from our LoRA and from zero, and the many steps from zero.
    """

    people: int = 100
    prompts: int = 8
    photos: int = 4
    refine_people: int = 4
    refine_steps: tuple[int, int] = (50, 500)

    def __post_init__(self) -> None:
        if not 1 <= self.photos <= len(PHOTOS) or self.prompts < 1:
            raise InvalidRequest(
                f"1 to {len(PHOTOS)} photos and at least one prompt are wanted, found {self.photos} and {self.prompts}"
            )


@dataclass(eq=False)
class MiniStudy:
    """A model, a judge and the held-out people.

    Parameters
    ----------
    model, judge
        What is evaluated, and by whom.
    extent
        How much.
    folder
        Where judged pictures and read photos are kept, so that a study goes on where it was ended; None keeps nothing.
    twin
        A checkpoint trained without Base-LoRA for the same steps, for the claim about leaks.
    on_progress
        Called with (what, done, total).
    """

    model: PortraitModel
    judge: Judge
    extent: Extent = field(default_factory=Extent)
    folder: Path | None = None
    twin: HyperLoRA | None = None
    on_progress: Progress | None = None

    def __post_init__(self) -> None:
        self._shots: dict[str, Shots] = {}

    @cached_property
    def key(self) -> str:
        """What kept results rest on, 64 hex digits."""
        return digest(self.model.fingerprint, self.drawn_key, self.photos.key, f"{self.extent.photos} photos")

    @cached_property
    def drawn_key(self) -> str:
        """What judged drawings rest on: not on the model, so that they serve the next one too."""
        extent = self.extent
        return digest(
            self.judge.name, *(str(each) for each in (self.model.setting.size, extent.people, extent.prompts))
        )

    @cached_property
    def people(self) -> list[HeldOut]:
        """The held-out persons."""
        photo_size = int(self.model.described.get("photo_size", PHOTO_SIZE))
        return held_out(self.extent.people, self.model.setting.size, photo_size)

    @property
    def few(self) -> int:
        """Prompts of the claims that need many pictures otherwise."""
        return min(FEW, self.extent.prompts)

    @property
    def labels(self) -> bool:
        """Whether the judge reads attributes."""
        return isinstance(self.judge, Labeller)

    @cached_property
    def gallery_NE(self) -> npt.NDArray[np.float32]:
        """By what the judge knows everybody: the mean of four drawn portraits, of unit length."""
        shots = self._kept("gallery", len(GALLERY), self._galleries, self.drawn_key)
        seen_N = (~np.isnan(shots.embeddings_NPE)).any(axis=(1, 2))
        if not seen_N.all():
            unseen = self.people[int(np.argmin(seen_N))].seed
            raise InvalidRequest(
                f"the judge {self.judge.name!r} finds no face in any drawn portrait of person {unseen}; use another one"
            )
        return np.stack([unit_length(np.nanmean(each_PE, axis=0)) for each_PE in shots.embeddings_NPE])

    def asked_NPA(self, prompts: int) -> npt.NDArray[np.int64]:
        """What the first prompts of everybody ask for, as labels."""
        return wanted_labels([[one.asked(place) for place in range(prompts)] for one in self.people])

    def ideal_shots(self) -> Shots:
        """Drawn portraits that show exactly what is asked for: the ceiling."""
        return self._kept("drawn", self.extent.prompts, self._ideals, self.drawn_key)

    @cached_property
    def photos(self) -> ReadPhotos:
        """Everybody's photos as the hypernetwork reads them."""
        return ReadPhotos(self.model, self.people, self.place, self.tell)

    def loras(
        self, index: int, photos: int, branches: Sequence[Branch] = ("id",), network: HyperLoRA | None = None
    ) -> Weighted:
        """One person's LoRAs with the default weight. Raises `NoUsablePhoto`."""
        known, model = self.photos.known(index, photos), self.model
        out: Weighted = []
        for branch in branches:
            coefficients = model.coefficients(known, branch=branch, network=network)
            out.append((model.lora(coefficients, branch, network=network), model.setting.weight))
        return out

    def with_lora(
        self, photos: int, prompts: int, branches: Sequence[Branch] = ("id",), network: HyperLoRA | None = None
    ) -> Shots:
        """Pictures of everybody's first prompts with their LoRAs."""
        name = f"{'-'.join(branches)}-{photos}-photos"
        return self.shots(name, prompts, lambda index: self.loras(index, photos, branches, network))

    def without_lora(self, prompts: int) -> Shots:
        """The same prompts and seeds drawn by the base model alone, without trigger words."""
        return self.shots("plain", prompts, None)

    def shots(
        self,
        name: str,
        prompts: int,
        loras_of: Callable[[int], Weighted] | None,
        *,
        prompt: Callable[[HeldOut, int], str] = lambda one, place: prompt_of(one.asked(place)),
    ) -> Shots:
        """Everybody's first prompts drawn and judged, under a name that says how; kept, and made once.

        `loras_of` gives the LoRAs of a person by number, None draws without and without trigger words.
        """
        larger = self.place(f"{name}-{self.extent.prompts}.npz")
        if name not in self._shots and larger is not None and larger.is_file():
            self._shots[name] = Shots.load(larger)
        if name in self._shots and self._shots[name].embeddings_NPE.shape[1] >= prompts:
            return self._shots[name].first(prompts)

        def texts(one: HeldOut) -> list[str]:
            return [prompt(one, place) for place in range(prompts)]

        def seeds(one: HeldOut) -> list[int]:
            return [one.picture_seed(place) for place in range(prompts)]

        return self._kept(name, prompts, lambda: self.drawn(name, texts, seeds, loras_of))

    def drawn(
        self,
        what: str,
        prompts: Callable[[HeldOut], list[str]],
        seeds: Callable[[HeldOut], list[int]],
        loras_of: Callable[[int], Weighted] | None,
        *,
        trigger_words: bool | None = None,
    ) -> Iterator[list[Image.Image] | None]:
        """Everybody's pictures, one person after another; None for a person without a usable photo.

        Several people share a batch, each picture with its person's LoRAs.
        """
        words = loras_of is not None if trigger_words is None else trigger_words
        at_once = max(1, self.model.setting.batch_size // len(prompts(self.people[0])))
        for start in range(0, len(self.people), at_once):
            self.tell(f"drawing {what}", start, len(self.people))
            group = list(range(start, min(start + at_once, len(self.people))))
            loras = {index: [] if loras_of is None else _or_none(loras_of, index) for index in group}
            able = [index for index in group if loras[index] is not None]
            texts = [text for index in able for text in prompts(self.people[index])]
            numbers = [seed for index in able for seed in seeds(self.people[index])]
            images: list[Image.Image] = []
            if loras_of is None:
                images, _ = self.model.draw([], texts, numbers, trigger_words=words)
            elif able:
                each = [loras[index] or [] for index in able for _ in prompts(self.people[index])]
                images = self.model.draw_each(each, texts, numbers, trigger_words=words)
            pictures = iter(images)
            for index in group:
                count = len(prompts(self.people[index]))
                yield [next(pictures) for _ in range(count)] if index in able else None

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        if self.on_progress is not None:
            self.on_progress(what, done, total)

    def place(self, name: str, key: str | None = None) -> Path | None:
        """Where something is kept that rests on `key`; on the whole study unless given."""
        return None if self.folder is None else self.folder / (key or self.key)[:16] / name

    def _kept(
        self,
        name: str,
        pictures: int,
        draw: Callable[[], Iterator[list[Image.Image] | None]],
        key: str | None = None,
    ) -> Shots:
        file = self.place(f"{name}-{pictures}.npz", key)
        if file is not None and file.is_file():
            shots = Shots.load(file)
        else:
            shots = judged(self.judge, draw(), pictures)
            if file is not None:
                shots.save(file)
        self._shots[name] = shots
        return shots

    def _galleries(self) -> Iterator[list[Image.Image]]:
        for index, one in enumerate(self.people):
            self.tell("drawing the gallery", index, len(self.people))
            yield one.gallery()

    def _ideals(self) -> Iterator[list[Image.Image]]:
        for index, one in enumerate(self.people):
            self.tell("drawing what is asked for", index, len(self.people))
            yield [one.ideal(place) for place in range(self.extent.prompts)]


def _or_none(loras_of: Callable[[int], Weighted], index: int) -> Weighted | None:
    try:
        return loras_of(index)
    except NoUsablePhoto:
        return None
