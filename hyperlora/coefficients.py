"""Mixing coefficients: one unit vector per token says how the bases are mixed.

Shapes: B people, Q tokens, K bases. The space of LoRAs is linear in the coefficients, so people are blended here and
not in the factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyperlora.errors import InvalidRequest

EPSILON = 1e-8
"""Added to the sum of squares under the root."""


def normalise(coefficients_BQK: torch.Tensor) -> torch.Tensor:
    """Put each token's vector on the unit sphere: v / sqrt(sum v^2 + 1e-8), in float32.

    Half precision cannot hold 1e-8, so the arithmetic is float32 whatever the input is.
    """
    coefficients_BQK = coefficients_BQK.float()
    return coefficients_BQK / (coefficients_BQK.square().sum(dim=-1, keepdim=True) + EPSILON).sqrt()


def mix(weighted: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Blend coefficients with weights and renormalise.

    Raises `InvalidRequest` for an empty list or for coefficients of different networks (unequal shapes).
    """
    if not weighted:
        raise InvalidRequest("mix needs at least one pair of coefficients and weight, found none")
    shapes = {tuple(coefficients.shape) for coefficients, _ in weighted}
    if len(shapes) > 1:
        raise InvalidRequest(f"coefficients of one network have one shape, found {sorted(shapes)}")
    total = torch.zeros_like(weighted[0][0], dtype=torch.float32)
    for coefficients, weight in weighted:
        total += weight * coefficients.float()
    return normalise(total)


def interpolate(coefficients_a: torch.Tensor, coefficients_b: torch.Tensor, t: float) -> torch.Tensor:
    """Walk from person a (t = 0) to person b (t = 1) and renormalise."""
    return mix([(coefficients_a, 1.0 - t), (coefficients_b, t)])
