"""The stages: which settings a sample may be in, what they aim at, and what each stage trains.

    base      Base branch alone, on the photo with its face blurred away
    id-clip   ID branch on the CLIP tokens of the masked face; the face stream is absent
    id-face   ID branch with the face embedding too; all that reads CLIP is frozen
    distill   ID-LoRA learns what ID-LoRA and a part of Base-LoRA drew together

The foundation model and the encoders are never trained, and Base-LoRA not after its own stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyperlora.config import Branch
from hyperlora.errors import TrainingMismatch
from hyperlora.network import HyperLoRA

if TYPE_CHECKING:
    from hyperlora.training.config import Stage, TrainingConfig

_FACE_READERS = ("resampler.proj_in.", "id_projector.")
_CLIP_READERS = ("resampler.proj_in_2.",)


@dataclass(frozen=True)
class Switches:
    """The weights of both LoRAs in a pass."""

    id: float
    base: float


@dataclass(frozen=True)
class Setting:
    """One way in which a sample is trained.

    Parameters
    ----------
    name
        How its loss is called in the logs.
    share, weight
        How often it is drawn (shares of a stage add up to 1), and what its loss is multiplied by.
    trigger_words
        Whether the caption begins with them.
    student
        The LoRAs that are on while the prediction is made.
    teacher
        The LoRAs that are on while the target is made; None where the target is the true noise.
    """

    name: str
    share: float
    weight: float
    trigger_words: bool
    student: Switches
    teacher: Switches | None


def settings_of(config: TrainingConfig) -> tuple[Setting, ...]:
    """The settings of the config's stage."""
    if config.stage == "base":
        return (Setting("reconstruct", 1.0, 1.0, False, Switches(0, 1), None),)
    shares, weights = config.shares, config.weights
    whole = shares.reconstruct + shares.foundation + shares.base
    if config.stage == "distill":
        main = Setting("distill", 0, 0, True, Switches(1, 0), Switches(1, config.base_share))
    else:
        main = Setting("reconstruct", 0, 0, True, Switches(1, 1), None)
    rows = (
        (main, shares.reconstruct, weights.reconstruct),
        (Setting("foundation", 0, 0, False, Switches(1, 0), Switches(0, 0)), shares.foundation, weights.foundation),
        (Setting("base", 0, 0, False, Switches(1, 1), Switches(0, 1)), shares.base, weights.base),
    )
    return tuple(
        Setting(each.name, share / whole, weight, each.trigger_words, each.student, each.teacher)
        for each, share, weight in rows
    )


def branch_of(stage: Stage) -> Branch:
    """The branch that a stage trains."""
    return "base" if stage == "base" else "id"


def check_stage(network: HyperLoRA, stage: Stage) -> None:
    """Raise `TrainingMismatch` where the network has no such stage."""
    streams = network.config.streams
    if stage == "base" and network.base_resampler is None:
        raise TrainingMismatch("stage base trains the Base branch, the checkpoint to begin with has none")
    if stage == "id-clip" and "clip" not in streams:
        raise TrainingMismatch(f"stage id-clip needs a network that reads CLIP tokens, found streams {list(streams)}")
    if stage == "id-face" and "face" not in streams:
        raise TrainingMismatch(f"stage id-face needs a network that reads faces, found streams {list(streams)}")
    if stage == "distill" and network.base_resampler is None:
        raise TrainingMismatch("stage distill brings Base-LoRA into ID-LoRA, the checkpoint has no Base branch")


def streams_of(network: HyperLoRA, stage: Stage) -> tuple[str, ...]:
    """The streams that the trained branch reads in this stage."""
    if stage == "base":
        return ("clip",)
    return tuple(each for each in network.config.streams if stage != "id-clip" or each == "clip")


def is_trained(name: str, network: HyperLoRA, stage: Stage) -> bool:
    """Whether a parameter of the network, by its name in it, is trained in a stage.

    Two streams: x is the face (`proj_in`, attn2), y is CLIP (`proj_in_2`, attn3). A network of one stream has nothing
    to tell apart.
    """
    if name.startswith(("base_resampler.", "base_bases.")):
        return stage == "base"
    if stage == "base":
        return False
    if len(network.config.streams) == 1:
        return True
    part = name.removeprefix("resampler.")
    reads_face = name.startswith(_FACE_READERS) or ".attn2." in part or ".norm_attn2_" in part
    reads_clip = name.startswith(_CLIP_READERS) or ".attn3." in part or ".norm_attn3_" in part
    return not reads_face if stage == "id-clip" else not reads_clip


def freeze(network: HyperLoRA, stage: Stage) -> None:
    """Let gradients reach what the stage trains and nothing else."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_trained(name, network, stage))


@torch.no_grad()
def silence_faces(network: HyperLoRA) -> None:
    """Let the face stream of a two-stream network begin with no say: its `attn2.to_out` is zero.

    So a network that has only been trained with CLIP draws the same with a face embedding and without.
    """
    if network.config.streams == ("face", "clip"):
        for layer in network.resampler.layers:
            attention: nn.Module = layer.attn2  # type: ignore[assignment]
            attention.to_out[0].weight.zero_()  # type: ignore[index,union-attr]
