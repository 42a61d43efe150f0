"""A plan carried out: every network where the plan wants it, before anything is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hyperlora.clip import ClipVision
from hyperlora.components import SDXLComponents
from hyperlora.host_memory import make_visitor
from hyperlora.memory.measures import Measure
from hyperlora.memory.plan import FEW_PHOTOS, TILE, MemoryPlan
from hyperlora.merge import attention_projections
from hyperlora.network import HyperLoRA
from hyperlora.weight_stacks import move_stacked


@dataclass(frozen=True)
class Placement:
    """What a pipeline is made of and drawn with under a plan.

    Parameters
    ----------
    components
        The base model in its places.
    decode_at_once
        For the pipeline.
    drawing
        A context to draw and merge in: it takes turns with the preparing of people, where the plan needs that.
    """

    components: SDXLComponents
    decode_at_once: int
    drawing: Callable[[], AbstractContextManager[Any]]


def place(
    plan: MemoryPlan, components: SDXLComponents, network: HyperLoRA, clip: ClipVision, device: torch.device
) -> Placement:
    """Move networks that were loaded in host memory to where the plan wants them. Make the pipeline afterwards.

    Whoever uses a network finds it by `present`; nothing else changes for them.
    """
    turn = threading.RLock()

    def settle(networks: Iterable[nn.Module], visits: Measure) -> None:
        for each in networks:
            if plan.has(visits):
                make_visitor(each, device, turn)
            else:
                each.to(device)

    move_stacked(components.unet, attention_projections(components.unet), device)
    settle(components.text_encoders, Measure.TEXT_VISITS)
    settle([components.vae], Measure.VAE_VISITS)
    settle([clip.model, *network.resamplers], Measure.PHOTOS_VISIT)
    if plan.has(Measure.PHOTOS_VISIT):
        clip.most_images = network.most_photos = FEW_PHOTOS
    for bank in network.banks:
        if plan.has(Measure.BASES_STREAMED):
            bank.stream(device)
        else:
            bank.to(device)
    if plan.has(Measure.DECODE_TILED):
        _tile(components.vae)
    return Placement(
        components=replace(components, pristine_on_host=plan.has(Measure.PRISTINE_ON_HOST)),
        decode_at_once=1 if plan.has(Measure.DECODE_SINGLY) else plan.decode_at_once,
        drawing=(lambda: turn) if plan.has(Measure.PHOTOS_VISIT) else nullcontext,
    )


def _tile(vae: Any) -> None:
    """Tiles of 512 pixels: diffusers' own default is the size that the VAE was trained for, which tiles nothing."""
    step = 1 << (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // step
