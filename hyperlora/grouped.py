"""One LoRA per sample, applied on activations: a batch may hold as many people as it has rows.

Shapes: B samples, T positions, I input features, O output features, R rank.

    y_b = W x_b + scale_b * (x_b down_b) up_b        down (B, I, R), up (B, R, O)

Two batched products stand beside each projection. The UNet's weights and names stay as they are, so this can be
trained through, and several people can be drawn in one pass. Each sample gets what a UNet with that sample's LoRA
merged would give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hyperlora.errors import LoRAMismatch
from hyperlora.lora import LoRA
from hyperlora.lora_layer import FactorStack
from hyperlora.merge import attention_projections
from hyperlora.shapes import to_rank

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Layer of a LoRA file -> (down (B, I, R), up (B, R, O))."""

Stack = Sequence[tuple[LoRA, float]]
"""LoRAs with their weights, which add up."""

Scale = float | torch.Tensor
"""One number for all samples, or one for each, (B,)."""


@contextmanager
def grouped(
    unet: nn.Module, factors: Factors, scale: Scale = 1.0, *, projections: Mapping[str, nn.Linear] | None = None
) -> Iterator[None]:
    """Give every sample of a batch its own LoRA while the context is open; contexts may be nested, and add up.

    Gradients reach the factors and the scale. With gradient checkpointing the backward pass runs the blocks again, so
    it must happen inside the context too.

    Parameters
    ----------
    unet
        The model; nothing of it is changed.
    factors
        The LoRAs. Layers that are not named get none.
    scale
        What each sample's product is multiplied by: alpha / rank times the LoRA's weight. Zero switches a sample off.
    projections
        What `attention_projections(unet)` gives, for callers that open many contexts.

    Raises
    ------
    LoRAMismatch
        A layer that the UNet does not have, factors of a wrong shape, or (while drawing) a batch of another size.
    """
    known = attention_projections(unet) if projections is None else projections
    batch = _check(factors, scale, known)
    with ExitStack() as stack:
        for layer, (down_BIR, up_BRO) in factors.items():
            hook = _Beside(layer, down_BIR, up_BRO, scale, batch)
            stack.callback(known[layer].register_forward_hook(hook).remove)
        yield


def joined(parts: Sequence[tuple[Factors, Scale]]) -> Factors:
    """Several LoRAs per sample as one of their ranks together, each with its scale inside: cheaper than nesting.

    All parts need the same layers; `LoRAMismatch` where they differ.
    """
    first = parts[0][0].keys()
    if any(factors.keys() != first for factors, _ in parts):
        raise LoRAMismatch("LoRAs that are joined need the same layers, found different ones")
    return {
        layer: (
            torch.cat([factors[layer][0] for factors, _ in parts], dim=2),
            torch.cat([factors[layer][1] * _column(scale, 3) for factors, scale in parts], dim=1),
        )
        for layer in first
    }


def chosen(factors: Factors, rows: torch.Tensor) -> Factors:
    """The factors of some samples, in the order of `rows`; a row may be named more than once."""
    return {layer: (down_BIR[rows], up_BRO[rows]) for layer, (down_BIR, up_BRO) in factors.items()}


def own_rank(stacks: Sequence[Stack]) -> int:
    """The rank that `factors_of` gives the LoRAs of these samples: that of the largest stack, filled up."""
    return to_rank(max(sum(max(each.rank for each in lora.stacks) for lora, _ in stack) for stack in stacks))


def factors_of(
    stacks: Sequence[Stack], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Factors:
    """The LoRAs of each sample as one set of factors, with weight and alpha / rank inside `up`.

    Samples may differ in layers and in ranks: what one lacks is filled with zeros, which add nothing. All layers get
    one rank, one of a few (`hyperlora.shapes.to_rank`), and one memory layout, so that compiled code fits all.
    """
    rank = own_rank(stacks)
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for names, parts in _alike(stacks).items():
        some = parts[0].factors
        out_features, in_features = some.shape
        room: dict[str, Any] = {"device": device or some.down_LRI.device, "dtype": dtype or some.down_LRI.dtype}
        down_LBRI = torch.zeros((len(names), len(stacks), rank, in_features), **room)
        up_LBOR = torch.zeros((len(names), len(stacks), out_features, rank), **room)
        filled = [0] * len(stacks)
        for part in parts:
            first = filled[part.row]
            filled[part.row] = last = first + part.factors.rank
            down_LBRI[:, part.row, first:last] = part.factors.down_LRI
            up_LBOR[:, part.row, :, first:last] = part.scaled_up()
        for number, name in enumerate(names):
            factors[name] = (down_LBRI[number].transpose(1, 2), up_LBOR[number].transpose(1, 2))
    return factors


@dataclass(frozen=True, eq=False)
class _Part:
    """Layers of one shape of one sample's LoRA."""

    row: int
    weight: float
    factors: FactorStack

    def scaled_up(self) -> torch.Tensor:
        """Up (L, O, R) with weight and alpha / rank inside."""
        up_LOR, scales = self.factors.up_LOR, self.factors.scales
        if len(set(scales)) == 1:
            return self.weight * scales[0] * up_LOR
        scale_L = torch.tensor([self.weight * scale for scale in scales], dtype=up_LOR.dtype, device=up_LOR.device)
        return scale_L.view(-1, 1, 1) * up_LOR


def _alike(stacks: Sequence[Stack]) -> dict[tuple[str, ...], list[_Part]]:
    """Layers of one shape that all samples' LoRAs have in the same stacks; else every layer by itself."""
    parts: dict[tuple[str, ...], list[_Part]] = {}
    for row, stack in enumerate(stacks):
        for lora, weight in stack:
            for factors in lora.stacks:
                parts.setdefault(factors.names, []).append(_Part(row, weight, factors))
    if len({name for names in parts for name in names}) == sum(len(names) for names in parts):
        return parts
    single: dict[tuple[str, ...], list[_Part]] = {}
    for whole in (part for alike in parts.values() for part in alike):
        for number, name in enumerate(whole.factors.names):
            layer = slice(number, number + 1)
            factors = FactorStack(
                (name,), whole.factors.down_LRI[layer], whole.factors.up_LOR[layer], (whole.factors.alphas[number],)
            )
            single.setdefault((name,), []).append(_Part(whole.row, whole.weight, factors))
    return single


class _Beside:
    """The hook of one projection: its output plus the samples' own products."""

    def __init__(self, layer: str, down_BIR: torch.Tensor, up_BRO: torch.Tensor, scale: Scale, batch: int) -> None:
        self.layer, self.down_BIR, self.up_BRO, self.batch = layer, down_BIR, up_BRO, batch
        self.scale = scale if isinstance(scale, float | int) else _column(scale, 3)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output_BTO: torch.Tensor) -> torch.Tensor:
        x_BTI: torch.Tensor = inputs[0]
        if x_BTI.ndim != 3 or x_BTI.shape[0] != self.batch:
            raise LoRAMismatch(
                f"{self.layer}: LoRAs of {self.batch} samples were given, found activations of shape "
                f"{tuple(x_BTI.shape)}; give one LoRA for each row of the batch"
            )
        # Under autocast a norm's output is float32 and the projection's is not: the projection decides.
        dtype = output_BTO.dtype
        low_BTR = torch.bmm(x_BTI.to(dtype), self.down_BIR.to(dtype))
        up_BRO = self.up_BRO.to(dtype)
        if isinstance(self.scale, torch.Tensor):
            return torch.baddbmm(output_BTO, low_BTR * self.scale.to(dtype), up_BRO)
        return torch.baddbmm(output_BTO, low_BTR, up_BRO, alpha=self.scale)


def _column(scale: Scale, dims: int) -> Scale:
    return scale.view(-1, *[1] * (dims - 1)) if isinstance(scale, torch.Tensor) else scale


def _check(factors: Factors, scale: Scale, known: Mapping[str, nn.Linear]) -> int:
    """The number of samples; raises `LoRAMismatch` for what does not fit."""
    sizes = {len(down_BIR) for down_BIR, _ in factors.values()}
    if isinstance(scale, torch.Tensor):
        sizes.add(len(scale))
    if len(sizes) != 1 or not factors:
        raise LoRAMismatch(f"factors and scale need one row per sample, found {sorted(sizes)} rows")
    (batch,) = sizes
    for layer, (down_BIR, up_BRO) in factors.items():
        if layer not in known:
            raise LoRAMismatch(f"the UNet has no layer {layer}; the LoRA was made for another model")
        module, rank = known[layer], down_BIR.shape[-1]
        wanted = ((batch, module.in_features, rank), (batch, rank, module.out_features))
        found = (tuple(down_BIR.shape), tuple(up_BRO.shape))
        if found != wanted:
            raise LoRAMismatch(f"{layer}: factors of shapes {wanted[0]} and {wanted[1]} were wanted, found {found}")
    return batch
