"""The judge: knows people and reads labels in pictures of the mini world. It is no part of the pack.

Shapes: B pictures of S = 64 pixels, E = 256, F traits, A labels.

It is trained apart from the face encoder: on other people, on the whole small picture instead of an aligned face, with
a network of its own, which looks twice: at the picture, and at every pixel of the window in which a portrait has its
head, since a mouth is ten pixels wide. So a picture that pleases the encoder which conditions the model need not please
the judge. A face is not looked for: pictures of the mini world are portraits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hyperlora.errors import CheckpointMismatch, InvalidRequest, WeightsMissing
from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn import traits
from hyperlora.mini.learn.convnet import Size, Stack, batch_of

SIDE, WIDTH = 64, 256
MEAN, STD = 127.5, 64.0
LABELS = ("clothing", "clothing_colour", "background", "accessory", "expression")
WEIGHTS, CONFIG = "judge.safetensors", "judge.json"
_AT_ONCE = 64

# Left, top, right, bottom of the window with the head.
_HEAD = (12, 10, 52, 50)
_SPOTS = (_HEAD[2] - _HEAD[0]) // 4


@dataclass(frozen=True)
class Looks:
    """The layers of the look at the picture (to 8 x 8) and of the look at the head (to 10 x 10)."""

    picture: tuple[Size, ...]
    head: tuple[Size, ...]


TINY = Looks(
    tuple(Size(*row) for row in ((24, 2), (48, 2), (64, 1), (96, 2), (96, 1))),
    tuple(Size(*row) for row in ((16, 1), (32, 2), (48, 1), (48, 1), (80, 2), (80, 1))),
)
FULL = Looks(
    tuple(Size(*row) for row in ((32, 2), (64, 2), (96, 1), (128, 2), (128, 1), (128, 1))),
    tuple(Size(*row) for row in ((24, 1), (48, 2), (64, 1), (64, 1), (112, 2), (112, 1), (112, 1))),
)


class JudgeNetwork(nn.Module):
    """(B, 3, 64, 64), scaled by `MEAN` and `STD`, to (B, E) and a list of (B, words) scores, one a label."""

    def __init__(self, looks: Looks = TINY) -> None:
        super().__init__()
        self.looks = looks
        self.picture, self.head = Stack(looks.picture), Stack(looks.head)
        self.who = nn.Conv2d(self.head.width, 12, 1)
        self.embed = nn.Linear(12 * _SPOTS**2, WIDTH)
        self.what = nn.Conv2d(self.picture.width, 16, 1)
        self.how = nn.Conv2d(self.head.width, 12, 1)
        read = 16 * (SIDE // 8) ** 2 + self.picture.width + 12 * _SPOTS**2
        self.words = nn.ModuleList(nn.Linear(read, len(VOCABULARY[name])) for name in LABELS)
        self.tell = nn.Linear(WIDTH, traits.count())

    def forward(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Embeddings of any length, and scores before the softmax."""
        left, top, right, bottom = _HEAD
        seen_BCHW = self.picture(x_BCHW)
        head_BCHW = self.head(x_BCHW[:, :, top:bottom, left:right])
        embedding_BE = self.embed(nn.functional.relu(self.who(head_BCHW)).flatten(1))
        what_BN = nn.functional.relu(self.what(seen_BCHW)).flatten(1)
        how_BN = nn.functional.relu(self.how(head_BCHW)).flatten(1)
        read_BN = torch.cat([what_BN, seen_BCHW.mean((2, 3)), how_BN], 1)
        read_BN = nn.functional.dropout(read_BN, 0.2, self.training)
        return embedding_BE, [head(read_BN) for head in self.words]

    def traits(self, embedding_BE: torch.Tensor) -> torch.Tensor:
        """(B, F) traits read from unit vectors."""
        told_BF: torch.Tensor = self.tell(embedding_BE * WIDTH**0.5)
        return told_BF


@dataclass(frozen=True, eq=False)
class MiniJudge:
    """A trained judge; `name` changes with its weights."""

    name: str
    _network: JudgeNetwork

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> MiniJudge:
        """Read a judge's folder.

        Raises
        ------
        WeightsMissing
            A file is not there.
        CheckpointMismatch
            The weights do not fit the description.
        """
        place = Path(folder)
        if not ((place / WEIGHTS).is_file() and (place / CONFIG).is_file()):
            raise WeightsMissing(f"a judge is a folder with {WEIGHTS} and {CONFIG}; {place} lacks one of them")
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        known = {name: list(VOCABULARY[name]) for name in LABELS}
        if config.get("labels") != known:
            raise CheckpointMismatch(f"{place / CONFIG} knows other words than the vocabulary; train the judge anew")
        layers = {look: tuple(Size(**size) for size in sizes) for look, sizes in config["looks"].items()}
        network = JudgeNetwork(Looks(**layers))
        weights = {key: value.float() for key, value in load_file(place / WEIGHTS).items()}
        wanted = {key: tuple(value.shape) for key, value in network.state_dict().items() if "num_batches" not in key}
        found = {key: tuple(value.shape) for key, value in weights.items()}
        if wanted != found:
            odd = sorted({key for key in wanted | found if wanted.get(key) != found.get(key)})
            raise CheckpointMismatch(
                f"{place / WEIGHTS} does not fit {CONFIG}: {odd[0]} is {found.get(odd[0])}, wanted {wanted.get(odd[0])}"
            )
        network.load_state_dict(weights, strict=False)
        digest = hashlib.sha256((place / WEIGHTS).read_bytes()).hexdigest()[:8]
        return cls(f"mini-judge-{digest}", network.eval())

    def embed(self, images: Sequence[Image.Image]) -> list[npt.NDArray[np.float32] | None]:
        """(E,) unit vectors; never None, as no face is looked for.

        Raises
        ------
        InvalidRequest
            A picture is not square.
        """
        embedding_BE, _ = self._read(images)
        unit_BE = nn.functional.normalize(embedding_BE).numpy().astype(np.float32)
        return list(unit_BE)

    def labels(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """For each picture the likeliest word of every label.

        Raises
        ------
        InvalidRequest
            A picture is not square.
        """
        _, words = self._read(images)
        chosen = {name: scores_BW.argmax(1).tolist() for name, scores_BW in zip(LABELS, words, strict=True)}
        return [{name: VOCABULARY[name][places[k]] for name, places in chosen.items()} for k in range(len(images))]

    @torch.no_grad()
    def _read(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if not images:
            return torch.zeros(0, WIDTH), [torch.zeros(0, len(VOCABULARY[name])) for name in LABELS]
        pixels_BSS3 = torch.from_numpy(np.stack([small(image) for image in images]))
        read = [
            self._network(batch_of(some, MEAN, STD))
            for some in [pixels_BSS3[k : k + _AT_ONCE] for k in range(0, len(images), _AT_ONCE)]
        ]
        words = [torch.cat([words[place] for _, words in read]) for place in range(len(LABELS))]
        return torch.cat([embedding for embedding, _ in read]), words


def small(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(64, 64, 3) of a picture, by the mean over areas. Raises `InvalidRequest` if it is not square."""
    if image.width != image.height:
        raise InvalidRequest(f"the judge wants square pictures, found {image.width} x {image.height}")
    rgb = image.convert("RGB")
    if rgb.width != SIDE:
        rgb = rgb.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(rgb, dtype=np.uint8)
