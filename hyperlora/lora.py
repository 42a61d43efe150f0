"""A LoRA as a value: scaled, added, saved, loaded, never changed.

Shapes: r rank, in and out features.  delta W (out, in) = (alpha / r) * up (out, r) @ down (r, in)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from hyperlora.errors import LoRAMismatch, NonFiniteWeights, WeightsMissing
from hyperlora.lora_formats import (
    ALPHA,
    DOWN,
    FORMATS,
    PEFT_SETTINGS,
    UP,
    LoRAFile,
    LoRAFormat,
    base_model,
    collect,
    detect,
    is_projection,
    kohya_name,
    peft_factor,
    peft_name,
)
from hyperlora.lora_layer import FactorStack, LoRALayer, StackedLayers
from hyperlora.tensorfile import BrokenTensorFile, dump, parse

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LoRA", "LoRALayer"]

logger = logging.getLogger(__name__)


# Floating-point type -> integers of its width, all bits but the sign, and the exponent of infinity and NaN.
_EXPONENTS = {
    torch.float16: (torch.int16, 0x7FFF, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80),
    torch.float32: (torch.int32, 0x7FFFFFFF, 0x7F800000),
}


def _finite_rows(stack: FactorStack) -> torch.Tensor:
    """(L,), true where both factors of a layer are finite."""
    return _finite(stack.down_LRI) & _finite(stack.up_LOR)


def _finite(factors_LAB: torch.Tensor) -> torch.Tensor:
    """(L,), true where all is finite: a number's bits without the sign grow with it, infinity and NaN being largest.

    As integers they are compared ten times as fast as CPUs look at numbers of half precision.
    """
    if factors_LAB.dtype not in _EXPONENTS or not factors_LAB.numel():
        return torch.isfinite(factors_LAB).flatten(1).all(1)
    integers, without_sign, infinity = _EXPONENTS[factors_LAB.dtype]
    return (factors_LAB.view(integers) & without_sign).flatten(1).amax(1) < infinity


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # torch.equal refuses to compare across devices.
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


@dataclass(frozen=True, eq=False, repr=False)
class LoRA:
    """Layers by name (`lora_unet_..._to_q`) and where they came from.

    The tensors are shared, not copied, when a LoRA is made: whoever makes one hands them over. When `stacks` are first
    asked for, single layers are copied into them, and `layers` shows the copies. `found` says what the file held that
    this very LoRA was read from; a LoRA that was computed has none.
    """

    layers: Mapping[str, LoRALayer]
    metadata: Mapping[str, str] = field(default_factory=dict)
    found: LoRAFile | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, StackedLayers):
            object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __repr__(self) -> str:
        kinds = sorted({str(layer.up.dtype).removeprefix("torch.") for layer in self.layers.values()})
        return f"LoRA({len(self.layers)} layers, rank {self.rank}, {' and '.join(kinds) or 'empty'})"

    @property
    def stacks(self) -> tuple[FactorStack, ...]:
        """The same layers, those of one shape, rank, dtype and device together: what is done to all is done at once."""
        if not isinstance(self.layers, StackedLayers):
            # The single tensors are let go, so that a LoRA is held once.
            object.__setattr__(self, "layers", StackedLayers.of(self.layers))
        assert isinstance(self.layers, StackedLayers)
        return self.layers.stacks

    @property
    def rank(self) -> int:
        """The largest rank of any layer, 0 without layers."""
        return max((layer.rank for layer in self.layers.values()), default=0)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (out, in) of the weight that it changes."""
        if isinstance(self.layers, StackedLayers):
            return dict(self.layers.shapes)
        return {name: (layer.up.shape[0], layer.down.shape[1]) for name, layer in self.layers.items()}

    def require_fit(self, unet: Mapping[str, tuple[int, int]]) -> None:
        """Raise `LoRAMismatch` naming the first layer that does not fit a UNet's projections, name -> (out, in).

        `WeightMerger.shapes` lists those of a UNet, `HyperLoRAConfig.layer_shapes` those of a checkpoint.
        """
        if isinstance(self.layers, StackedLayers) and self.layers.fit(unet):
            return
        for name, found in self.shapes.items():
            if name not in unet:
                raise LoRAMismatch(f"the LoRA has layer {name}, which this UNet lacks; {self._stranger(name, unet)}")
            if found != unet[name]:
                raise LoRAMismatch(
                    f"layer {name} changes weights of (out, in) {found}, this UNet's are {unet[name]}; "
                    f"{self._stranger(name, unet)}"
                )

    def _stranger(self, name: str, unet: Mapping[str, tuple[int, int]]) -> str:
        if not is_projection(name):
            return "a LoRA that reaches beyond the attention projections is fused into the base model as a preset"
        own, theirs = base_model(self.shapes), base_model(unet)
        if own and theirs and own != theirs:
            return f"the LoRA is for {own}, the UNet is of {theirs}"
        return "it is for another base model"

    @cached_property
    def non_finite_layer(self) -> str | None:
        """The first layer with NaN or infinity, None where all is finite. Looked at once."""
        if not self.layers:
            return None
        # One flag per layer and one transfer for all, as each transfer makes a GPU wait.
        device = self.stacks[0].up_LOR.device
        flags = torch.cat([_finite_rows(stack).to(device) for stack in self.stacks]).tolist()
        alphas = [alpha for stack in self.stacks for alpha in stack.alphas]
        if all(flags) and all(map(math.isfinite, alphas)):
            return None
        names = [name for stack in self.stacks for name in stack.names]
        broken = {
            name for name, flag, alpha in zip(names, flags, alphas, strict=True) if not flag or not math.isfinite(alpha)
        }
        return next(name for name in self.layers if name in broken)

    def require_finite(self) -> None:
        """Raise `NonFiniteWeights` naming the first layer with NaN or infinity."""
        if self.non_finite_layer is not None:
            raise NonFiniteWeights(f"LoRA layer {self.non_finite_layer} holds NaN or infinity; make the LoRA again")

    def scaled(self, weight: float) -> LoRA:
        """The LoRA whose effect is `weight` times as large; `weight` may be negative."""
        return LoRA({name: layer.scaled(weight) for name, layer in self.layers.items()}, self.metadata)

    def __add__(self, other: LoRA) -> LoRA:
        """Both effects together, exactly: ranks are concatenated where both have a layer."""
        layers = dict(self.layers)
        for name, layer in other.layers.items():
            try:
                layers[name] = layers[name] + layer if name in layers else layer
            except LoRAMismatch as error:
                raise LoRAMismatch(f"layer {name}: {error}") from error
        return LoRA(layers, _joint_metadata(self.metadata, other.metadata))

    def __sub__(self, other: LoRA) -> LoRA:
        """What the first has beyond the second, as for a concept slider."""
        return self + other.scaled(-1.0)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LoRA:
        """The same LoRA elsewhere or in another precision."""
        moved = LoRA(
            StackedLayers([stack.to(device, dtype) for stack in self.stacks], tuple(self.layers)), self.metadata
        )
        if dtype is None and "non_finite_layer" in self.__dict__:
            # The same numbers need no second look.
            moved.__dict__["non_finite_layer"] = self.non_finite_layer
        return moved

    def equals(self, other: LoRA) -> bool:
        """True if names, factors and alphas are the same, on the same device in the same dtype; metadata may differ."""
        if self is other:
            return True
        if self.layers.keys() != other.layers.keys():
            return False
        if [stack.names for stack in self.stacks] == [stack.names for stack in other.stacks]:
            return all(
                a.alphas == b.alphas and _same(a.down_LRI, b.down_LRI) and _same(a.up_LOR, b.up_LOR)
                for a, b in zip(self.stacks, other.stacks, strict=True)
            )
        return all(
            layer.alpha == other.layers[name].alpha
            and _same(layer.down, other.layers[name].down)
            and _same(layer.up, other.layers[name].up)
            for name, layer in self.layers.items()
        )

    def to_bytes(self, format: LoRAFormat = "diffusers") -> bytes:
        """A safetensors file's bytes; the same LoRA gives the same bytes. Raises `NonFiniteWeights`."""
        self.require_finite()
        return dump(dict(_named_tensors(self.layers, format)), self.metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` or another program wrote, in any of the formats.

        Raises `LoRAMismatch` for anything else than a LoRA for the UNet and `NonFiniteWeights` for NaN.
        """
        try:
            tensors, metadata = parse(data)
        except BrokenTensorFile as error:
            raise LoRAMismatch(f"a LoRA is a safetensors file: {error}") from error
        form = detect(tensors)
        factor = peft_factor(metadata) if form == "peft" else 1.0
        layers = {name: _layer(name, parts, factor) for name, parts in collect(tensors, form).items()}
        found = LoRAFile(
            format=form,
            layers=len(layers),
            ranks=tuple(sorted({layer.rank for layer in layers.values()})),
            dtypes=tuple(sorted({str(each.up.dtype).removeprefix("torch.") for each in layers.values()})),
            base=base_model({name: (each.up.shape[0], each.down.shape[1]) for name, each in layers.items()}),
        )
        # peft's scale is in the layers from here on; left in the metadata it would be taken a second time.
        kept = {name: value for name, value in metadata.items() if name != PEFT_SETTINGS}
        lora = cls(dict(sorted(layers.items())), kept, found)
        lora.require_finite()
        logger.debug("read a LoRA: %s", found)
        return lora

    def save(self, path: str | Path, format: LoRAFormat = "diffusers") -> None:
        """Write a safetensors file in one of the formats `diffusers`, `comfyui`, `kohya`, `peft`."""
        Path(path).write_bytes(self.to_bytes(format))

    @classmethod
    def load(cls, path: str | Path, *, fits: Mapping[str, tuple[int, int]] | None = None) -> Self:
        """Read a safetensors file and say in `found` what it held.

        With `fits`, a UNet's projections, a LoRA for another UNet is refused (see `require_fit`). Raises
        `WeightsMissing` where there is no file, else as `from_bytes`.
        """
        path = Path(path)
        if not path.is_file():
            raise WeightsMissing(f"no LoRA file at {path}")
        try:
            lora = cls.from_bytes(path.read_bytes())
            if fits is not None:
                lora.require_fit(fits)
            return lora
        except LoRAMismatch as error:
            raise LoRAMismatch(f"{path}: {error}") from error


def _named_tensors(layers: Mapping[str, LoRALayer], form: str) -> Iterable[tuple[str, torch.Tensor]]:
    if form not in FORMATS:
        raise LoRAMismatch(f"unknown LoRA format {form!r}, known: {', '.join(FORMATS)}")
    alphas: dict[float, torch.Tensor] = {}
    for name, layer in layers.items():
        if form == "peft":
            # peft keeps alpha outside the tensors, so the factor goes into `up`.
            up = layer.up if layer.scale == 1.0 else layer.scale * layer.up.float()
            yield f"{peft_name(name)}.lora_A.weight", layer.down
            yield f"{peft_name(name)}.lora_B.weight", up
            continue
        known = kohya_name(name) if form == "kohya" else name
        if layer.alpha not in alphas:
            exact = torch.tensor(layer.alpha, dtype=torch.float32)
            alphas[layer.alpha] = (
                exact if exact.item() == layer.alpha else exact.new_tensor(layer.alpha, dtype=torch.float64)
            )
        yield f"{known}.{ALPHA}", alphas[layer.alpha]
        yield f"{known}.{DOWN}", layer.down
        yield f"{known}.{UP}", layer.up


def _layer(name: str, parts: Mapping[str, torch.Tensor], factor: float) -> LoRALayer:
    missing = [part for part in (DOWN, UP) if part not in parts]
    if missing:
        raise LoRAMismatch(f"layer {name} needs {DOWN} and {UP}, missing: {', '.join(missing)}")
    for part in (DOWN, UP):
        if not parts[part].is_floating_point():
            raise LoRAMismatch(f"layer {name} needs floating-point factors, found {part} of {parts[part].dtype}")
    down, up = parts[DOWN], parts[UP]
    if ALPHA in parts and parts[ALPHA].numel() != 1:
        raise LoRAMismatch(f"layer {name} needs one number as alpha, found shape {tuple(parts[ALPHA].shape)}")
    # Without an alpha, the usual meaning is a factor of one, unless the file's metadata says otherwise.
    alpha = float(parts[ALPHA].item()) if ALPHA in parts else factor * down.shape[0]
    try:
        return LoRALayer(down, up, alpha)
    except LoRAMismatch as error:
        raise LoRAMismatch(f"layer {name}: {error}") from error


def _joint_metadata(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, str]:
    """Keep what both say alike; list both in `sources` where they differ."""
    if a == b:
        return dict(a)
    joint = {key: value for key, value in a.items() if b.get(key) == value and key != "sources"}
    joint["sources"] = json.dumps([dict(sorted(a.items())), dict(sorted(b.items()))], sort_keys=True)
    return joint
