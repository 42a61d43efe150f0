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
    return to_rank(max(sum(_rank(lora) for lora, _ in stack) for stack in stacks))


def factors_of(
    stacks: Sequence[Stack], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Factors:
    """The LoRAs of each sample as one set of factors, with weight and alpha / rank inside `up`.

    Samples may differ in layers and in ranks: what one lacks is filled with zeros, which add nothing. All layers get
    one rank, one of a few (`hyperlora.shapes.to_rank`), and one memory layout, so that compiled code fits all. Each
    LoRA goes to the device once, in a few transfers, however many samples have it.
    """
    distinct, rows = _distinct(stacks)
    rank, some = own_rank(distinct), next(lora for stack in distinct for lora, _ in stack).stacks[0].down_LRI
    room: dict[str, Any] = {"device": device or some.device, "dtype": dtype or some.dtype}
    rows_B = torch.tensor(rows, device=room["device"])
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for (out_features, in_features), names in _by_shape(distinct).items():
        down_LDRI = torch.zeros((len(names), len(distinct), rank, in_features), **room)
        up_LDOR = torch.zeros((len(names), len(distinct), out_features, rank), **room)
        for number, stack in enumerate(distinct):
            first = 0
            for lora, weight in stack:
                for part in lora.stacks:
                    if part.shape == (out_features, in_features):
                        here = _places(part.names, names, room["device"])
                        last = first + part.rank
                        down_LDRI[here, number, first:last] = part.down_LRI.to(**room)
                        up_LDOR[here, number, :, first:last] = _scaled_up(part, weight, room["device"]).to(**room)
                first += _rank(lora)
        down_LBRI, up_LBOR = down_LDRI, up_LDOR
        if rows != list(range(len(distinct))):
            down_LBRI, up_LBOR = down_LDRI.index_select(1, rows_B), up_LDOR.index_select(1, rows_B)
        for place, name in enumerate(names):
            factors[name] = (down_LBRI[place].transpose(1, 2), up_LBOR[place].transpose(1, 2))
    return factors


def _distinct(stacks: Sequence[Stack]) -> tuple[list[Stack], list[int]]:
    """Each stack once, and for each sample the number of its own."""
    found: dict[tuple[tuple[int, float], ...], int] = {}
    distinct: list[Stack] = []
    rows: list[int] = []
    for stack in stacks:
        key = tuple((id(lora), weight) for lora, weight in stack)
        if key not in found:
            found[key] = len(distinct)
            distinct.append(stack)
        rows.append(found[key])
    return distinct, rows


def _by_shape(stacks: Sequence[Stack]) -> dict[tuple[int, int], list[str]]:
    """(out, in) -> every layer of this shape that any of the LoRAs has."""
    found: dict[tuple[int, int], set[str]] = {}
    for part in (part for stack in stacks for lora, _ in stack for part in lora.stacks):
        found.setdefault(part.shape, set()).update(part.names)
    return {shape: sorted(names) for shape, names in found.items()}


def _places(names: Sequence[str], among: Sequence[str], device: torch.device) -> torch.Tensor | slice:
    """Where these layers stand among all."""
    if list(names) == list(among):
        return slice(None)
    number = {name: place for place, name in enumerate(among)}
    return torch.tensor([number[name] for name in names], device=device)


def _scaled_up(part: FactorStack, weight: float, device: torch.device) -> torch.Tensor:
    """Up (L, O, R) on the device, with weight and alpha / rank inside, in the precision that the LoRA has."""
    up_LOR, scales = part.up_LOR.to(device), part.scales
    if len(set(scales)) == 1:
        return weight * scales[0] * up_LOR
    scale_L = torch.tensor([weight * scale for scale in scales], dtype=up_LOR.dtype, device=device)
    return scale_L.view(-1, 1, 1) * up_LOR


def _rank(lora: LoRA) -> int:
    """The largest rank that a layer has."""
    return max(part.rank for part in lora.stacks)


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
