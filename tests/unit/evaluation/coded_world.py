"""A world in which every number is known beforehand: pictures are codes that the judge reads without error.

Row 0 of a picture holds the share of each person, row 1 the place of each attribute's word in the vocabulary, row 2 the
seed's colour. A model draws what its knobs say: whose face, how obedient, how leaky.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora.coefficients import normalise
from hyperlora.errors import NoUsablePhoto
from hyperlora.evaluation.judges import Judge
from hyperlora.evaluation.model import Known, PortraitModel, Setting
from hyperlora.evaluation.people import FIRST, HeldOut
from hyperlora.evaluation.shots import SLOTS
from hyperlora.evaluation.study import Extent, MiniStudy
from hyperlora.lora import LoRA
from hyperlora.mini.attributes import VOCABULARY, Attributes

SIDE, PEOPLE = 64, 40
NOBODY = [0.0] * PEOPLE


def coded(shares: Sequence[float], labels: Sequence[int], seed: int = 0) -> Image.Image:
    """A picture that says who and what."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0, : len(shares), 0] = np.clip(np.rint(np.array(shares) * 255), 0, 255)
    pixels[1, : len(labels), 0] = labels
    pixels[8:, :, :] = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, 3)
    return Image.fromarray(pixels)


def labels_of(said: Attributes) -> list[int]:
    """The places of the words."""
    return [VOCABULARY[slot].index(getattr(said, slot)) for slot in SLOTS]


def labels_asked(prompt: str) -> list[int]:
    """The places of the words that a prompt asks for; 0 where it says nothing."""
    worn, _, rest = prompt.partition("wearing ")[2].partition(", ")
    parts = {"clothing": worn, "clothing_colour": worn, "accessory": worn, "background": rest, "expression": rest}
    out = []
    for slot in SLOTS:
        found = [word for word in VOCABULARY[slot] if f" {word}" in f" {parts[slot]}"]
        out.append(VOCABULARY[slot].index(max(found, key=len)) if found else 0)
    return out


class CodedJudge:
    """Reads the code. A picture of nobody has no face."""

    def __init__(self, name: str = "coded") -> None:
        self.name, self.asked = name, 0

    def embed(self, images: Sequence[Image.Image]) -> list[Any]:
        self.asked += len(images)
        rows = [np.asarray(image)[0, :PEOPLE, 0].astype(np.float32) for image in images]
        return [row / np.linalg.norm(row) if row.any() else None for row in rows]

    def labels(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        return [
            {slot: VOCABULARY[slot][int(np.asarray(image)[1, place, 0])] for place, slot in enumerate(SLOTS)}
            for image in images
        ]


@dataclass(eq=False)
class CodedModel:
    """Draws codes; Base-LoRA brings along what the first photo shows.

    `blur` mixes everybody into a face that one photo gives, and less with more photos; `plain` is whom the base model
    draws; `deaf` draws no attribute as asked with a LoRA; `loud` has an effect without trigger words too; `unusable`
    people have no photo that shows a face.
    """

    blur: float = 0.0
    plain: int | None = None
    deaf: bool = False
    loud: bool = False
    leaky: bool = False
    unusable: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.setting = Setting(size=SIDE, steps=1, batch_size=4)
        self.described = {"photo_size": SIDE}
        self.name, self.encoders, self.drawn = "coded", "coded", 0
        self.pipeline = self
        self.network = self
        self.config = self
        self.branches = ("id", "base")

    def rank_of(self, branch: str) -> int:
        assert branch in self.branches
        return 4

    @property
    def fingerprint(self) -> str:
        return repr((self.blur, self.plain, self.deaf, self.loud, self.leaky, self.unusable))

    def restore(self) -> None:
        """Nothing is merged."""

    def read(self, photos: Sequence[Image.Image]) -> Known:
        code = np.asarray(photos[0])
        who = int(code[0, :PEOPLE, 0].argmax())
        if who in self.unusable:
            raise NoUsablePhoto()
        face = torch.nn.functional.one_hot(torch.tensor([who]), PEOPLE).float()
        labels = torch.tensor(code[1, : len(SLOTS), 0].astype(np.float32)).reshape(1, 1, -1)
        return Known(face, labels, labels, (0,))

    def coefficients(self, known: Known, *, branch: str = "id", network: Any = None) -> torch.Tensor:
        del branch
        haze = self.blur / len(known.used)
        self._photo = known.clip_tokens_NTC[0, 0].int().tolist()
        self._leaks = self.leaky if network is None else network.leaky
        return normalise(known.face_embeddings_NE.mean(dim=0) + haze).reshape(1, 1, -1)

    def lora(self, coefficients: torch.Tensor, branch: str = "id", *, network: Any = None) -> LoRA:
        del network
        told = {
            "shares": coefficients.flatten().tolist(),
            "photo": self._photo if self._leaks or branch == "base" else None,
        }
        return LoRA({}, {"branch": branch, "code": json.dumps(told)})

    def draw(
        self, loras: Any, prompts: Sequence[str], seeds: Sequence[int], *, trigger_words: bool = True
    ) -> tuple[list[Image.Image], float]:
        self.drawn += len(prompts)
        codes = [json.loads(lora.metadata["code"]) for lora, _ in loras] if trigger_words or self.loud else []
        photo = next((code["photo"] for code in codes if code["photo"]), None)
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            asked = labels_asked(prompt)
            if not codes:
                # The base model draws somebody, in another colour for every seed.
                shares = [float(who == self.plain) for who in range(PEOPLE)]
                images.append(coded(shares, asked, seed))
            else:
                labels = photo or ([0] * len(SLOTS) if self.deaf else asked)
                images.append(coded(codes[0]["shares"], labels, seed + 1))
        return images, 0.25 * len(prompts)

    def draw_each(self, loras: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[Image.Image]:
        pairs = zip(loras, prompts, seeds, strict=True)
        return [self.draw(own, [prompt], [seed], **options)[0][0] for own, prompt, seed in pairs]


def code_portraits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every drawn portrait be a code, too."""

    def portrait(self: HeldOut, number: int, said: Attributes, size: int) -> Image.Image:
        assert number >= 0 and size >= SIDE
        image = coded([float(who == self.seed - FIRST) for who in range(PEOPLE)], labels_of(said))
        return image

    monkeypatch.setattr(HeldOut, "_portrait", portrait)
    monkeypatch.setattr("hyperlora.evaluation.people.DRAWN_AT_LEAST", SIDE)


def coded_study(
    model: CodedModel,
    *,
    judge: Any = None,
    folder: Path | None = None,
    twin: Any = None,
    people: int = PEOPLE,
    **more: int,
) -> MiniStudy:
    """A study of the coded world."""
    extent = Extent(**{"people": people, "prompts": 4, "photos": 2, **more})
    return MiniStudy(cast(PortraitModel, model), cast(Judge, judge or CodedJudge()), extent, folder, twin)
