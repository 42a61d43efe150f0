"""Photographs of a person in, a LoRA for SDXL out, portraits from it.

Importing the package costs nothing: each public name loads its module when it is first used.

    from hyperlora import HyperLoRA, PortraitPipeline

    network = HyperLoRA.from_pretrained("path/to/checkpoint")
    lora = network.generate(face_embeddings, clip_tokens)
    pipeline = PortraitPipeline.from_pretrained("path/to/sdxl", trigger_words=network.config.trigger_words)
    images = pipeline("a portrait in a garden", [(lora, 0.8)], seeds=[1])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlora.clip import ClipVision
    from hyperlora.coefficients import concept_slider, interpolate, mix
    from hyperlora.config import HyperLoRAConfig
    from hyperlora.control import Control, ControlNet
    from hyperlora.detail import DetailPass
    from hyperlora.errors import HyperLoRAError
    from hyperlora.lora import LoRA, LoRALayer
    from hyperlora.merge import WeightMerger
    from hyperlora.network import HyperLoRA
    from hyperlora.pipeline import PortraitPipeline
    from hyperlora.presets import PRESETS, Preset
    from hyperlora.regional import Region
    from hyperlora.sample import Drawing, Sample

__all__ = [
    "PRESETS",
    "ClipVision",
    "Control",
    "ControlNet",
    "DetailPass",
    "Drawing",
    "HyperLoRA",
    "HyperLoRAConfig",
    "HyperLoRAError",
    "LoRA",
    "LoRALayer",
    "PortraitPipeline",
    "Preset",
    "Region",
    "Sample",
    "WeightMerger",
    "concept_slider",
    "interpolate",
    "mix",
]

_HOME_OF = {
    "PRESETS": "hyperlora.presets",
    "ClipVision": "hyperlora.clip",
    "Control": "hyperlora.control",
    "ControlNet": "hyperlora.control",
    "DetailPass": "hyperlora.detail",
    "Drawing": "hyperlora.sample",
    "HyperLoRA": "hyperlora.network",
    "HyperLoRAConfig": "hyperlora.config",
    "HyperLoRAError": "hyperlora.errors",
    "LoRA": "hyperlora.lora",
    "LoRALayer": "hyperlora.lora",
    "PortraitPipeline": "hyperlora.pipeline",
    "Preset": "hyperlora.presets",
    "Region": "hyperlora.regional",
    "Sample": "hyperlora.sample",
    "WeightMerger": "hyperlora.merge",
    "concept_slider": "hyperlora.coefficients",
    "interpolate": "hyperlora.coefficients",
    "mix": "hyperlora.coefficients",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hyperlora' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
