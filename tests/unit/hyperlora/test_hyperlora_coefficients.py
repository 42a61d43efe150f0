"""People between people, and concept sliders: against arithmetic written out in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hyperlora import HyperLoRA, LoRA, LoRALayer
from hyperlora.coefficients import EPSILON, concept_slider, interpolate, mix, normalise
from hyperlora.errors import InvalidRequest, LoRAMismatch

Q, TOKENS, BASES = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 6, 16
V = Q.removesuffix("to_q") + "to_v"


def person(seed: int) -> torch.Tensor:
    """(1, Q, K) coefficients as a network makes them: every token's vector on the unit sphere."""
    return normalise(torch.randn(1, TOKENS, BASES, generator=torch.Generator().manual_seed(seed)))


def on_the_sphere(coefficients: torch.Tensor) -> bool:
    return bool(torch.allclose(coefficients.norm(dim=-1), torch.ones(1, TOKENS), atol=1e-6))


def lora(seed: int, *, rank: int = 4, dtype: torch.dtype = torch.float32, layers: tuple[str, ...] = (Q, V)) -> LoRA:
    """Small whole numbers as factors, so that products and sums have no rounding in any precision."""
    generator = torch.Generator().manual_seed(seed)

    def whole(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(-8, 9, (rows, columns), generator=generator).to(dtype)

    return LoRA({name: LoRALayer(whole(rank, 6), whole(5, rank), rank / 2) for name in layers}, {"seed": str(seed)})


def test_a_vector_is_divided_by_the_root_of_its_squares_and_an_epsilon() -> None:
    # Given 3, 4 (length 5), nothing, and a vector as short as the epsilon's root
    vectors = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [1e-4, 0.0]]])
    # Then 3/5 and 4/5, nothing, and 1e-4 / sqrt(1e-8 + 1e-8)
    expected = torch.tensor([[[0.6, 0.8], [0.0, 0.0], [math.sqrt(0.5), 0.0]]])
    torch.testing.assert_close(normalise(vectors), expected)
    assert EPSILON == 1e-8
    # And half precision is widened first: there the squares of 1e-4 are nothing
    assert normalise(vectors.half()).dtype == torch.float32
    torch.testing.assert_close(normalise(vectors.half())[0, 2, 0].item(), math.sqrt(0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("weights", [(0.6, 0.4), (1.0, 0.0), (0.2, 0.3, 0.5), (1, 1, 1, 1), (0.1,) * 8])
def test_many_people_are_blended_by_weight(weights: tuple[float, ...]) -> None:
    # Given as many people as weights
    people = [person(seed) for seed in range(len(weights))]
    # When they are mixed
    mixed = mix(list(zip(people, weights, strict=True)))
    # Then every token is the weighted sum, put back on the sphere
    total = sum(weight * each.double() for each, weight in zip(people, weights, strict=True))
    assert isinstance(total, torch.Tensor)
    torch.testing.assert_close(mixed.double(), total / total.norm(dim=-1, keepdim=True), atol=1e-6, rtol=0)
    assert on_the_sphere(mixed) and mixed.dtype == torch.float32


def test_only_the_ratio_of_weights_counts_and_not_the_order() -> None:
    # Given three people and weights between a ten-millionth and ten million with the ratio 3 : 2 : 5
    people = [person(seed) for seed in range(3)]
    expected = mix(list(zip(people, (0.3, 0.2, 0.5), strict=True)))
    for factor in (1e-7, 1.0, 10.0, 1e7):
        found = mix([(each, share * factor) for each, share in zip(people, (3, 2, 5), strict=True)])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # And in whichever order they come
    for order in itertools.permutations(zip(people, (0.3, 0.2, 0.5), strict=True)):
        torch.testing.assert_close(mix(list(order)), expected, atol=1e-6, rtol=0)


def test_somebody_of_weight_zero_leaves_no_trace() -> None:
    a, b = person(1), person(2)
    torch.testing.assert_close(mix([(a, 0.7), (b, 0.0)]), a, atol=1e-6, rtol=0)
    torch.testing.assert_close(mix([(a, 0.7)]), a, atol=1e-6, rtol=0)


def test_the_walk_between_two_people_is_even_at_its_middle_and_comes_ever_nearer() -> None:
    # Given two people
    a, b = person(1), person(2)
    # When one walks from one to the other
    steps = [interpolate(a, b, t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    # Then the ends are they, the middle is as near to both, and every step is nearer to the second
    torch.testing.assert_close(steps[0], a, atol=1e-6, rtol=0)
    torch.testing.assert_close(steps[-1], b, atol=1e-6, rtol=0)
    torch.testing.assert_close((steps[2] * a).sum(-1), (steps[2] * b).sum(-1), atol=1e-6, rtol=0)
    nearness = torch.stack([(step * b).sum(-1) for step in steps])
    assert bool((nearness.diff(dim=0) > 0).all()) and all(on_the_sphere(step) for step in steps)


def test_the_people_given_stay_as_they_are() -> None:
    a, b = person(1), person(2)
    before = a.clone(), b.clone()
    mix([(a, 0.5), (b, 0.5)])
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.parametrize(
    "weights", [(0.0, 0.0), (-0.1, 1.1), (math.nan, 1.0), (math.inf, 1.0), (1e308, 1e308)], ids=str
)
def test_weights_that_make_no_person_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(InvalidRequest, match="at least one above zero"):
        mix([(person(1), weights[0]), (person(2), weights[1])])


@pytest.mark.parametrize("t", [-0.01, 1.01, math.nan])
def test_no_walk_leads_beyond_either_person(t: float) -> None:
    with pytest.raises(InvalidRequest, match="weights of zero and more"):
        interpolate(person(1), person(2), t)


def test_nobody_and_people_of_other_networks_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least one pair"):
        mix([])
    with pytest.raises(InvalidRequest, match="one shape"):
        mix([(person(1), 0.5), (person(2)[:, :-1], 0.5)])


def test_a_mix_through_the_network_is_between_its_people(unet_network: HyperLoRA) -> None:
    # Given two people's coefficients for a network, and the LoRAs that it makes of them and of their mix
    config = unet_network.config
    generator = torch.Generator().manual_seed(3)
    shape = (1, config.tokens, config.bases)
    a, b = (normalise(torch.randn(shape, generator=generator)) for _ in range(2))
    first, second, between = (unet_network.lora(each) for each in (a, b, mix([(a, 1.0), (b, 1.0)])))
    # Then each factor is the sum of both people's, over the length of the sum of their unit vectors
    length = (a + b).norm(dim=-1).flatten()
    for token, (name, layer) in enumerate(between.layers.items()):
        for side, at in (("down", 2 * token), ("up", 2 * token + 1)):
            expected = (getattr(first.layers[name], side) + getattr(second.layers[name], side)) / length[at]
            torch.testing.assert_close(getattr(layer, side), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [4, 2])
def test_a_slider_is_the_difference_exactly(dtype: torch.dtype, rank: int) -> None:
    # Given the LoRAs of an edited and of the original photo, perhaps of unequal ranks
    edited, original = lora(1, dtype=dtype), lora(2, rank=rank, dtype=dtype)
    # When they become a slider
    slider = concept_slider(edited, original)
    # Then its delta is the difference of theirs without any rounding, and the ranks add up
    for name, layer in slider.layers.items():
        a, b = edited.layers[name], original.layers[name]
        expected = 0.5 * (a.up.double() @ a.down.double() - b.up.double() @ b.down.double())
        assert torch.equal(layer.delta().double(), expected)
        assert layer.rank == 4 + rank and layer.down.dtype == dtype
    # And the metadata tell of both
    assert all(f'"seed": "{seed}"' in slider.metadata["sources"] for seed in (1, 2))


def test_a_slider_to_nowhere_changes_nothing_and_one_backwards_takes_away() -> None:
    # Given a LoRA against itself: no change at all
    nothing = concept_slider(lora(1), lora(1))
    assert all(not layer.delta().any() for layer in nothing.layers.values())
    # And the original with the slider added is the edited, the edited with it taken away the original
    edited, original = lora(1), lora(2)
    slider = concept_slider(edited, original)
    for found, expected in ((original + slider, edited), (edited + slider.scaled(-1.0), original)):
        for name, layer in found.layers.items():
            assert torch.equal(layer.delta(), expected.layers[name].delta())


def test_a_slider_between_networks_is_refused_by_the_layer_s_name() -> None:
    with pytest.raises(InvalidRequest, match=f"same layers, found 1 .*{V}"):
        concept_slider(lora(1), lora(2, layers=(Q,)))
    other = LoRA({name: LoRALayer(torch.ones(4, 7), torch.ones(5, 4), 2.0) for name in (Q, V)})
    with pytest.raises(LoRAMismatch, match=f"{Q}.*one shape"):
        concept_slider(lora(1), other)
