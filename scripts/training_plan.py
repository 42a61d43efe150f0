#!/usr/bin/env python
"""Memory and time of training at full size, computed from shapes alone: no weights, no GPU.

    python scripts/training_plan.py            print the plan
    python scripts/training_plan.py --write    put it into docs/training.md

Networks are built on torch's meta device. Activations are counted by running the UNet there with the LoRAs in place,
and adding up what autograd would keep; floating-point operations by torch's own counter. What a GPU reaches of its peak
is an assumption, told beside the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hyperlora.config import HyperLoRAConfig
from hyperlora.grouped import grouped
from hyperlora.network import HyperLoRA
from hyperlora.training.stages import is_trained

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- plan: scripts/training_plan.py -->", "<!-- end of plan -->"
GB = 1e9
TEXT_ENCODERS = 123_060_480 + 694_659_840  # CLIP ViT-L and OpenCLIP bigG of SDXL
STEPS = {"base": 20_000, "id-clip": 15_000, "id-face": 55_000}  # of the authors
REACHED = 300e12  # FLOP/s in bf16, eager: what UNet batches of 8 reach on an H100 when they draw is 365e12
SAMPLES = 32  # of a step, over all GPUs

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@dataclass(frozen=True)
class Counts:
    """Parameters of the full-size network, by what they are."""

    id_bases: int
    base_bases: int
    id_resampler: int
    base_resampler: int
    projector: int
    trained: dict[str, int]

    @property
    def whole(self) -> int:
        """Everything that some stage trains."""
        return self.id_bases + self.base_bases + self.id_resampler + self.base_resampler + self.projector


def full_size_network() -> HyperLoRA:
    """The released sizes with a Base branch, without memory."""
    with torch.device("meta"):
        return HyperLoRA(HyperLoRAConfig.sdxl(base_rank=4))


def count(network: HyperLoRA) -> Counts:
    """Count the parameters; `trained` says how many each stage trains."""

    def size(module: nn.Module | None) -> int:
        return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0

    stages: tuple[Any, ...] = ("base", "id-clip", "id-face")
    return Counts(
        size(network.id_bases),
        size(network.base_bases),
        size(network.resampler),
        size(network.base_resampler),
        size(network.id_projector),
        {
            stage: sum(each.numel() for name, each in network.named_parameters() if is_trained(name, network, stage))
            for stage in stages
        },
    )


class _Attention(torch.autograd.Function):
    """A fused attention kernel as autograd sees it: keeps its inputs and its output, and no matrix of weights."""

    flops = 0

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        batch, heads, queries, width = query.shape
        _Attention.flops += 4 * batch * heads * queries * key.shape[2] * width
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise NotImplementedError("this counts, it does not train")


@contextmanager
def _fused_attention() -> Iterator[None]:
    real = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = lambda q, k, v, **_: _Attention.apply(q, k, v)
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = real


class Keeper:
    """Adds up the bytes that autograd keeps, each memory once; weights of the model do not count."""

    def __init__(self, known: set[int]) -> None:
        self._seen = set(known)
        self.bytes = 0
        self._alive: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count one tensor."""
        place = tensor.untyped_storage()._cdata
        if place not in self._seen:
            self._seen.add(place)
            self._alive.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is kept while the context is open."""
        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor):
            yield


@dataclass(frozen=True)
class Pass:
    """One sample through the UNet at 1024 pixels."""

    flops: float
    kept: float  # bytes, with gradient checkpointing: borders of the blocks and the largest block
    kept_plain: float  # bytes, without


def one_sample(network: HyperLoRA, unet_config: dict[str, Any] | None = None, latents: int = 128) -> Pass:
    """Count one sample's operations and activations, with LoRAs of both branches on activations."""
    from diffusers import UNet2DConditionModel

    maker: Any = UNet2DConditionModel
    config = unet_config or SDXL_UNET
    with torch.device("meta"):
        unet = maker(**config).to(torch.bfloat16).requires_grad_(False)
    rank = network.config.rank + (network.config.base_rank or 0)
    factors = {
        each.layer: (
            torch.empty(1, each.in_features, rank, device="meta", dtype=torch.bfloat16, requires_grad=True),
            torch.empty(1, rank, each.out_features, device="meta", dtype=torch.bfloat16, requires_grad=True),
        )
        for each in network.config.projections
    }
    known = {each.untyped_storage()._cdata for each in unet.parameters()}
    known |= {each.untyped_storage()._cdata for pair in factors.values() for each in pair}

    def run() -> None:
        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device="meta", dtype=torch.bfloat16)

        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        with _fused_attention(), grouped(unet, factors, 0.5):
            unet(
                empty(1, 4, latents, latents),
                torch.empty(1, device="meta"),
                encoder_hidden_states=empty(1, 77, config["cross_attention_dim"]),
                added_cond_kwargs={"text_embeds": empty(1, width), "time_ids": empty(1, 6)},
                return_dict=False,
            )

    plain, _Attention.flops = Keeper(known), 0
    with FlopCounterMode(display=False) as counter, plain.watching():
        run()
    flops = float(counter.get_total_flops() + _Attention.flops)

    borders, largest = Keeper(known), 0

    def checkpoint(function: Any, *inputs: Any, **named: Any) -> Any:
        nonlocal largest
        for tensor in inputs:
            if isinstance(tensor, torch.Tensor):
                borders.keep(tensor)
        inside = Keeper(known)
        with inside.watching():
            out = function(*inputs, **named)
        largest = max(largest, inside.bytes)
        return out

    unet.enable_gradient_checkpointing(gradient_checkpointing_func=checkpoint)
    with borders.watching():
        run()
    return Pass(flops, float(borders.bytes + largest), float(plain.bytes))


@dataclass(frozen=True)
class Setup:
    """How a machine is used."""

    name: str
    gpus: int
    batch: int  # samples of a pass on one GPU
    moments: int  # bytes of Adam's state for a parameter

    @property
    def passes(self) -> int:
        """Passes in a step."""
        return SAMPLES // (self.gpus * self.batch)


SETUPS = (Setup("1 x 80 GB", 1, 8, 8), Setup("1 x 80 GB, 8-bit Adam", 1, 8, 2), Setup("8 x 80 GB", 8, 4, 8))


def memory(counts: Counts, unet: int, sample: Pass, stage: str, setup: Setup) -> dict[str, float]:
    """Bytes on one GPU, by what they are for."""
    trained = counts.trained[stage]
    branch_bases = counts.base_bases if stage == "base" else counts.id_bases
    speaking = 0 if stage == "base" else counts.base_bases + counts.base_resampler
    resting = 0 if stage == "base" else counts.id_resampler + counts.projector + counts.id_bases - trained
    factors = (11_612_160 * (0 if stage == "base" else 1) + 5_806_080) * 2 * 2 * setup.batch
    return {
        "base model and text encoders, bf16": 2.0 * (unet + TEXT_ENCODERS),
        "frozen branch, bf16, and frozen parts, fp32": 2.0 * speaking + 4.0 * resting,
        "trained parameters, fp32": 4.0 * trained,
        "their gradients, fp32": 4.0 * trained,
        "Adam's moments": float(setup.moments) * trained,
        "averaged weights, fp32": 4.0 * trained,
        "DDP's buckets of gradients": 0.0 if setup.gpus == 1 else 4.0 * trained,
        "bases in bf16 for the products": 2.0 * branch_bases,
        "LoRAs of a pass and their gradients": float(factors),
        "activations of a pass, checkpointed": sample.kept * setup.batch,
    }


def seconds(counts: Counts, sample: Pass, stage: str, setup: Setup) -> float:
    """Seconds of a step: products at the reached rate, parameters at 2 TB/s, gradients between GPUs at 150 GB/s."""
    taught = 0.0 if stage == "base" else 0.1
    # Forward, forward again for the checkpoints, backward to activations only: the UNet's weights need no gradient.
    products = sample.flops * (3 + taught) * setup.batch * setup.passes / REACHED
    moved = counts.trained[stage] * (28 + 2 * setup.moments) / 2e12
    between = 0.0 if setup.gpus == 1 else 2 * 4 * counts.trained[stage] / 150e9
    return products + moved + between


def page() -> str:
    """The plan as Markdown."""
    network = full_size_network()
    counts, sample = count(network), one_sample(network)
    from diffusers import UNet2DConditionModel

    maker: Any = UNet2DConditionModel
    with torch.device("meta"):
        unet = sum(parameter.numel() for parameter in maker(**SDXL_UNET).parameters())
    lines = [
        "| part | parameters |",
        "|---|---:|",
        f"| ID bases (rank 8, K = 128) | {counts.id_bases:,} |",
        f"| Base bases (rank 4) | {counts.base_bases:,} |",
        f"| ID resampler, two streams | {counts.id_resampler:,} |",
        f"| Base resampler | {counts.base_resampler:,} |",
        f"| ID projector | {counts.projector:,} |",
        f"| **all that is trained** | **{counts.whole:,}** |",
        f"| SDXL's UNet, frozen | {unet:,} |",
        "",
        f"One sample at 1024 pixels through the UNet with both LoRAs: {sample.flops / 1e12:.2f} TFLOP forward; "
        f"{sample.kept / GB:.2f} GB of activations with gradient checkpointing, {sample.kept_plain / GB:.1f} GB "
        "without.",
        "",
    ]
    for setup in SETUPS:
        parts = {stage: memory(counts, unet, sample, stage, setup) for stage in STEPS}
        lines += [
            f"**{setup.name}**: {setup.batch} samples a pass, {setup.passes} "
            f"{'pass' if setup.passes == 1 else 'passes'}, {SAMPLES} a step.",
            "",
            f"| GB on a GPU | {' | '.join(STEPS)} |",
            f"|---|{'---:|' * len(STEPS)}",
        ]
        for name in parts["base"]:
            lines.append(f"| {name} | {' | '.join(f'{parts[stage][name] / GB:.1f}' for stage in STEPS)} |")
        lines.append(
            f"| **together** | {' | '.join(f'**{sum(parts[stage].values()) / GB:.1f}**' for stage in STEPS)} |"
        )
        took = {stage: seconds(counts, sample, stage, setup) for stage in STEPS}
        lines.append(f"| seconds of a step | {' | '.join(f'{took[stage]:.2f}' for stage in STEPS)} |")
        days = {stage: took[stage] * steps / 86_400 for stage, steps in STEPS.items()}
        told = " | ".join(f"{days[stage]:.1f} ({STEPS[stage]:,} steps)" for stage in STEPS)
        lines += [f"| days | {told} |", ""]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Print the plan or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into docs/training.md")
    told = page()
    if not parser.parse_args().write:
        print(told)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{told}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
