"""One LoRA per sample on activations is what merging each sample's LoRA gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_training import CHANNELS, CLIP, FACE, SIDE, SIZES, TOKENS

from hyperlora import HyperLoRA, HyperLoRAConfig
from hyperlora.coefficients import normalise
from hyperlora.components import SDXLComponents
from hyperlora.errors import LoRAMismatch
from hyperlora.grouped import chosen, grouped, joined
from hyperlora.lora import LoRA
from hyperlora.merge import WeightMerger, attention_projections


@pytest.fixture(scope="module")
def network(components: SDXLComponents) -> HyperLoRA:
    """A network whose LoRAs change much."""
    torch.manual_seed(3)
    config = HyperLoRAConfig.from_unet(components.unet.config, face_width=FACE, clip_width=CLIP, **SIZES)
    made = HyperLoRA(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


@pytest.fixture(scope="module")
def coefficients(network: HyperLoRA) -> torch.Tensor:
    """Three people."""
    torch.manual_seed(4)
    face, clip = torch.randn(3, FACE), torch.randn(3, TOKENS, CLIP)
    return normalise(network.raw_coefficients(face, clip)).detach()


@pytest.fixture(scope="module")
def asked() -> dict[str, torch.Tensor]:
    """What the UNet is given for three samples."""
    torch.manual_seed(5)
    return {
        "sample": torch.randn(3, CHANNELS, SIDE // 4, SIDE // 4),
        "timestep": torch.tensor([10, 500, 900]),
        "encoder_hidden_states": torch.randn(3, 77, 32),
        "text_embeds": torch.randn(3, 16),
        "time_ids": torch.full((3, 6), float(SIDE)),
    }


def predict(unet: Any, asked: dict[str, torch.Tensor], rows: slice = slice(None)) -> torch.Tensor:
    part = {name: tensor[rows] for name, tensor in asked.items()}
    added = {name: part.pop(name) for name in ("text_embeds", "time_ids")}
    answer: torch.Tensor = unet(**part, added_cond_kwargs=added, return_dict=False)[0]
    return answer


def merged(unet: Any, loras: list[tuple[LoRA, float]], asked: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    own = copy.deepcopy(unet)
    WeightMerger(own).merge(loras)
    with torch.no_grad():
        return predict(own, asked, slice(row, row + 1))


def test_mixing_a_batch_is_mixing_each(network: HyperLoRA, coefficients: torch.Tensor) -> None:
    # Given three people's coefficients, when they are mixed at once
    factors = network.id_bases.mix_batch(coefficients)

    # Then each row is that person's LoRA
    assert set(factors) == set(network.config.layer_shapes)
    for row in range(3):
        for layer, own in network.id_bases.mix(coefficients[row]).items():
            down_BIR, up_BRO = factors[layer]
            torch.testing.assert_close(down_BIR[row].T, own.down, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(up_BRO[row].T, own.up, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_each_sample_is_drawn_with_its_own_lora(
    components: SDXLComponents,
    network: HyperLoRA,
    coefficients: torch.Tensor,
    asked: dict[str, torch.Tensor],
    per_sample: bool,
) -> None:
    # Given three people, and weights that are the same for all or differ
    weights = [0.8, -0.5, 0.0] if per_sample else [0.8] * 3
    scale = network.config.alpha_over_rank
    factors = network.id_bases.mix_batch(coefficients)

    # When the batch is drawn with a LoRA for each sample
    with (
        torch.no_grad(),
        grouped(components.unet, factors, scale * torch.tensor(weights) if per_sample else scale * 0.8),
    ):
        together = predict(components.unet, asked)

    # Then each row is what the UNet with that LoRA merged predicts, and not what the plain one does
    for row, weight in enumerate(weights):
        alone = merged(components.unet, [(network.lora(coefficients[row]), weight)], asked, row)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        plain = predict(components.unet, asked)
    assert (together[0] - plain[0]).abs().max() > 1e-2


@pytest.mark.parametrize("way", ["nested", "joined"])
def test_both_branches_with_switches_of_their_own(
    components: SDXLComponents, network: HyperLoRA, coefficients: torch.Tensor, asked: dict[str, torch.Tensor], way: str
) -> None:
    # Given ID for all and Base for the first and the last
    alpha = network.config.alpha_over_rank
    assert network.base_bases is not None
    id_factors = network.id_bases.mix_batch(coefficients)
    base_factors = network.base_bases.mix_batch(coefficients.flip(0))
    id_on, base_on = alpha * torch.ones(3), alpha * torch.tensor([1.0, 0.0, 1.0])

    # When both are on
    with torch.no_grad():
        if way == "nested":
            with grouped(components.unet, id_factors, id_on), grouped(components.unet, base_factors, base_on):
                together = predict(components.unet, asked)
        else:
            with grouped(components.unet, joined([(id_factors, id_on), (base_factors, base_on)])):
                together = predict(components.unet, asked)

    # Then each row is what both merged give
    for row, weight in enumerate((1.0, 0.0, 1.0)):
        loras = [(network.lora(coefficients[row]), 1.0), (network.lora(coefficients[2 - row], "base"), weight)]
        torch.testing.assert_close(
            together[row : row + 1], merged(components.unet, loras, asked, row), rtol=1e-5, atol=1e-5
        )


def test_gradients_reach_factors_and_are_the_same_with_checkpointing(
    components: SDXLComponents, network: HyperLoRA, coefficients: torch.Tensor, asked: dict[str, torch.Tensor]
) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        unet = copy.deepcopy(components.unet)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        factors = {
            layer: (down.detach().requires_grad_(), up.detach().requires_grad_())
            for layer, (down, up) in network.id_bases.mix_batch(coefficients).items()
        }
        with grouped(unet, factors, 0.5):
            predict(unet, asked).square().mean().backward()
        found = [factor.grad for pair in factors.values() for factor in pair]
        assert all(parameter.grad is None for parameter in unet.parameters())
        return [grad for grad in found if grad is not None]

    plain, saved = gradients(False), gradients(True)
    assert len(plain) == len(saved) == 2 * len(network.config.projections)
    assert all(grad.abs().max() > 0 for grad in plain)
    for one, other in zip(plain, saved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def test_nothing_is_left_behind(
    components: SDXLComponents, network: HyperLoRA, coefficients: torch.Tensor, asked: dict[str, torch.Tensor]
) -> None:
    # Given a UNet, its names and weights
    unet = components.unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with torch.no_grad():
        plain = predict(unet, asked)

    # When a context ends with an error
    with pytest.raises(RuntimeError, match="half-way"), grouped(unet, network.id_bases.mix_batch(coefficients)):
        assert unet.state_dict().keys() == before.keys()
        raise RuntimeError("half-way")

    # Then the UNet is what it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert not any(module._forward_hooks for module in attention_projections(unet).values())
    with torch.no_grad():
        assert torch.equal(predict(unet, asked), plain)


def test_what_does_not_fit_is_told(
    components: SDXLComponents, network: HyperLoRA, coefficients: torch.Tensor, asked: dict[str, torch.Tensor]
) -> None:
    factors = network.id_bases.mix_batch(coefficients)
    layer, (down, up) = next(iter(factors.items()))
    with (
        pytest.raises(LoRAMismatch, match="no layer lora_unet_elsewhere"),
        grouped(components.unet, {"lora_unet_elsewhere": (down, up)}),
    ):
        pass
    with pytest.raises(LoRAMismatch, match="were wanted, found"), grouped(components.unet, {layer: (up, down)}):
        pass
    with pytest.raises(LoRAMismatch, match="one row per sample"), grouped(components.unet, factors, torch.ones(2)):
        pass
    with (
        pytest.raises(LoRAMismatch, match="LoRAs of 2 samples"),
        grouped(components.unet, chosen(factors, torch.tensor([0, 1]))),
    ):
        predict(components.unet, asked)
    with pytest.raises(LoRAMismatch, match="same layers"):
        joined([(factors, 1.0), ({layer: (down, up)}, 1.0)])
