"""Full-size models with cheap random numbers, and a watch over the process's memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from hyperlora import HyperLoRA, HyperLoRAConfig

# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json: what differs from diffusers' defaults.
SDXL_UNET: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


def _fill(parameter: torch.Tensor, std: float, noise: torch.Tensor) -> None:
    # A stretch of normal numbers over and over: its length is prime, so no two rows are alike.
    flat = parameter.view(-1)
    for start in range(0, flat.numel(), noise.numel()):
        part = flat[start : start + noise.numel()]
        part.copy_(noise[: part.numel()]).mul_(std)


def sdxl_unet(dtype: torch.dtype) -> UNet2DConditionModel:
    """SDXL's UNet of 2.6 billion random numbers, scaled so that its activations stay about one."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    unet = unet.to(dtype).to_empty(device="cpu").requires_grad_(False).eval()
    noise = torch.randn(1_048_573, generator=torch.Generator().manual_seed(1)).to(dtype)
    for module in unet.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                parameter.fill_(1.0 if name == "weight" else 0.0)
            elif name == "bias":
                parameter.zero_()
            else:
                _fill(parameter, parameter[0].numel() ** -0.5, noise)
    return unet


def released_network(dtype: torch.dtype) -> HyperLoRA:
    """The released sizes, 1.57 billion random numbers; its LoRA is as strong as a trained one's."""
    with torch.device("meta"):
        network = HyperLoRA(HyperLoRAConfig.sdxl())
    network = network.to(dtype).to_empty(device="cpu").requires_grad_(False).eval()
    noise = torch.randn(1_048_573, generator=torch.Generator().manual_seed(2)).to(dtype)
    for parameter in network.parameters():
        _fill(parameter, 0.02, noise)
    return network


class Watch:
    """Seconds and the most memory of its own (anonymous, in bytes) that the process held meanwhile."""

    seconds: float = 0.0
    peak_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.peak_bytes / 1e9:.1f} GB"


def anonymous_bytes() -> int:
    """Memory that the process made itself; mapped files, which the kernel may drop at any time, do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


@contextmanager
def watched() -> Iterator[Watch]:
    """Take the time and look at the memory every 20 ms."""
    watch, done = Watch(), threading.Event()
    started = time.perf_counter()

    def look() -> None:
        while not done.wait(0.02):
            watch.peak_bytes = max(watch.peak_bytes, anonymous_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
        watch.peak_bytes = max(watch.peak_bytes, anonymous_bytes())
        watch.seconds = time.perf_counter() - started
