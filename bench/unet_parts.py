"""Beside the steps themselves, what bench/unet.py counts and measures: operations, the peak, attention, compiling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.random_models import Geometry, random_hyperlora
from bench.turns import Spread, timed
from bench.unet_ways import Ours
from hyperlora.shapes import Shape

KERNELS = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
)  # fmt: skip
TOKENS = 77


def operations(geometry: Geometry, size: int) -> float:
    """Floating-point operations of one row of `size` pixels through the UNet, counted on the meta device."""
    from diffusers import UNet2DConditionModel

    width = geometry.unet["projection_class_embeddings_input_dim"] - 6 * geometry.unet["addition_time_embed_dim"]
    with torch.device("meta"), torch.inference_mode():
        unet = cast(Any, UNet2DConditionModel)(**geometry.unet).eval()
        latents = torch.empty(1, unet.config.in_channels, size // 8, size // 8)
        counter = FlopCounterMode(display=False)
        with counter:
            unet(
                latents,
                torch.empty(1),
                encoder_hidden_states=torch.empty(1, TOKENS, unet.config.cross_attention_dim),
                added_cond_kwargs={"text_embeds": torch.empty(1, width), "time_ids": torch.empty(1, 6)},
            )
    return float(counter.get_total_flops())


def matrix_peak(device: torch.device, dtype: torch.dtype, *, repeat: int = 10) -> Spread:
    """TFLOP/s of a large square product on this device."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn((2, side, side), device=device).to(dtype)
    out = torch.empty_like(a)
    seconds = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(repeat + 2)][2:]
    return Spread.of(seconds).inverse(2 * side**3 / 1e12)


def attention(geometry: Geometry, size: int, rows: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds of each exact kernel for the UNet's self-attentions; None for one that cannot do it here."""
    found = {}
    for level, kind in enumerate(geometry.unet["down_block_types"]):
        if "CrossAttn" not in kind:
            continue
        heads, channels = geometry.unet["attention_head_dim"][level], geometry.unet["block_out_channels"][level]
        tokens = (size // 8 // 2**level) ** 2
        q, k, v = torch.randn((3, rows, heads, tokens, channels // heads), device=device).to(dtype)
        found[f"{tokens} tokens, {heads} heads of {channels // heads}"] = {
            kernel.name.removesuffix("_ATTENTION").lower(): _attention_ms(kernel, q, k, v) for kernel in KERNELS
        }
    return found


def _attention_ms(kernel: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Spread | None:
    import warnings

    try:
        with sdpa_kernel(kernel), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # why a kernel cannot be used
            seconds = [timed(lambda: F.scaled_dot_product_attention(q, k, v), q.device) for _ in range(9)][2:]
    except torch.OutOfMemoryError:
        return None
    except RuntimeError:
        return None
    return Spread.of(seconds).scaled(1000)


def compile_seconds(arguments: list[str]) -> dict[str, float]:
    """Seconds of compiling in a new process with nothing on disk, and in a second one with what the first left."""
    program = str(Path(__file__).with_name("unet.py"))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        for name in ("cold", "warm"):
            command = [sys.executable, program, *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **caches})
            found[name] = float(json.loads(done.stdout.splitlines()[-1])["compile_seconds"])
    return found


@torch.no_grad()
def recompilations(ours: Ours, geometry: Geometry, shape: Shape, swaps: int) -> dict[str, int]:
    """How often anything was compiled while so many people were merged and drawn, one step each.

    Every tenth one has a LoRA per row beside the weights instead.
    """
    unet = ours.unet
    network = random_hyperlora(geometry, unet.device, unet.dtype)
    mixed = Shape(shape.width, shape.height, shape.rows, shape.tokens, network.config.rank)
    for each in (shape, mixed):
        ours.ready(each)
    before = ours.engine.compilations
    dice = torch.Generator().manual_seed(1)
    for swap in range(swaps):
        numbers = torch.randn(network.config.tokens, network.config.bases, generator=dice)
        lora = network.lora(F.normalize(numbers, dim=-1).to(unet.device, unet.dtype))
        if swap % 10 == 9:
            ours.merger.restore()
            ours.step(shape, 1, own=[((lora, 0.8),)] * shape.rows)
        else:
            ours.merger.merge([(lora, 0.8)])
            ours.step(shape, 1)
    return {
        "swaps": swaps,
        "compilations": ours.engine.compilations - before,
        "missed": sum(ours.engine.wanted.values()),
    }
