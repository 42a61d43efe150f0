"""The trained network in the released layout, with its record, put in place whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hyperlora.errors import NonFiniteWeights
from hyperlora.network import HyperLoRA
from hyperlora.training.record import RECORD, LossLog, versions
from hyperlora.training.shards import whole
from hyperlora.training.start import NETWORK

if TYPE_CHECKING:
    from hyperlora.training.trainer import Trainer


def export_network(trainer: Trainer, step: int) -> Path:
    """Write `network/` of the run with the averaged weights; returns the folder.

    Raises `NonFiniteWeights` where numbers leave the range of `export_dtype`.
    """
    config = trainer.config
    with trainer.averaged():
        # Copies: what shares memory with the parameters is the trained weights again when this context ends.
        tensors = {
            name: whole(parameter).to("cpu", copy=True) for name, parameter in trainer.network.named_parameters()
        }
    place = config.out / NETWORK
    if trainer.accelerator.is_main_process:
        network = _copy(trainer.network, tensors, getattr(torch, config.export_dtype))
        beside = config.out / f".{NETWORK}.part"
        shutil.rmtree(beside, ignore_errors=True)
        network.save_pretrained(beside)
        record = {**record_of(trainer, step), "fingerprint": network.fingerprint}
        (beside / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _replace(place, beside)
    trainer.accelerator.wait_for_everyone()
    return place


def record_of(trainer: Trainer, step: int) -> dict[str, Any]:
    """What the network was made from: config, data, base model, versions, the losses' curve."""
    config, info = trainer.config, trainer.dataset.info
    return {
        "stage": config.stage,
        "step": step,
        "finished": step >= config.steps,
        "samples_seen": step * trainer.samples_per_step,
        "processes": trainer.accelerator.num_processes,
        "config": config.as_data(),
        "began_with": trainer.start_fingerprint,
        "base_model": trainer.components.fingerprint(),
        "dataset": {
            "count": len(trainer.dataset),
            "image_size": info.image_size,
            "face_encoder": info.face_encoder,
            "clip_vision": info.clip_vision,
        },
        "trained_parameters": sum(parameter.numel() for parameter in trainer.trained.values()),
        "versions": versions(),
        "losses": LossLog(config.out, step).curve(),
    }


def _copy(network: HyperLoRA, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> HyperLoRA:
    with torch.device("meta"):
        made = HyperLoRA(network.config)
    made = made.to(dtype).to_empty(device="cpu").requires_grad_(False).eval()
    for name, parameter in made.named_parameters():
        parameter.copy_(tensors[name])
        if not torch.isfinite(parameter).all():
            raise NonFiniteWeights(f"{name} leaves the range of {dtype}; set export_dtype to bfloat16 or float32")
    return made


def _replace(place: Path, beside: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    beside.rename(place)
    shutil.rmtree(old, ignore_errors=True)
