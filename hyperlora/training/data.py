"""The dataset that a config names: prepared, or plain photos whose conditions are computed as they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperlora.dataset import PortraitDataset, vae_fingerprint
from hyperlora.errors import TrainingMismatch

if TYPE_CHECKING:
    import torch

    from hyperlora.dataset import DatasetInfo, Portraits
    from hyperlora.training.config import Live, TrainingConfig


def open_data(config: TrainingConfig, device: torch.device) -> Portraits:
    """Open it; raises `DatasetError` and `WeightsMissing` where something is not there."""
    if config.live is None:
        return PortraitDataset.open(config.dataset, in_memory=config.in_memory)
    return _live(config, config.live, device)


def check_latents(info: DatasetInfo, base_model: str) -> None:
    """Raise `TrainingMismatch` where the set's latents were made by another autoencoder than the base model's.

    A set that does not tell its own, and a base model in a single file, cannot be compared.
    """
    if info.latents is None or info.vae is None or Path(base_model).expanduser().is_file():
        return
    own = vae_fingerprint(base_model)
    if own != info.vae:
        raise TrainingMismatch(
            f"the dataset's latents were made by the autoencoder {info.vae[:12]}..., that of {base_model} is "
            f"{own[:12]}...; prepare the dataset anew with --vae {base_model}"
        )


def _live(config: TrainingConfig, live: Live, device: torch.device) -> Portraits:
    from hyperlora.clip import ClipVision
    from hyperlora.dataset.live import LivePortraits
    from hyperlora.dataset.screen import MIN_FACE_PIXELS, MIN_SHARPNESS, Rules
    from hyperlora.faces import load_analyzer

    rules = Rules(
        size=live.image_size,
        min_face=MIN_FACE_PIXELS if live.min_face is None else live.min_face,
        min_sharpness=MIN_SHARPNESS if live.min_sharpness is None else live.min_sharpness,
    )
    return LivePortraits(
        config.dataset,
        load_analyzer(live.faces),
        ClipVision.from_pretrained(live.clip_vision, device=device),
        rules,
        clip_vision=live.clip_vision_name or live.clip_vision,
    )
