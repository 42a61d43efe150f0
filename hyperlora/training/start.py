"""What a stage begins with: the network, from a checkpoint or new, and whether the data is what it reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hyperlora.config import CLIP_VISION, FACE_ENCODER, TRIGGER_WORDS, HyperLoRAConfig
from hyperlora.errors import CheckpointMismatch, TrainingMismatch
from hyperlora.merge import attention_projections
from hyperlora.network import HyperLoRA
from hyperlora.training.record import RECORD
from hyperlora.training.stages import check_stage, silence_faces, streams_of

if TYPE_CHECKING:
    from hyperlora.dataset import DatasetInfo
    from hyperlora.training.config import Stage, TrainingConfig

NETWORK = "network"
"""The folder of a run that holds the network in the released layout."""


@dataclass(frozen=True)
class Needs:
    """The conditions that a stage reads from the dataset."""

    face_embeddings: bool
    clip_tokens: bool
    base_tokens: bool


def start_network(config: TrainingConfig, unet: Any, info: DatasetInfo) -> HyperLoRA:
    """The network in float32 on the CPU, as it is before the first step.

    Raises `CheckpointMismatch` for a checkpoint of another UNet, `TrainingMismatch` where it has no such stage, and
    what `HyperLoRA.from_pretrained` raises.
    """
    if config.init is None:
        network = _new(config, unet, info)
    else:
        place = _network_folder(config.init)
        network = HyperLoRA.from_pretrained(place)
        if config.stage == "id-face" and _stage_of(place) == "id-clip":
            silence_faces(network)
    _check_unet(network, unet)
    check_stage(network, config.stage)
    return network


def needs_of(network: HyperLoRA, stage: Stage) -> Needs:
    """What the stage reads: the trained branch's streams, and Base tokens wherever there is a Base branch."""
    streams = streams_of(network, stage)
    return Needs(
        face_embeddings=stage != "base" and "face" in streams,
        clip_tokens=stage != "base" and "clip" in streams,
        base_tokens=network.base_resampler is not None,
    )


def check_data(config: TrainingConfig, network: HyperLoRA, info: DatasetInfo, *, latent_channels: int) -> None:
    """Raise `TrainingMismatch` or `FaceEncoderMismatch` where the dataset does not hold what the stage reads."""
    needs, known = needs_of(network, config.stage), network.config
    if info.image_size is None:
        raise TrainingMismatch("the dataset names no image size; make it with `portraits dataset prepare`")
    if needs.face_embeddings:
        if info.face_encoder is None or info.face_width is None:
            raise TrainingMismatch(f"stage {config.stage} reads face embeddings, the dataset has none; prepare it anew")
        network.require_face_encoder(info.face_encoder, info.face_width)
    if needs.clip_tokens or needs.base_tokens:
        if info.clip_tokens is None:
            raise TrainingMismatch(
                f"stage {config.stage} reads CLIP tokens, the dataset has none; prepare it with --clip-vision"
            )
        if info.clip_tokens[1] != known.clip_width:
            raise TrainingMismatch(
                f"the network reads CLIP tokens {known.clip_width} wide, the dataset's are {info.clip_tokens[1]} wide"
            )
        if config.init is not None and info.clip_vision not in (None, known.clip_vision):
            raise TrainingMismatch(
                f"the checkpoint was trained with CLIP tower {known.clip_vision!r}, the dataset's tokens are of "
                f"{info.clip_vision!r}"
            )
    if info.latents is not None and info.latents[0] != latent_channels:
        raise TrainingMismatch(
            f"the base model's latents have {latent_channels} channels, the dataset's have {info.latents[0]}"
        )


def _new(config: TrainingConfig, unet: Any, info: DatasetInfo) -> HyperLoRA:
    """A fresh network: down bases random, up bases zero, the face stream silent; the seed decides."""
    sizes = config.network.model_dump()
    sizes["trigger_words"] = TRIGGER_WORDS if sizes["trigger_words"] is None else sizes["trigger_words"]
    made = HyperLoRAConfig.from_unet(
        unet.config,
        face_encoder=info.face_encoder or FACE_ENCODER,
        clip_vision=info.clip_vision or CLIP_VISION,
        **({"face_width": info.face_width} if info.face_width else {}),
        **({"clip_width": info.clip_tokens[1]} if info.clip_tokens else {}),
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = HyperLoRA(made)
    silence_faces(network)
    return network


def _network_folder(init: str) -> str | Path:
    """A run's folder stands for the network in it."""
    inside = Path(init).expanduser() / NETWORK
    return inside if inside.is_dir() else init


def _stage_of(place: str | Path) -> str | None:
    """The stage that the record beside a network names; None without a record."""
    file = Path(place) / RECORD
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    stage = found.get("config", {}).get("stage")
    return stage if isinstance(stage, str) else None


def _check_unet(network: HyperLoRA, unet: Any) -> None:
    found = {name: tuple(module.weight.shape) for name, module in attention_projections(unet).items()}
    wanted = network.config.layer_shapes
    if found != wanted:
        name = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise CheckpointMismatch(
            f"the checkpoint does not fit the base model's UNet: {name} is {wanted.get(name, 'not there')} in the "
            f"checkpoint and {found.get(name, 'not there')} in the UNet"
        )
