"""What a LoRA file is: its format, layers, ranks, numbers, provenance, and which base model it fits.

Unlike loading, looking does not stop at NaN or at layers that fit nothing: it says so.

Shapes: r rank, in and out features.  delta W (out, in) = (alpha / r) * up (out, r) @ down (r, in)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperlora.config import HyperLoRAConfig, Projection
from hyperlora.errors import LoRAMismatch, WeightsMissing
from hyperlora.lora_formats import ALPHA, DOWN, UP, collect, detect, peft_factor
from hyperlora.mini.models import UNET_CONFIG
from hyperlora.tensorfile import BrokenTensorFile, parse
from jobs.profiles import MINI, built_in_profiles

SHOWN_LAYERS = 3
FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Fit:
    """Whether the file's layers are those of a base model: how many of its projections, or the first that is not."""

    base: str
    fits: bool
    layers: int
    projections: int
    misfit: str = ""


@dataclass(frozen=True)
class FileLook:
    """What was found in one file.

    Parameters
    ----------
    format
        diffusers, kohya or peft; comfyui reads and writes what diffusers does.
    ranks, scales, dtypes
        Each value with the number of its layers; a scale is alpha / rank.
    norm
        Frobenius norm of all changes together at LoRA weight 1: sqrt(sum |delta W|^2). None where a number is not
        finite.
    largest
        The layers with the largest norms, and these.
    non_finite
        Layers with NaN or infinity, and layers whose change at LoRA weight 1 is beyond float32.
    not_floating
        Layers with factors that are no floating-point numbers: loading refuses them.
    fits
        The known base models, the fitting one first.
    """

    file: str
    size_bytes: int
    sha256: str
    format: str
    layers: int
    parameters: int
    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    dtypes: Mapping[str, int]
    norm: float | None
    largest: Sequence[tuple[str, float]]
    non_finite: Sequence[str]
    not_floating: Sequence[str]
    fits: Sequence[Fit]
    metadata: Mapping[str, Any]

    @property
    def sound(self) -> bool:
        """Whether it can be used: every number finite and floating-point, and a base model that it fits."""
        return not self.non_finite and not self.not_floating and any(fit.fits for fit in self.fits)


def look_into(path: Path) -> FileLook:
    """Read one safetensors file. Raises WeightsMissing, and LoRAMismatch for what is no LoRA for a UNet."""
    if path.exists() and not path.is_file():
        raise WeightsMissing(f"no LoRA file at {path}: it is no regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsMissing(f"no LoRA file at {path}: {error.strerror or error}") from error
    try:
        tensors, metadata = parse(data)
        form = detect(tensors)
        factors = collect(tensors, form)
        factor = peft_factor(metadata) if form == "peft" else 1.0
        layers = {name: _Layer.of(name, parts, factor) for name, parts in sorted(factors.items())}
    except BrokenTensorFile as error:
        raise LoRAMismatch(f"{path}: a LoRA is a safetensors file: {error}") from error
    except LoRAMismatch as error:
        raise LoRAMismatch(f"{path}: {error}") from error
    norms = {name: layer.norm() for name, layer in layers.items()}
    finite = all(math.isfinite(norm) for norm in norms.values())
    largest = sorted(norms.items(), key=lambda entry: -entry[1])[:SHOWN_LAYERS] if finite else []
    return FileLook(
        file=str(path),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        format=form,
        layers=len(layers),
        parameters=sum(layer.down.numel() + layer.up.numel() for layer in layers.values()),
        ranks=_counted(layer.rank for layer in layers.values()),
        scales=_counted(round(layer.scale, 6) for layer in layers.values()),
        dtypes=_counted(str(layer.up.dtype).removeprefix("torch.") for layer in layers.values()),
        norm=math.sqrt(sum(norm * norm for norm in norms.values())) if finite else None,
        largest=largest,
        non_finite=[name for name, norm in norms.items() if not math.isfinite(norm)],
        not_floating=[name for name, layer in layers.items() if not layer.floating],
        fits=sorted((_fit(base, layers) for base in _known_bases()), key=lambda fit: not fit.fits),
        metadata={key: _read_value(value) for key, value in sorted(metadata.items())},
    )


@dataclass(frozen=True, eq=False)
class _Layer:
    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @classmethod
    def of(cls, name: str, parts: Mapping[str, torch.Tensor], factor: float) -> _Layer:
        missing = [part for part in (DOWN, UP) if part not in parts]
        if missing:
            raise LoRAMismatch(f"layer {name} needs {DOWN} and {UP}, missing: {', '.join(missing)}")
        down, up = parts[DOWN], parts[UP]
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
            raise LoRAMismatch(
                f"layer {name} needs down (r, in) and up (out, r), found {tuple(down.shape)} and {tuple(up.shape)}"
            )
        return cls(down, up, float(parts[ALPHA].item()) / down.shape[0] if ALPHA in parts else factor)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def floating(self) -> bool:
        return self.down.is_floating_point() and self.up.is_floating_point()

    def norm(self) -> float:
        """|delta W|; NaN where a number is not finite, or where the change is beyond what float32 holds."""
        if self.down.is_complex() or self.up.is_complex():
            return math.nan
        # |U D|^2 = trace(U^T U D D^T): two products of rank x rank instead of one as large as the weight.
        down, up = self.down.double(), self.up.double()
        square = float(((up.T @ up) * (down @ down.T)).sum())
        if not math.isfinite(square):
            return math.nan
        bare = math.sqrt(max(square, 0.0))
        # The base model adds the change in float32, where the bare product comes before the scale.
        return abs(self.scale) * bare if max(abs(self.scale), 1.0) * bare <= FLOAT32_MAX else math.nan


def _known_bases() -> list[tuple[str, dict[str, Projection]]]:
    configs = {"SDXL": HyperLoRAConfig.sdxl(), "the untrained mini pack": HyperLoRAConfig.from_unet(UNET_CONFIG)}
    # The trained pack of a checkout, which the profile `mini` draws with; its UNet is another one.
    mini = built_in_profiles()[MINI].base
    if mini and (unet := Path(mini) / "unet" / "config.json").is_file():
        configs["the mini pack"] = HyperLoRAConfig.from_unet(json.loads(unet.read_text(encoding="utf-8")))
    return [(name, {one.layer: one for one in config.projections}) for name, config in configs.items()]


def _fit(base: tuple[str, dict[str, Projection]], layers: Mapping[str, _Layer]) -> Fit:
    name, projections = base
    for layer, found in layers.items():
        wanted = projections.get(layer)
        if wanted is None:
            return Fit(name, False, len(layers), len(projections), f"it has no {layer}")
        sizes = (found.down.shape[1], found.up.shape[0])
        if sizes != (wanted.in_features, wanted.out_features):
            told = f"{layer} is (in {sizes[0]}, out {sizes[1]}), wanted ({wanted.in_features}, {wanted.out_features})"
            return Fit(name, False, len(layers), len(projections), told)
    return Fit(name, True, len(layers), len(projections))


def _counted(values: Any) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _read_value(value: str) -> Any:
    """Lists and objects that were written as JSON, as such; everything else as the text it is."""
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
