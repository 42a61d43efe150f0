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

from hyperlora.config import Branch, HyperLoRAConfig, Projection
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

    def views(self) -> Iterator[tuple[Projection, torch.Tensor, torch.Tensor]]:
        """Every projection with its down basis (K, I, R) and its up basis (K, R, O), as views, in token order."""
        for projection, key, row in self._order:
            yield projection, self.down[key].detach()[row], self.up[key].detach()[row]

    def mix(self, coefficients_QK: torch.Tensor) -> StackedLayers:
        """Mix the bases of one person; returns a layer per projection, down (R, I) and up (O, R), in token order.

        Layers of one shape stay in one stack, as the bases are.
        """
        stacks = []
        for group, (down_tokens_L, up_tokens_L) in zip(self.groups, self._tokens(coefficients_QK.device), strict=True):
            down_LIR = _mix(coefficients_QK[down_tokens_L], self.down[group.key])
            up_LRO = _mix(coefficients_QK[up_tokens_L], self.up[group.key])
            down_LRI = down_LIR.transpose(1, 2).contiguous()
            up_LOR = up_LRO.transpose(1, 2).contiguous()
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


def _mix(coefficients_LK: torch.Tensor, bases_LKAB: torch.Tensor) -> torch.Tensor:
    row_L1K = coefficients_LK.to(bases_LKAB.dtype).unsqueeze(1)
    return torch.bmm(row_L1K, bases_LKAB.flatten(2)).view(-1, *bases_LKAB.shape[2:])  # (L, A, B)


def _mix_batch(coefficients_BLK: torch.Tensor, bases_LKAC: torch.Tensor) -> torch.Tensor:
    rows_LBK = coefficients_BLK.to(bases_LKAC.dtype).transpose(0, 1)
    mixed_LBX = torch.bmm(rows_LBK, bases_LKAC.flatten(2))
    return mixed_LBX.view(*mixed_LBX.shape[:2], *bases_LKAC.shape[2:])  # (L, B, A, C)
