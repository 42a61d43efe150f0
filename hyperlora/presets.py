"""Few-step base models by name: which sampler, how many steps, and whose weights.

The weights of a preset are a LoRA or a whole UNet, distilled so that a few steps without guidance are enough. They are
fused into the base model once (`SDXLComponents.load`), before people's LoRAs come and go. A base model that has been
distilled already needs the preset's name only.

Facts are from the authors' own pages. DMD2's one-step UNet is published as pickle only, which is never loaded, and
Hyper-SD's one-step UNet starts from timestep 800, where no preset here starts; neither has a preset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from hyperlora.errors import LoRAMismatch, UnknownPreset
from hyperlora.fuse import fuse_lora, kind_of, load_unet
from hyperlora.hub import file_sha256
from hyperlora.lora_formats import peft_factor


@dataclass(frozen=True)
class Preset:
    """How a few-step base model is drawn with.

    Parameters
    ----------
    name
        As a profile names it: `lightning-4`.
    scheduler, steps, guidance
        What its authors recommend; guidance of 1 or below draws without the negative prompt, at half the cost.
    weights_kind
        What its weights may be: a LoRA, a UNet, or either.
    about
        One sentence with the authors' repository on the hub.
    """

    name: str
    scheduler: str
    steps: int
    guidance: float
    weights_kind: Literal["lora", "unet", "either"]
    about: str


_LIGHTNING = "SDXL-Lightning in {} steps: a LoRA or a UNet of ByteDance/SDXL-Lightning"
_HYPER = "Hyper-SD in {} steps: a LoRA of ByteDance/Hyper-SD; its CFG LoRAs take a guidance of 5 to 8"
_LCM = "Latent consistency in {} steps: the LoRA latent-consistency/lcm-lora-sdxl; guidance up to 2"

_ALL = (
    *(Preset(f"lightning-{n}", "euler_trailing", n, 0.0, "either", _LIGHTNING.format(n)) for n in (2, 4, 8)),
    Preset("hyper-sd-1", "tcd", 1, 0.0, "lora", "Hyper-SD's LoRA for one to eight steps, of ByteDance/Hyper-SD"),
    *(Preset(f"hyper-sd-{n}", "ddim_trailing", n, 0.0, "either", _HYPER.format(n)) for n in (2, 4, 8)),
    *(Preset(f"lcm-{n}", "lcm", n, 0.0, "either", _LCM.format(n)) for n in (4, 8)),
    Preset("dmd2-4", "dmd2", 4, 0.0, "either", "DMD2 in 4 steps: a LoRA or a UNet of tianweiy/DMD2"),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Every preset by name."""


def find_preset(name: str) -> Preset:
    """Return the preset of this name; `UnknownPreset` lists all."""
    if name not in PRESETS:
        raise UnknownPreset(f"unknown preset {name!r}, known: {', '.join(PRESETS)}")
    return PRESETS[name]


def fuse_preset(unet: Any, preset: Preset, file: Path) -> int:
    """Put the weights of a .safetensors file into the UNet for good; returns how many modules or tensors it changed.

    Whether they are a LoRA or a UNet is told by the tensors. Raises `LoRAMismatch`, `CheckpointMismatch` or
    `NonFiniteWeights` where they do not fit.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LoRAMismatch(f"the weights of preset {preset.name} are a .safetensors file, {file}: {error}") from error
    kind = kind_of(tensors)
    if preset.weights_kind not in ("either", kind):
        raise LoRAMismatch(
            f"preset {preset.name} needs a {preset.weights_kind}, {file.name} is a {kind}: {preset.about}"
        )
    if kind == "unet":
        load_unet(unet, tensors)
        return len(tensors)
    # Alphas in the tensors say more than the settings that diffusers may have kept beside them.
    factor = 1.0 if any(key.endswith(".alpha") for key in tensors) else peft_factor(metadata)
    return fuse_lora(unet, tensors, factor)


def preset_fingerprint(base: Callable[[], str], preset: Preset, file: Path | None) -> Callable[[], str]:
    """How to fingerprint a base model with a preset: SHA-256 over the base's, the name and the weights' file."""

    def fingerprint() -> str:
        weights = "none" if file is None else file_sha256(file)
        return hashlib.sha256(f"base {base()}\npreset {preset.name}\nweights {weights}\n".encode()).hexdigest()

    return fingerprint
