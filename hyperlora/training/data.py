"""The dataset that a config names: prepared, or plain photos whose conditions are computed as they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperlora.dataset import PortraitDataset

if TYPE_CHECKING:
    import torch

    from hyperlora.dataset import Portraits
    from hyperlora.training.config import Live, TrainingConfig


def open_data(config: TrainingConfig, device: torch.device) -> Portraits:
    """Open it; raises `DatasetError` and `WeightsMissing` where something is not there."""
    if config.live is None:
        return PortraitDataset.open(config.dataset, in_memory=config.in_memory)
    return _live(config, config.live, device)


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
