"""The CLIP vision tower of the mini pack: taught to tell what a hypernetwork must know.

Shapes: B pictures (B, 3, V, V), T tokens, W width, F traits of a person.

Of a masked face the tokens of the penultimate layer (which HyperLoRA reads) must tell the person's traits, and so must
the last layer's pooled output; of the surroundings they must tell clothing, its colour, background and accessory. Two
pictures of a person must also lie nearer to each other than to the others of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from hyperlora.clip import HIDDEN_LAYER
from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn import traits
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.fit import Outcome, fit
from hyperlora.mini.learn.looks import FACES, SURROUNDINGS, processor_config
from hyperlora.mini.learn.sizes import Sizes

SEEN = ("clothing", "clothing_colour", "background", "accessory")
TEMPERATURE = 0.1


class VisionSchool(nn.Module):
    """The tower, and the heads that are thrown away after training."""

    def __init__(self, sizes: Sizes) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        width = sizes.vision_width
        self.tower: Any = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=sizes.vision_layers,
                num_attention_heads=4,
                image_size=sizes.vision_side,
                patch_size=sizes.vision_patch,
                projection_dim=width,
            )
        )
        self.traits = nn.ModuleList(nn.Linear(width, traits.count()) for _ in range(2))
        self.words = nn.ModuleDict({name: nn.Linear(2 * width, len(VOCABULARY[name])) for name in SEEN})

    def forward(self, images_B3VV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, W) means of the penultimate layer's tokens, and (B, W) pooled outputs."""
        out = self.tower(images_B3VV, output_hidden_states=True)
        return out.hidden_states[HIDDEN_LAYER].mean(dim=1), out.pooler_output


def train_vision(
    drawings: Drawings,
    looks: npt.NDArray[np.uint8],
    sizes: Sizes,
    work: Path,
    *,
    device: str = "cpu",
    max_seconds: float = math.inf,
    tell: Callable[[str], None] = print,
) -> tuple[Any, Outcome]:
    """Train, or go on training, the tower; the state lies in `work`. Answers with the CLIPVisionModel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        school = VisionSchool(sizes).to(device)
    plan = sizes.vision_plan
    told = torch.from_numpy(traits.traits(drawings.persons)).to(device)
    labels = torch.from_numpy(drawings.labels)
    places = {name: list(VOCABULARY).index(name) for name in SEEN}

    def loss(_: int, chance: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(looks), (plan.batch,), generator=chance)
        picks = torch.rand(plan.batch, generator=chance).tolist()
        again = [_another(drawings, row, pick) for row, pick in zip(rows.tolist(), picks, strict=True)]
        faces = np.concatenate([looks[rows.numpy(), FACES], looks[again, FACES]])
        around = looks[rows.numpy(), SURROUNDINGS]
        tokens, pooled = school(normalised(np.concatenate([faces, around]), device, chance))
        people = len(faces)
        wanted = told[torch.cat([rows, torch.tensor(again)])]
        parts = {
            "traits": torch.stack(
                [
                    functional.mse_loss(head(seen[:people]), wanted)
                    for head, seen in zip(school.traits, (tokens, pooled), strict=True)
                ]
            ).sum(),
            "same": _contrast(*tokens[:people].chunk(2)),
        }
        both = torch.cat([tokens[people:], pooled[people:]], dim=-1)
        for name in SEEN:
            parts[name] = functional.cross_entropy(school.words[name](both), labels[rows, places[name]].to(device))
        return parts

    outcome = fit(school, loss, plan, work / "vision.safetensors", max_seconds=max_seconds, tell=tell)
    return school.tower, outcome


def normalised(pixels_BVV3: npt.NDArray[np.uint8], device: str, chance: torch.Generator | None = None) -> torch.Tensor:
    """(B, 3, V, V) as CLIP's preprocessing leaves pictures; with `chance` in another light each."""
    settings = processor_config(pixels_BVV3.shape[1])
    mean, spread = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    images = torch.from_numpy(pixels_BVV3).movedim(-1, 1).float() / 255
    if chance is not None:
        light = 1 + 0.15 * (torch.rand(len(images), 1, 1, 1, generator=chance) - 0.5)
        images = (images * light).clamp(0, 1)
    return ((images - mean) / spread).to(device)


@torch.no_grad()
def tokens_of(tower: Any, pixels_NVV3: npt.NDArray[np.uint8], device: str, at_once: int = 128) -> torch.Tensor:
    """(N, T, W) tokens of the penultimate layer, float16 on the CPU."""
    return torch.cat(
        [
            tower(normalised(rows, device), output_hidden_states=True).hidden_states[HIDDEN_LAYER].half().cpu()
            for rows in np.array_split(pixels_NVV3, max(1, len(pixels_NVV3) // at_once))
        ]
    )


def _another(drawings: Drawings, row: int, pick: float) -> int:
    others = drawings.others[row]
    return int(others[int(pick * len(others))]) if len(others) else row


def _contrast(one_BW: torch.Tensor, two_BW: torch.Tensor) -> torch.Tensor:
    one, two = (functional.normalize(each, dim=-1) for each in (one_BW, two_BW))
    scores = one @ two.T / TEMPERATURE
    mine = torch.arange(len(one), device=one.device)
    return (functional.cross_entropy(scores, mine) + functional.cross_entropy(scores.T, mine)) / 2
