"""LoRAs into the UNet's weights and out again, exactly.

    W' = W + sum_i weight_i * (alpha_i / rank_i) * up_i @ down_i

W is always the pristine copy, products and sums are float32, and the result is rounded once to the UNet's dtype. So no
number of swaps drifts, and the UNet runs at its plain speed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from hyperlora.errors import LoRAMismatch, NonFiniteWeights
from hyperlora.lora import LoRA, LoRALayer

_PROJECTION = re.compile(r".*\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)")


def attention_projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """The UNet's attention projections under the names that LoRA files use."""
    return {
        f"lora_unet_{name.replace('.', '_')}": module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and _PROJECTION.fullmatch(name)
    }


class WeightMerger:
    """Holds the pristine attention weights of one UNet and writes merged ones over them.

    The copy is made at construction, on the UNet's device and in its dtype: move or cast the UNet before.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._projections = attention_projections(unet)
        if not self._projections:
            raise LoRAMismatch("the UNet has no attention projections named as in diffusers' SDXL UNet")
        self._pristine = {name: module.weight.detach().clone() for name, module in self._projections.items()}
        self._changed: set[str] = set()
        self.merges = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that a LoRA may have here."""
        return tuple(self._projections)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (out, in) of its weight."""
        return {name: (weight.shape[0], weight.shape[1]) for name, weight in self._pristine.items()}

    @property
    def is_pristine(self) -> bool:
        """True while nothing is merged: the UNet's weights are the ones that it came with."""
        return not self._changed

    @torch.no_grad()
    def merge(self, loras: Sequence[tuple[LoRA, float]]) -> None:
        """Make the UNet pristine plus these LoRAs with their weights; what was merged before is gone.

        Raises `LoRAMismatch` naming an unknown layer or a wrong shape, `NonFiniteWeights` for NaN, infinity or a
        result beyond the UNet's dtype. After any error the UNet is pristine.
        """
        try:
            self._write(self._by_layer(loras))
        except BaseException:
            # Whatever went wrong (no memory left, Ctrl-C), the next person must not start from half a merge.
            self.restore()
            raise
        self.merges += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Give the UNet its pristine weights back, bit for bit."""
        for name in sorted(self._changed):
            self._projections[name].weight.copy_(self._pristine[name])
        self._changed.clear()

    def _by_layer(self, loras: Sequence[tuple[LoRA, float]]) -> dict[str, list[tuple[float, LoRALayer]]]:
        layers: dict[str, list[tuple[float, LoRALayer]]] = {}
        shapes = self.shapes
        for lora, weight in loras:
            if not abs(weight) < float("inf"):
                raise NonFiniteWeights(f"a LoRA's weight must be a finite number, found {weight}")
            lora.require_fit(shapes)
            for name, layer in lora.layers.items():
                layers.setdefault(name, []).append((weight * layer.scale, layer))
            lora.require_finite()
        return layers

    def _write(self, layers: dict[str, list[tuple[float, LoRALayer]]]) -> None:
        for name in sorted(self._changed - layers.keys()):
            self._projections[name].weight.copy_(self._pristine[name])
            self._changed.discard(name)
        extremes: dict[str, torch.Tensor] = {}
        scratch: dict[torch.Size, torch.Tensor] = {}
        for name, parts in layers.items():
            pristine, weight = self._pristine[name], self._projections[name].weight
            if pristine.shape not in scratch:
                scratch[pristine.shape] = torch.empty_like(pristine, dtype=torch.float32)
            self._changed.add(name)
            weight.copy_(_merged(pristine, parts, scratch[pristine.shape]))
            # Smallest and largest number: both are NaN if any number is, and infinite if any is.
            extremes[name] = torch.stack(torch.aminmax(weight))
        if extremes:
            # One transfer for all layers, as each makes a GPU wait.
            finite = torch.isfinite(torch.stack(list(extremes.values()))).all(dim=1).tolist()
            broken = [name for name, good in zip(extremes, finite, strict=True) if not good]
            if broken:
                raise NonFiniteWeights(f"the merged weights of {broken[0]} leave the range of the UNet's dtype")


def _merged(pristine: torch.Tensor, parts: Sequence[tuple[float, LoRALayer]], out: torch.Tensor) -> torch.Tensor:
    """Pristine plus all parts, in float32, written over `out`: one product over the concatenated ranks."""
    up = torch.cat([factor * layer.up.to(out) for factor, layer in parts], dim=1)
    down = torch.cat([layer.down.to(out) for _, layer in parts], dim=0)
    return out.copy_(pristine).addmm_(up, down)
