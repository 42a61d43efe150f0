"""Mixing coefficients: one unit vector per token says how the bases are mixed.

Shapes: B people, Q tokens, K bases. The factors of a LoRA are linear in the coefficients, so people are blended here
and not in the factors. A concept slider is a difference of LoRAs instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hyperlora.errors import InvalidRequest
from hyperlora.lora import LoRA

EPSILON = 1e-8
"""Added to the sum of squares under the root."""


def normalise(coefficients_BQK: torch.Tensor) -> torch.Tensor:
    """Put each token's vector on the unit sphere: v / sqrt(sum v^2 + 1e-8), in float32.

    Half precision cannot hold 1e-8, so the arithmetic is float32 whatever the input is.
    """
    coefficients_BQK = coefficients_BQK.float()
    return coefficients_BQK / (coefficients_BQK.square().sum(dim=-1, keepdim=True) + EPSILON).sqrt()


def mix(weighted: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Blend the coefficients of any number of people by their weights and put them back on the unit sphere.

    Only the ratio of the weights counts. One person alone, at whatever weight, comes back but for rounding. Where
    people are exactly opposite, nothing is between them, and that token's vector is zero.

    Raises
    ------
    InvalidRequest
        An empty list, weights that are negative, not finite or all zero, or coefficients of different networks (unequal
        shapes).
    """
    if not weighted:
        raise InvalidRequest("mix needs at least one pair of coefficients and weight, found none")
    shapes = {tuple(coefficients.shape) for coefficients, _ in weighted}
    if len(shapes) > 1:
        raise InvalidRequest(f"coefficients of one network have one shape, found {sorted(shapes)}")
    weights = [float(weight) for _, weight in weighted]
    whole = sum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < whole < math.inf):
        raise InvalidRequest(
            f"mix needs finite weights of zero and more, at least one above zero, found {weights}; to go away from "
            "somebody use a concept slider with a negative weight"
        )
    total = torch.zeros_like(weighted[0][0], dtype=torch.float32)
    for (coefficients, _), weight in zip(weighted, weights, strict=True):
        # Shares instead of weights: against tiny weights the 1e-8 under the root would weigh too much.
        total += (weight / whole) * coefficients.float()
    return normalise(total)


def interpolate(coefficients_a: torch.Tensor, coefficients_b: torch.Tensor, t: float) -> torch.Tensor:
    """Walk from person a (t = 0) to person b (t = 1) and renormalise; `InvalidRequest` for t outside of 0 to 1."""
    return mix([(coefficients_a, 1.0 - t), (coefficients_b, t)])


def concept_slider(edited: LoRA, original: LoRA) -> LoRA:
    """What an edited photo has beyond the original one, as a LoRA: applied with +w it adds that, with -w it removes it.

    LoRAs are subtracted and not coefficients, as the difference of two unit vectors is none. The delta is exactly that
    of `edited` minus that of `original`: the ranks add up.

    Raises
    ------
    InvalidRequest
        The LoRAs do not have the same layers, so they come from different networks or branches.
    LoRAMismatch
        Layers of one name have different shapes.
    """
    alone = sorted(edited.layers.keys() ^ original.layers.keys())
    if alone:
        raise InvalidRequest(
            f"a concept slider needs two LoRAs with the same layers, found {len(alone)} that only one of them has, "
            f"such as {alone[0]}; make both with the same network and branch"
        )
    return edited - original
