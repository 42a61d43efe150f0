"""The mini pack's face encoder: who is it, in 512 numbers.

Shapes: B crops of S = 56 pixels, E = 512, F traits, Q people of a batch with two pictures each.

The aligned square of 112 pixels is shrunk by 2, since drawn portraits hold no more. Two things are asked of the unit
vector at once: two pictures of a person lie nearer to each other than to all others of the batch (the contrastive loss
of van den Oord and others, 2018, both ways), and the person's traits can be read from it by one linear map. The second
is what people who were never seen live by: a hypernetwork has to draw them from these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hyperlora.faces.align import ALIGNED_SIDE
from hyperlora.faces.types import RGBArray
from hyperlora.mini.learn import traits
from hyperlora.mini.learn.convnet import Size, Stack, batch_of
from hyperlora.mini.learn.crops import aligned, five_points, shrunk, worn
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.onnx_files import GraphWriter

SHRINK, WIDTH = 2, 512
SIDE = ALIGNED_SIDE // SHRINK
MEAN, STD = 127.5, 127.5
TEMPERATURE = 0.1
_TRAITS_SHARE = 1.0
_GATHERED = 12  # channels ahead of the last layer

TINY = tuple(Size(*row) for row in ((24, 2), (40, 1), (64, 2), (64, 1), (96, 2), (96, 1)))
FULL = tuple(Size(*row) for row in ((32, 2), (48, 1), (80, 2), (80, 1), (112, 2), (112, 1)))


class FaceEncoder(nn.Module):
    """(B, 3, 56, 56), scaled by `MEAN` and `STD`, to (B, 512), of any length."""

    def __init__(self, sizes: tuple[Size, ...] = TINY) -> None:
        super().__init__()
        self.stack = Stack(sizes)
        self.gather = nn.Conv2d(self.stack.width, _GATHERED, 1)
        self.embed = nn.Linear(_GATHERED * (SIDE // 8) ** 2, WIDTH)
        self.tell = nn.Linear(WIDTH, traits.count())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The numbers as the ONNX file gives them; whoever compares them makes them one long."""
        told_BE: torch.Tensor = self.embed(self.gather(self.stack(x_BCHW)).flatten(1))
        return told_BE

    def traits(self, embedding_BE: torch.Tensor) -> torch.Tensor:
        """(B, F) traits read from unit vectors; they are made as long as F's numbers are."""
        told_BF: torch.Tensor = self.tell(embedding_BE * WIDTH**0.5)
        return told_BF


def write_encoder(model: FaceEncoder, path: Path) -> None:
    """The file that InsightFace takes for an ArcFace recogniser of 112 pixels."""
    graph = GraphWriter("mini_recogniser", ALIGNED_SIDE)
    seen = model.stack.write(graph, graph.pooled(graph.source, SHRINK))
    flat = graph.node("Flatten", graph.conv(seen, model.gather))
    told = graph.named("embedding", graph.dense(flat, model.embed))
    graph.save(path, {told: ("batch", WIDTH)})


class Knows(Protocol):
    """What a network that is trained to know people has, beside being a module."""

    def traits(self, embedding_BE: torch.Tensor) -> torch.Tensor:
        """(B, F) traits read from unit vectors."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """(2 Q, S, S, 3) uint8 crops, a person's two in rows k and Q + k, and the people's (Q, F) traits."""

    pixels: torch.Tensor
    traits: torch.Tensor
    labels: torch.Tensor  # (2 Q, A) of the pictures


class PairMaker:
    """Draws people, and for each two of their pictures."""

    def __init__(self, drawings: Drawings) -> None:
        self._drawings = drawings
        seeds, first = np.unique(drawings.persons, return_index=True)
        self._first = first
        self._traits = traits.traits(seeds)

    def draw(self, dice: np.random.Generator, batch: int) -> Pairs:
        """Aligned crops of `batch` // 2 people, worn."""
        people, rows = self.people(dice, batch // 2)
        pixels = np.stack([worn(aligned_crop(self._drawings, int(row), dice), dice) for row in rows])
        return Pairs(
            torch.from_numpy(pixels),
            torch.from_numpy(self._traits[people]),
            torch.from_numpy(self._drawings.labels[rows]),
        )

    def people(self, dice: np.random.Generator, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(Q,) people, and (2 Q,) rows of the drawings: first one picture of each, then another of each."""
        people = dice.choice(len(self._first), min(count, len(self._first)), replace=False)
        two = [dice.permutation([self._first[one], *self._drawings.others[self._first[one]]])[:2] for one in people]
        return people, np.array(two, np.int64).T.reshape(-1)


def aligned_crop(drawings: Drawings, row: int, dice: np.random.Generator) -> RGBArray:
    """(56, 56, 3): the aligned square of a drawing at 64 pixels or its own size."""
    pixels = drawings.pixels[row]
    side = 64 if dice.random() < 0.5 else len(pixels)
    picture = shrunk(pixels, side)
    return shrunk(aligned(picture, five_points(drawings.landmarks[row] * side), dice), SIDE)


def encoder_loss(model: FaceEncoder, pairs: Pairs) -> torch.Tensor:
    """Contrastive loss and the traits' mean squared error."""
    device = model.embed.weight.device
    unit_BE = nn.functional.normalize(model(batch_of(pairs.pixels.to(device), MEAN, STD)))
    return knowing_loss(model, unit_BE, pairs.traits.to(device))


def knowing_loss(model: Knows, unit_BE: torch.Tensor, traits_QF: torch.Tensor) -> torch.Tensor:
    """Contrastive loss of unit vectors in pairs, both ways, and the traits' mean squared error."""
    one_QE, other_QE = unit_BE.chunk(2)
    alike_QQ = one_QE @ other_QE.T / TEMPERATURE
    right_Q = torch.arange(len(alike_QQ), device=unit_BE.device)
    known = (nn.functional.cross_entropy(alike_QQ, right_Q) + nn.functional.cross_entropy(alike_QQ.T, right_Q)) / 2
    told = nn.functional.mse_loss(model.traits(unit_BE), traits_QF.repeat(2, 1))
    return known + _TRAITS_SHARE * told
