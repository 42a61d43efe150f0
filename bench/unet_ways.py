"""The ways of running a UNet that bench/unet.py compares, each with a UNet of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch._dynamo

from bench.random_models import Geometry, random_unet, random_vae
from bench.turns import wait
from hyperlora.compiler import MOST_GRAPHS, Compile, EngineOptions
from hyperlora.engine import Engine
from hyperlora.merge import WeightMerger
from hyperlora.shapes import Shape
from hyperlora.stand_in import stand_in

SIZE_STEP = 8
"""Pixels of a latent."""
DECODE_AT_ONCE = 4


@dataclass(frozen=True)
class Way:
    """`ours`: our engine with these options; else diffusers' UNet as it is, or compiled as a whole."""

    ours: bool
    compile: Compile = "off"
    fuse_qkv: bool = False
    cache_text: bool = True


WAYS = {
    "diffusers": Way(ours=False),
    "diffusers-compiled": Way(ours=False, compile="whole"),
    "off": Way(ours=True),
    "off-fused": Way(ours=True, fuse_qkv=True),
    "off-text-each-step": Way(ours=True, cache_text=False),
    "blocks": Way(ours=True, compile="blocks"),
    "blocks-fused": Way(ours=True, compile="blocks", fuse_qkv=True),
    "blocks-text-each-step": Way(ours=True, compile="blocks", cache_text=False),
    "whole": Way(ours=True, compile="whole"),
    "whole-fused": Way(ours=True, compile="whole", fuse_qkv=True),
}


class Runner(Protocol):
    """A UNet that is run in one way."""

    def ready(self, shape: Shape) -> float:
        """Make it ready for a shape: seconds of compiling it."""

    def step(self, shape: Shape, count: int) -> tuple[float, float]:
        """Seconds of one step, over so many of them, and those spent once before the first."""


def runner(way: Way, geometry: Geometry, device: torch.device, dtype: torch.dtype, backend: str) -> Runner:
    """A UNet of this geometry, run in this way."""
    unet = random_unet(geometry, device, dtype)
    if device.type == "cuda" and (way.ours or way.compile != "off"):
        unet = unet.to(memory_format=torch.channels_last)
    if not way.ours:
        return Theirs(unet, way, backend)
    return Ours(unet, random_vae(geometry, device, dtype), way, backend)


class Ours:
    """Our engine; it makes the decoder ready too."""

    def __init__(self, unet: Any, vae: Any, way: Way, backend: str) -> None:
        self.merger = WeightMerger(unet)
        options = EngineOptions(compile=way.compile, fuse_qkv=way.fuse_qkv, cache_text=way.cache_text, backend=backend)
        self.engine = Engine(
            unet, vae, self.merger, options, size_step=SIZE_STEP, decoded_at_once=lambda *_: DECODE_AT_ONCE
        )
        self.unet = unet

    def ready(self, shape: Shape) -> float:
        """Warmed as a worker warms it."""
        return self.engine.warm(shape.width, shape.height, shape.rows // 2, rank=shape.rank or None)

    @torch.inference_mode()
    def step(self, shape: Shape, count: int, own: Any = None) -> tuple[float, float]:
        """As one batch is drawn: what does not depend on the step is done before."""
        latents, conditioning = _inputs(self.unet, shape)
        wait(latents.device)
        began = time.perf_counter()
        with self.engine.drawing(conditioning, width=shape.width, height=shape.height, own=own) as call:
            wait(latents.device)
            once = time.perf_counter() - began
            began = time.perf_counter()
            for number in range(count):
                _call(call, latents, conditioning, number)
            wait(latents.device)
        return (time.perf_counter() - began) / count, once


class Theirs:
    """diffusers' UNet, with its own attention processors."""

    def __init__(self, unet: Any, way: Way, backend: str) -> None:
        self.unet = unet
        if way.compile != "off":
            unet.compile(backend=backend, dynamic=False, fullgraph=True)

    def ready(self, shape: Shape) -> float:
        """The first call compiles."""
        began = time.perf_counter()
        self.step(shape, 1)
        return time.perf_counter() - began

    @torch.inference_mode()
    def step(self, shape: Shape, count: int) -> tuple[float, float]:
        """Nothing is kept between steps."""
        latents, conditioning = _inputs(self.unet, shape)
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=MOST_GRAPHS):
            wait(latents.device)
            began = time.perf_counter()
            for number in range(count):
                _call(self.unet, latents, conditioning, number)
            wait(latents.device)
        return (time.perf_counter() - began) / count, 0.0


def _inputs(unet: Any, shape: Shape) -> tuple[torch.Tensor, Any]:
    """Random latents and texts: a GPU computes zeros with less power, and so at a higher clock."""
    latents, conditioning = stand_in(unet, shape, SIZE_STEP)
    for each in (latents, conditioning.tokens_BTC, conditioning.pooled_BP):
        each.normal_()
    return latents, conditioning


def _call(unet: Any, latents: torch.Tensor, conditioning: Any, number: int) -> None:
    unet(
        latents,
        torch.tensor(900.0 - number, device=latents.device),
        encoder_hidden_states=conditioning.tokens_BTC,
        added_cond_kwargs=conditioning.added,
        return_dict=False,
    )
