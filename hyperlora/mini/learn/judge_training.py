"""The judge's training: other people than the face pack's, whole small pictures, softened as generated ones are.

Shapes: B pictures of S = 64 pixels, Q people of a batch with two pictures each.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn.convnet import batch_of
from hyperlora.mini.learn.crops import Wear, shrunk, worn
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.embedding import PairMaker, Pairs, knowing_loss
from hyperlora.mini.learn.face_pack import PackSize
from hyperlora.mini.learn.judge import (
    CONFIG,
    FULL,
    LABELS,
    MEAN,
    SIDE,
    STD,
    TINY,
    WEIGHTS,
    JudgeNetwork,
    Looks,
    MiniJudge,
)
from hyperlora.mini.learn.measures import measure_judge
from hyperlora.mini.learn.steps import OnStep, Steps, on_device, take_steps


@dataclass(frozen=True)
class JudgeRecipe:
    """The network's layers and its steps."""

    looks: Looks
    steps: Steps


RECIPES: dict[PackSize, JudgeRecipe] = {
    "tiny": JudgeRecipe(TINY, Steps(1_000, 96, 3e-3, seed=4, keep_every=50)),
    "full": JudgeRecipe(FULL, Steps(8_000, 512, 3e-3, seed=4)),
}
# An expression is a line of a few pixels: it has to be asked for louder than what fills half the picture.
_LOUDNESS = {"expression": 1.5}
_WORN = Wear(light=0.12, tint=0.04, blurred=0.5, radius=2.0, noisy=0.4, noise=6.0, packed=0.15)


def train_judge(
    drawings: Path,
    folder: Path,
    size: PackSize = "tiny",
    *,
    device: str = "cpu",
    threads: int = 0,
    seconds: float | None = None,
    recipe: JudgeRecipe | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any] | None:
    """Train, write and measure a judge; answers with its metrics, or with None if the time ran out first.

    `drawings` holds the sets `judge` and `validation`, and `judge-training` beside it what an unfinished training needs
    to go on; for the rest, and what is raised, see `train_face_pack`.
    """
    until = None if seconds is None else time.monotonic() + seconds
    chosen = recipe or RECIPES[size]
    seen = Drawings.load(drawings / "judge")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.steps.seed)
        network = JudgeNetwork(chosen.looks)
        on_device(network, device)
        done = take_steps(
            "judge",
            network,
            chosen.steps,
            PortraitMaker(seen).draw,
            lambda batch: judge_loss(network, batch),
            drawings.with_name("judge-training"),
            threads=threads,
            until=until,
            on_step=on_step,
        )
    if not done:
        return None
    told: dict[str, Any] = {"size": size, "people": len(np.unique(seen.persons)), "steps": asdict(chosen.steps)}
    save_judge(network, folder, told)
    told["validation"] = measure_judge(MiniJudge.load(folder), Drawings.load(drawings / "validation"))
    save_judge(network, folder, told)
    return told


class PortraitMaker(PairMaker):
    """Draws people, and for each two of their whole pictures."""

    def draw(self, dice: np.random.Generator, batch: int) -> Pairs:
        """Pictures of `batch` // 2 people, a little moved and worn."""
        people, rows = self.people(dice, batch // 2)
        pixels = np.stack([worn(_moved(shrunk(self._drawings.pixels[row], SIDE), dice), dice, _WORN) for row in rows])
        return Pairs(
            torch.from_numpy(pixels),
            torch.from_numpy(self._traits[people]),
            torch.from_numpy(self._drawings.labels[rows]),
        )


def judge_loss(model: JudgeNetwork, pairs: Pairs) -> torch.Tensor:
    """Who it is, as the face encoder learns it, and the cross entropy of the labels."""
    device = model.embed.weight.device
    embedding_BE, words = model(batch_of(pairs.pixels.to(device), MEAN, STD))
    loss = knowing_loss(model, nn.functional.normalize(embedding_BE), pairs.traits.to(device))
    places = list(VOCABULARY)
    labels_BA = pairs.labels.to(device)
    for name, scores_BW in zip(LABELS, words, strict=True):
        right_B = labels_BA[:, places.index(name)]
        loss = loss + _LOUDNESS.get(name, 0.5) * nn.functional.cross_entropy(scores_BW, right_B, label_smoothing=0.02)
    return loss


def save_judge(network: JudgeNetwork, folder: Path, told: dict[str, Any]) -> Path:
    """Write weights in half precision and the description, with what is `told` of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.detach().half().cpu().contiguous()
        for key, value in network.state_dict().items()
        if "num_batches" not in key
    }
    save_file(weights, folder / WEIGHTS)
    config = {
        "side": SIDE,
        "looks": asdict(network.looks),
        "labels": {name: list(VOCABULARY[name]) for name in LABELS},
        **told,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    return folder


def _moved(rgb_SS3: npt.NDArray[np.uint8], dice: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The picture moved by up to two pixels; its edge goes on outside."""
    x, y = dice.integers(-2, 3, 2)
    padded = np.pad(rgb_SS3, ((2, 2), (2, 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded[2 + y : 2 + y + SIDE, 2 + x : 2 + x + SIDE])
