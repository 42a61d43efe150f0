"""LoRAs into the UNet's weights and out again, exactly.

    W' = W + sum_i weight_i * (alpha_i / rank_i) * up_i @ down_i

W is always the pristine copy, products and sums are float32, and the result is rounded once to the UNet's dtype. So no
number of swaps drifts, and the UNet runs at its plain speed. Projections of one shape are stacked, and merged by one
batched product (in pieces where float32 would take much room).

Shapes: N projections of one shape, M of them that a product is for, O output features, I input features, R ranks of
all LoRAs together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from hyperlora.errors import LoRAMismatch, NonFiniteWeights
from hyperlora.lora import LoRA
from hyperlora.lora_layer import FactorStack
from hyperlora.weight_stacks import WeightStack, stack_weights

_PROJECTION = re.compile(r".*\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)")

SCRATCH_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""What sums and factors in float32 may take at once: on a CPU about a cache, on a GPU enough to keep it busy."""


def attention_projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """The UNet's attention projections under the names that LoRA files use."""
    return {
        f"lora_unet_{name.replace('.', '_')}": module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and _PROJECTION.fullmatch(name)
    }


class WeightMerger:
    """Holds the pristine attention weights of one UNet and writes merged ones over them.

    At construction the UNet's projections are stacked by shape and copied, on the UNet's device and in its dtype: move
    or cast the UNet before. From then on every weight keeps its address (`data_ptr`), so compiled and captured graphs
    see what is merged. What gives a module another weight (`to` with another device or dtype, `load_state_dict` with
    `assign=True`) needs a new merger; until then `merge` and `restore` raise `InvalidRequest`.
    """

    def __init__(self, unet: nn.Module, *, pristine_on_host: bool = False) -> None:
        """`pristine_on_host` keeps the copy in host memory: each merge and restore then copies from there."""
        projections = attention_projections(unet)
        if not projections:
            raise LoRAMismatch("the UNet has no attention projections named as in diffusers' SDXL UNet")
        self._layers = tuple(projections)
        self._stacks = stack_weights(projections, pristine_on_host=pristine_on_host)
        self._rows = {
            name: (number, row) for number, stack in enumerate(self._stacks) for row, name in enumerate(stack.names)
        }
        shapes = {name: self._stacks[number].shape for name, (number, _) in self._rows.items()}
        self._shapes = {name: shapes[name] for name in self._layers}
        self._places: dict[tuple[str, ...], dict[int, dict[int, int]]] = {}
        self.merges = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that a LoRA may have here."""
        return self._layers

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (out, in) of its weight."""
        return dict(self._shapes)

    def adjacent(self, layers: Sequence[str]) -> torch.Tensor | None:
        """The weights of these layers as one matrix, rows stacked, (sum of out, in): a view that shows what is merged.

        None where they do not lie one after the other in memory.
        """
        places = [self._rows.get(name) for name in layers]
        if any(place is None for place in places):
            return None
        found = [place for place in places if place is not None]
        first, row = found[0]
        if found != [(first, row + number) for number in range(len(found))]:
            return None
        rows_NOI = self._stacks[first].weights_NOI[row : row + len(found)]
        return rows_NOI.view(-1, rows_NOI.shape[-1])

    @property
    def is_pristine(self) -> bool:
        """True while nothing is merged: the UNet's weights are the ones that it came with."""
        return not any(stack.changed for stack in self._stacks)

    @torch.no_grad()
    def merge(self, loras: Sequence[tuple[LoRA, float]]) -> None:
        """Make the UNet pristine plus these LoRAs with their weights; what was merged before is gone.

        Raises `LoRAMismatch` naming an unknown layer or a wrong shape, `NonFiniteWeights` for NaN, infinity or a
        result beyond the UNet's dtype. After any error the UNet is pristine, except after `InvalidRequest` for a UNet
        whose weights were moved, cast or replaced: that one is as it was.
        """
        self._require_views()
        try:
            self._write(self._by_stack(loras))
        except BaseException:
            # Whatever went wrong (no memory left, Ctrl-C), the next person must not start from half a merge.
            self.restore()
            raise
        self.merges += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Give the UNet its pristine weights back, bit for bit, in one copy per shape.

        Raises `InvalidRequest` where the UNet's weights were moved, cast or replaced since the merger was made.
        """
        self._require_views()
        for stack in self._stacks:
            stack.restore()

    def _require_views(self) -> None:
        for stack in self._stacks:
            stack.require_views()

    def _by_stack(self, loras: Sequence[tuple[LoRA, float]]) -> list[list[_Part]]:
        """For each stack of weights what is added to it."""
        parts: list[list[_Part]] = [[] for _ in self._stacks]
        for lora, weight in loras:
            if not abs(weight) < float("inf"):
                raise NonFiniteWeights(f"a LoRA's weight must be a finite number, found {weight}")
            lora.require_fit(self._shapes)
            lora.require_finite()
            for factors in lora.stacks:
                for number, members in self._places_of(factors.names).items():
                    parts[number].append(_Part(weight, factors, members))
        return parts

    def _places_of(self, names: tuple[str, ...]) -> dict[int, dict[int, int]]:
        """Stack of weights -> its row -> place among the names; kept, as LoRAs of one network have the same layers."""
        if names not in self._places:
            if len(self._places) >= 64:
                self._places.clear()
            places: dict[int, dict[int, int]] = {}
            for place, name in enumerate(names):
                number, row = self._rows[name]
                places.setdefault(number, {})[row] = place
            self._places[names] = {number: dict(sorted(rows.items())) for number, rows in places.items()}
        return self._places[names]

    def _write(self, parts: list[list[_Part]]) -> None:
        written: list[tuple[WeightStack, list[int]]] = []
        extremes: list[torch.Tensor] = []
        for stack, own in zip(self._stacks, parts, strict=True):
            covered = set().union(*(part.members for part in own))
            if not stack.changed <= covered:
                stack.restore()
            stack.changed |= covered
            for rows, those in _alike(own):
                for piece, extreme in _merge(stack, rows, those):
                    written.append((stack, piece))
                    extremes.append(extreme)
        if extremes:
            # One transfer for all, as each makes a GPU wait.
            device = extremes[0].device
            finite = torch.isfinite(torch.stack([each.to(device) for each in extremes])).all(dim=1).tolist()
            for (stack, rows), good in zip(written, finite, strict=True):
                if not good:
                    row = next(row for row in rows if not torch.isfinite(stack.weights_NOI[row]).all())
                    raise NonFiniteWeights(
                        f"the merged weights of {stack.names[row]} leave the range of the UNet's dtype"
                    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One stack of one LoRA, and the rows of a stack of weights that its layers are for."""

    weight: float
    factors: FactorStack
    members: dict[int, int]
    """Row of the weights, ascending -> layer of the factors."""

    @cached_property
    def scale(self) -> float | None:
        """What all products are multiplied by, None where alphas differ."""
        first, *others = set(self.factors.alphas)
        return None if others else self.weight * (first / self.factors.rank)

    def chosen(self, rows: list[int], like: torch.Tensor, *, scaled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Up (M, O, r), scaled if asked for, and down (M, r, I), on the device and in the dtype of `like`."""
        members = [self.members[row] for row in rows]
        up, down = (_rows_of(each, members).to(like) for each in (self.factors.up_LOR, self.factors.down_LRI))
        if not scaled:
            return up, down
        if self.scale is not None:
            return self.scale * up, down
        scales = [self.weight * self.factors.scales[member] for member in members]
        return torch.tensor(scales, dtype=up.dtype, device=up.device).view(-1, 1, 1) * up, down


def _alike(parts: Sequence[_Part]) -> list[tuple[list[int], list[_Part]]]:
    """Rows, ascending, that the same parts are for: one product has one rank, and no zeros fill it up."""
    if len(parts) == 1:
        return [(list(parts[0].members), list(parts))]
    numbers_of: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        for row in part.members:
            numbers_of.setdefault(row, []).append(number)
    alike: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(numbers_of):
        alike.setdefault(tuple(numbers_of[row]), []).append(row)
    return [(rows, [parts[number] for number in numbers]) for numbers, rows in alike.items()]


def _merge(stack: WeightStack, rows: list[int], parts: Sequence[_Part]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Write pristine plus all parts over some rows; gives for each piece of them its rows and its extremes, (2,).

    The extremes are the smallest and the largest number: both are NaN if any number is, and infinite if any is.
    """
    weights_NOI, pristine_NOI = stack.weights_NOI, stack.pristine_NOI
    common = _common_scale(parts, weights_NOI)
    scale = 1.0 if common is None else common
    # Whether the product can write the weights itself, rounding once; else sums in float32 are between.
    direct = common is not None or weights_NOI.dtype == torch.float32
    like = weights_NOI.new_empty(0, dtype=weights_NOI.dtype if direct else torch.float32)
    sums_MOI: torch.Tensor | None = None
    for piece in _pieces(stack, rows, parts, sums=not direct or not _consecutive(rows)):
        chosen = [part.chosen(piece, like, scaled=common is None) for part in parts]
        up_MOR = _joined([up for up, _ in chosen], dim=2)
        down_MRI = _joined([down for _, down in chosen], dim=1)
        here = slice(piece[0], piece[-1] + 1)
        if not _consecutive(piece):
            index = torch.tensor(piece, device=weights_NOI.device)
            sums = stack.pristine_of(piece).to(like.dtype).baddbmm_(up_MOR, down_MRI, alpha=scale)
            merged = sums.to(weights_NOI.dtype)
            weights_NOI.index_copy_(0, index, merged)
        elif direct:
            # Copied over the weights and added to there: the pristine ones may lie in host memory.
            merged = weights_NOI[here].copy_(pristine_NOI[here], non_blocking=True)
            merged.baddbmm_(up_MOR, down_MRI, alpha=scale)
        else:
            if sums_MOI is None or len(sums_MOI) < len(piece):
                sums_MOI = torch.empty((len(piece), *stack.shape), dtype=torch.float32, device=weights_NOI.device)
            sums = sums_MOI[: len(piece)].copy_(pristine_NOI[here]).baddbmm_(up_MOR, down_MRI)
            merged = weights_NOI[here].copy_(sums)
        yield piece, torch.stack(torch.aminmax(merged))


def _common_scale(parts: Sequence[_Part], weights_NOI: torch.Tensor) -> float | None:
    """The factor of all products, where a GPU may take the LoRAs in the UNet's own half precision; else None.

    There the product adds in float32 and rounds once by itself, if the factors need no scaling before.
    """
    if weights_NOI.device.type != "cuda" or weights_NOI.dtype not in (torch.float16, torch.bfloat16):
        return None
    if getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False):
        return None
    factors = [factor for part in parts for factor in (part.factors.down_LRI, part.factors.up_LOR)]
    scales = {part.scale for part in parts}
    return scales.pop() if len(scales) == 1 and all(each.dtype == weights_NOI.dtype for each in factors) else None


def _pieces(stack: WeightStack, rows: list[int], parts: Sequence[_Part], *, sums: bool) -> Iterator[list[int]]:
    """Cut the rows into pieces whose factors, and sums where these are needed, take no more room than they may."""
    out_features, in_features = stack.shape
    rank = sum(part.factors.rank for part in parts)
    numbers = rank * (out_features + in_features) + (out_features * in_features if sums else 0)
    room = SCRATCH_BYTES.get(stack.weights_NOI.device.type, SCRATCH_BYTES["cuda"])
    count = max(1, room // (4 * numbers))
    for start in range(0, len(rows), count):
        yield rows[start : start + count]


def _consecutive(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))


def _rows_of(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows, in the order that is given; a view where they are consecutive."""
    if _consecutive(rows):
        return tensor[rows[0] : rows[-1] + 1]
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device))


def _joined(tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=dim)
