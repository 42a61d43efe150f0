"""The learned bases, stacked per shape.

Shapes: B people, Q tokens, L projections of one shape, K bases, I input features, O output features, R rank.

A projection's factors are mixes of its own bases:  down = sum_k a_k D_k (I, R),  up = sum_k b_k U_k (R, O).
All projections of one shape lie in one parameter, so that mixing is two batched products per shape, whatever the
number of projections; a single projection's bases are a view of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from hyperlora.basis_stream import BUFFER_BYTES, HostStream
from hyperlora.config import Branch, HyperLoRAConfig, Projection
from hyperlora.host_memory import on_host
from hyperlora.lora_layer import FactorStack, StackedLayers


@dataclass(frozen=True)
class ShapeGroup:
    """The projections of one shape, in token order."""

    key: str
    in_features: int
    out_features: int
    projections: tuple[Projection, ...]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The projections' names in LoRA files."""
        return tuple(each.layer for each in self.projections)


def shape_groups(config: HyperLoRAConfig) -> tuple[ShapeGroup, ...]:
    """Sort the projections by shape, in order of first appearance."""
    members: dict[tuple[int, int], list[Projection]] = {}
    for projection in config.projections:
        members.setdefault((projection.in_features, projection.out_features), []).append(projection)
    return tuple(
        ShapeGroup(f"{in_features}_{out_features}", in_features, out_features, tuple(projections))
        for (in_features, out_features), projections in members.items()
    )


class BasisBank(nn.Module):
    """All bases of one branch."""

    def __init__(self, config: HyperLoRAConfig, branch: Branch) -> None:
        super().__init__()
        self.branch = branch
        self.rank = config.rank_of(branch)
        self.alpha = config.alpha_over_rank * self.rank
        self.groups = shape_groups(config)
        self.down = nn.ParameterDict()  # key -> (L, K, I, R)
        self.up = nn.ParameterDict()  # key -> (L, K, R, O)
        for group in self.groups:
            count = len(group.projections)
            self.down[group.key] = nn.Parameter(torch.empty(count, config.bases, group.in_features, self.rank))
            self.up[group.key] = nn.Parameter(torch.empty(count, config.bases, self.rank, group.out_features))
        for group in self.groups:
            # A LoRA starts as no change: down random, up zero.
            nn.init.normal_(self.down[group.key], std=group.in_features**-0.5)
            nn.init.zeros_(self.up[group.key])
        # (projection, group key, row within the group), in token order
        self._order = sorted(
            ((each, group.key, row) for group in self.groups for row, each in enumerate(group.projections)),
            key=lambda entry: entry[0].down_token,
        )
        self._token_index: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._from_host: HostStream | None = None

    def views(self) -> Iterator[tuple[Projection, torch.Tensor, torch.Tensor]]:
        """Every projection with its down basis (K, I, R) and its up basis (K, R, O), as views, in token order."""
        for projection, key, row in self._order:
            yield projection, self.down[key].detach()[row], self.up[key].detach()[row]

    @property
    def device(self) -> torch.device:
        """Where LoRAs are mixed; the bases lie there too, unless they are streamed."""
        return self._from_host.device if self._from_host is not None else self.down[self.groups[0].key].device

    @property
    def streamed(self) -> bool:
        """Whether the bases lie in host memory and reach the device in pieces, at each mixing."""
        return self._from_host is not None

    def stream(self, device: torch.device | str, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        """Keep the bases in host memory and mix on `device`, through two buffers of `buffer_bytes` each.

        The LoRAs are the same but for the rounding of other kernels. Mixing for training (`mix_batch`) needs the bases
        on the device.
        """
        self._from_host = HostStream(torch.device(device), buffer_bytes)
        for parameter in self.parameters():
            parameter.data = on_host(parameter.data, for_device=self._from_host.device)

    def mix(self, coefficients_QK: torch.Tensor) -> StackedLayers:
        """Mix the bases of one person; returns a layer per projection, down (R, I) and up (O, R), in token order.

        Layers of one shape stay in one stack, as the bases are.
        """
        return self.mix_many(coefficients_QK.unsqueeze(0))[0]

    def mix_many(self, coefficients_BQK: torch.Tensor) -> list[StackedLayers]:
        """Mix the bases of several people, each as `mix` does, but for the rounding of a larger product.

        The bases are read once for all, which is nearly all that mixing costs.
        """
        rows_LBK, bases_LX = [], []
        coefficients_QBK = coefficients_BQK.to(self.device).transpose(0, 1)
        for group, tokens in zip(self.groups, self._tokens(self.device), strict=True):
            for tokens_L, bank in zip(tokens, (self.down, self.up), strict=True):
                rows_LBK.append(coefficients_QBK[tokens_L].to(bank[group.key].dtype))
                bases_LX.append(bank[group.key])
        mixed = self._mixed(rows_LBK, bases_LX)
        return [self._layers(mixed, person) for person in range(len(coefficients_BQK))]

    def _mixed(self, rows_LBK: list[torch.Tensor], bases_LKAC: list[torch.Tensor]) -> list[torch.Tensor]:
        """For every stack of bases its mixes, (L, B, A, C)."""
        if self._from_host is None:
            flat = [torch.bmm(rows, bases.flatten(2)) for rows, bases in zip(rows_LBK, bases_LKAC, strict=True)]
        else:
            flat = [
                rows.new_empty((*rows.shape[:2], bases[0, 0].numel()))
                for rows, bases in zip(rows_LBK, bases_LKAC, strict=True)
            ]
            # (L, K, A, C) -> (L, K * A * C): a row is all that one projection has.
            for piece in self._from_host.pieces([bases.detach().flatten(1) for bases in bases_LKAC]):
                rows = rows_LBK[piece.tensor][piece.rows]
                bases_LKX = piece.data_LX.view(*rows.shape[::2], -1)
                torch.bmm(rows.detach(), bases_LKX, out=flat[piece.tensor][piece.rows])
        return [each.view(*each.shape[:2], *bases.shape[2:]) for each, bases in zip(flat, bases_LKAC, strict=True)]

    def _layers(self, mixed: list[torch.Tensor], person: int) -> StackedLayers:
        stacks = []
        for number, group in enumerate(self.groups):
            down_LRI, up_LOR = (
                mixed[place].select(1, person).transpose(1, 2).contiguous() for place in (2 * number, 2 * number + 1)
            )
            stacks.append(FactorStack(group.layers, down_LRI, up_LOR, (self.alpha,) * len(group.layers)))
        return StackedLayers(stacks, [projection.layer for projection, _, _ in self._order])

    def mix_batch(self, coefficients_BQK: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mix the bases of several people at once, differentiable; answers with the factors that `grouped` applies.

        Two batched products per shape, whatever the number of people. Layer -> (down (B, I, R), up (B, R, O)), in the
        order of the shapes; alpha / rank is not inside.
        """
        mixed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for group, (down_tokens_L, up_tokens_L) in zip(self.groups, self._tokens(coefficients_BQK.device), strict=True):
            downs = _mix_batch(coefficients_BQK[:, down_tokens_L], self.down[group.key]).unbind(0)  # L x (B, I, R)
            ups = _mix_batch(coefficients_BQK[:, up_tokens_L], self.up[group.key]).unbind(0)  # L x (B, R, O)
            for projection, down_BIR, up_BRO in zip(group.projections, downs, ups, strict=True):
                mixed[projection.layer] = (down_BIR, up_BRO)
        return mixed

    def _tokens(self, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if device not in self._token_index:
            self._token_index[device] = [
                (
                    torch.tensor([each.down_token for each in group.projections], device=device),
                    torch.tensor([each.up_token for each in group.projections], device=device),
                )
                for group in self.groups
            ]
        return self._token_index[device]


def _mix_batch(coefficients_BLK: torch.Tensor, bases_LKAC: torch.Tensor) -> torch.Tensor:
    rows_LBK = coefficients_BLK.to(bases_LKAC.dtype).transpose(0, 1)
    mixed_LBX = torch.bmm(rows_LBK, bases_LKAC.flatten(2))
    return mixed_LBX.view(*mixed_LBX.shape[:2], *bases_LKAC.shape[2:])  # (L, B, A, C)
