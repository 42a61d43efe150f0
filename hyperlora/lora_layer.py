"""One layer of a LoRA, and layers of one shape in stacks.

Shapes: L layers, R rank, I input features, O output features.  delta W (O, I) = (alpha / R) * up (O, R) @ down (R, I)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from hyperlora.errors import LoRAMismatch


@dataclass(frozen=True, eq=False)
class LoRALayer:
    """The two factors of one projection: down (r, in), up (out, r), and alpha."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1] or not self.rank:
            raise LoRAMismatch(
                f"a LoRA layer needs down (r, in) and up (out, r), found down {tuple(self.down.shape)} "
                f"and up {tuple(self.up.shape)}"
            )

    @property
    def rank(self) -> int:
        """Rows of down, columns of up."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def delta(self) -> torch.Tensor:
        """The change of the weight at LoRA weight 1, (out, in), in float32."""
        return self.scale * (self.up.float() @ self.down.float())

    def scaled(self, weight: float) -> LoRALayer:
        """The layer whose delta is `weight` times as large; alpha stays above zero, as other readers expect."""
        if weight > 0:
            return LoRALayer(self.down, self.up, self.alpha * weight)
        if weight < 0:
            return LoRALayer(self.down, -self.up, self.alpha * -weight)
        return LoRALayer(self.down, torch.zeros_like(self.up), self.alpha)

    def __add__(self, other: LoRALayer) -> LoRALayer:
        """Concatenate the ranks: the delta is the sum of both deltas, exactly."""
        if self.down.shape[1] != other.down.shape[1] or self.up.shape[0] != other.up.shape[0]:
            raise LoRAMismatch(
                f"two layers of one name need one shape, found (in {self.down.shape[1]}, out {self.up.shape[0]}) "
                f"and (in {other.down.shape[1]}, out {other.up.shape[0]})"
            )
        rank = self.rank + other.rank
        if self.scale == other.scale:
            return LoRALayer(_cat(self.down, other.down, 0), _cat(self.up, other.up, 1), self.scale * rank)
        # Unequal factors go into `up`, in float32, so that half precision loses nothing.
        up = torch.cat([self.scale * self.up.float(), other.scale * other.up.float()], dim=1)
        return LoRALayer(_cat(self.down, other.down, 0), up, float(rank))


@dataclass(frozen=True, eq=False)
class FactorStack:
    """Layers that agree in shape, rank, dtype and device: down (L, R, I), up (L, O, R), and each layer's alpha.

    Raises `LoRAMismatch` where names, factors and alphas are not of one length and rank.
    """

    names: tuple[str, ...]
    down_LRI: torch.Tensor
    up_LOR: torch.Tensor
    alphas: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.alphas), self.down_LRI.shape[0], self.up_LOR.shape[0]}
        ranks = (self.down_LRI.shape[1:2], self.up_LOR.shape[2:3])
        if self.down_LRI.ndim != 3 or self.up_LOR.ndim != 3 or len(counts) > 1 or ranks[0] != ranks[1] or not self.rank:
            raise LoRAMismatch(
                f"a stack of {len(self.names)} LoRA layers needs down (layers, r, in), up (layers, out, r) and as many "
                f"alphas, found down {tuple(self.down_LRI.shape)}, up {tuple(self.up_LOR.shape)} and "
                f"{len(self.alphas)} alphas"
            )

    @property
    def rank(self) -> int:
        """The rank of every layer."""
        return self.down_LRI.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weights that the layers change."""
        return self.up_LOR.shape[1], self.down_LRI.shape[2]

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Each layer's alpha / rank."""
        rank = self.rank
        return tuple(alpha / rank for alpha in self.alphas)

    def layer(self, row: int) -> LoRALayer:
        """One layer; its factors are views."""
        return LoRALayer(self.down_LRI[row], self.up_LOR[row], self.alphas[row])

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> FactorStack:
        """The same stack elsewhere or in another precision, in two transfers."""
        return FactorStack(self.names, self.down_LRI.to(device, dtype), self.up_LOR.to(device, dtype), self.alphas)


class StackedLayers(Mapping[str, LoRALayer]):
    """Layers by name, kept in stacks; a layer that is asked for is made of views."""

    def __init__(self, stacks: Iterable[FactorStack], order: Sequence[str] | None = None) -> None:
        """`order` is that of iteration, the stacks' own if it is not given; it names every layer once."""
        self.stacks = tuple(stacks)
        places = {name: (stack, row) for stack in self.stacks for row, name in enumerate(stack.names)}
        if len(places) != sum(len(stack.names) for stack in self.stacks):
            raise LoRAMismatch("a LoRA has every layer once, found a name in two places of its stacks")
        self._places = places if order is None else {name: places[name] for name in order}
        if len(self._places) != len(places):
            raise LoRAMismatch(f"the order names {len(self._places)} of {len(places)} layers")

    @classmethod
    def of(cls, layers: Mapping[str, LoRALayer]) -> StackedLayers:
        """Copy single layers into stacks, in their order."""
        alike: dict[tuple[object, ...], list[str]] = {}
        for name, layer in layers.items():
            down, up = layer.down, layer.up
            key = (down.shape, down.dtype, down.device, up.shape, up.dtype, up.device)
            alike.setdefault(key, []).append(name)
        stacks = []
        # Kept beyond this call: neither a graph of gradients nor tensors that only inference mode may touch.
        with torch.inference_mode(False), torch.no_grad():
            for names in alike.values():
                members = [layers[name] for name in names]
                stacks.append(
                    FactorStack(
                        tuple(names),
                        torch.stack([layer.down for layer in members]),
                        torch.stack([layer.up for layer in members]),
                        tuple(layer.alpha for layer in members),
                    )
                )
        return cls(stacks, tuple(layers))

    def __getitem__(self, name: str) -> LoRALayer:
        stack, row = self._places[name]
        return stack.layer(row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (out, in) of the weight that it changes."""
        return {name: stack.shape for name, (stack, _) in self._places.items()}

    def fit(self, shapes: Mapping[str, tuple[int, int]]) -> bool:
        """Whether all layers are among these, with their shapes."""
        return all({shapes.get(name) for name in stack.names} == {stack.shape} for stack in self.stacks)


def _cat(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.cat([a.to(dtype), b.to(dtype)], dim=dim)
