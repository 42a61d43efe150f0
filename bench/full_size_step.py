#!/usr/bin/env python
"""Training steps at full size with random weights: seconds, memory, floating-point rate.

    python bench/full_size_step.py                      one 80 GB GPU
    python bench/full_size_step.py --device meta        shapes alone, on any machine
    python bench/full_size_step.py --device cpu --small

SDXL's UNet and the hypernetwork have their real sizes; weights, latents, texts and conditions are random, as a step
costs the same whatever they say. What is run is what training runs: student, teacher, loss, backward, AdamW, average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from training_plan import SDXL_UNET

from hyperlora.config import HyperLoRAConfig
from hyperlora.network import HyperLoRA
from hyperlora.training.branches import make_branch
from hyperlora.training.config import TrainingConfig
from hyperlora.training.objective import Conditions, Frozen, Noised, Objective
from hyperlora.training.optimizer import make_optimizer
from hyperlora.training.stages import branch_of, freeze, settings_of

SMALL_UNET: dict[str, Any] = {
    **SDXL_UNET,
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (1, 2, 2),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
    "norm_num_groups": 8,
}
SMALL_SIZES: dict[str, Any] = {
    "rank": 8, "bases": 8, "width": 32, "depth": 2, "dim_head": 16, "inner": 32, "feed_forward": 64, "face_width": 16,
    "id_tokens": 4, "id_token_width": 32, "clip_width": 32,
}  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the steps; answers with what was measured, all of it `None` on the meta device."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    unet_config, sizes = (SMALL_UNET, SMALL_SIZES) if options.small else (SDXL_UNET, {})
    config = _config(options)
    # 1. The base model and the network, with random weights where they are wanted.
    unet = _unet(unet_config, device, dtype)
    if not options.keep_activations:
        unet.enable_gradient_checkpointing()
    with device:
        network = HyperLoRA(HyperLoRAConfig.from_unet(unet_config, base_rank=4, **sizes))
        frozen = Frozen()
        if config.stage != "base":
            frozen = Frozen(base=make_branch(network, "base").requires_grad_(False).to(dtype))  # type: ignore[arg-type]
    freeze(network, config.stage)
    student = make_branch(network, branch_of(config.stage))
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    objective = _objective(config, unet, unet_config, frozen, device)
    optimizer = make_optimizer(config, parameters, device)
    averaged = [parameter.detach().clone() for parameter in parameters]
    # 2. The steps. One sample of every ten is in a setting with a teacher, as the shares say.
    settings_B = torch.zeros(options.batch, dtype=torch.int64)
    if config.stage != "base":
        settings_B[: max(1, options.batch // 10)] = 1
    taken = []
    for _ in range(options.steps + options.warm_up):
        conditions, noised = _batch(network, unet_config, options, device)
        _wait(device)
        began = time.perf_counter()
        objective.losses(student, conditions, noised, settings_B, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(parameters, config.gradient_limit)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(averaged, parameters, strict=True):
                mean.lerp_(parameter, 1e-4)
        _wait(device)
        taken.append(time.perf_counter() - began)
    # 3. The answer.
    counted = device.type != "meta"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "stage": config.stage,
        "batch": options.batch,
        "checkpointing": not options.keep_activations,
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "seconds_per_step": round(statistics.median(taken[options.warm_up :]), 4) if counted else None,
        "samples_per_second": (
            round(options.batch / statistics.median(taken[options.warm_up :]), 3) if counted else None
        ),
        "peak_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if device.type == "cuda" else None,
        "torch": torch.__version__,
    }


def _config(options: argparse.Namespace) -> TrainingConfig:
    return TrainingConfig.checked(
        {
            "stage": options.stage,
            "base_model": "random",
            "dataset": "random",
            "out": "nowhere",
            "optimizer": options.optimizer,
        }
    )


def _unet(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel

    maker: Any = UNet2DConditionModel
    with device:
        return maker(**config).to(dtype).requires_grad_(False).eval()


def _objective(
    config: TrainingConfig, unet: Any, unet_config: dict[str, Any], frozen: Frozen, device: torch.device
) -> Objective:
    from diffusers import DDPMScheduler

    maker: Any = DDPMScheduler
    return Objective(
        unet,
        maker(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        settings_of(config),
        scale=0.5,
        side=8 * unet_config["sample_size"],
        frozen=frozen,
        autocast=lambda: torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext(),
    )


def _batch(
    network: HyperLoRA, unet_config: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> tuple[Conditions, Noised]:
    """Random conditions and latents; the timesteps are numbers of their own, so that the meta device can index."""
    count, side, known = options.batch, unet_config["sample_size"], network.config
    width = unet_config["projection_class_embeddings_input_dim"] - 6 * unet_config["addition_time_embed_dim"]

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, device=device)

    is_id = options.stage != "base"
    conditions = Conditions(
        noise(known.face_width) if options.stage == "id-face" else None,
        noise(257, known.clip_width) if is_id else None,
        noise(257, known.clip_width),
    )
    noised = Noised(
        noise(4, side, side),
        noise(4, side, side),
        torch.randint(1000, (count,), device=device),
        noise(77, unet_config["cross_attention_dim"]),
        noise(width),
    )
    return conditions, noised


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 3 where there is no CUDA device and none else was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cpu, or meta for shapes alone")
    parser.add_argument("--stage", choices=("base", "id-clip", "id-face"), default="id-face")
    parser.add_argument("--batch", type=int, default=4, help="samples of a pass")
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before that")
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--small", action="store_true", help="a tiny network, to see that the program works")
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print(
            "a step at full size needs a CUDA device with 80 GB, none is here; --device meta checks the shapes, "
            "--device cpu --small the program",
            file=sys.stderr,
        )
        return 3
    print(json.dumps(measure(options), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
