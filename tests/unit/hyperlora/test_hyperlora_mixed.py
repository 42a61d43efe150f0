"""Several people in one batch: each picture is what merging that person's LoRAs would draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sdxl import SIZE

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Region, Sample
from hyperlora.errors import InvalidRequest, LoRAMismatch
from hyperlora.grouped import factors_of

SETTING = {"width": SIZE, "height": SIZE, "steps": 3}
SAMPLES = [
    Sample("a cat in a hat", seed=1, guidance=5.0),
    Sample("an old man", seed=2, guidance=3.0, negative_prompt="blurry"),
    Sample("a garden", seed=3, guidance=2.0),
]


def person(network: HyperLoRA, seed: int) -> LoRA:
    """A strong LoRA of somebody."""
    dice = torch.Generator().manual_seed(seed)
    shape = (1, len(network.resampler.latents[0]), network.config.bases)
    return network.lora(torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1)).scaled(3.0)


def only(lora: LoRA, part: str) -> LoRA:
    """The LoRA without the layers whose names lack a part."""
    return replace(lora, layers={name: layer for name, layer in lora.layers.items() if part in name})


@pytest.mark.parametrize("guided", [True, False])
def test_each_picture_is_what_merging_draws(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA, guided: bool
) -> None:
    # Given three samples: two LoRAs of one person, one of another with fewer layers, and nobody
    ada, alan = person(unet_network, 1), person(unet_network, 2)
    stacks = [[(ada, 0.8), (alan, -0.3)], [(only(alan, "attn2"), 1.0)], []]
    samples = SAMPLES if guided else [replace(sample, guidance=1.0) for sample in SAMPLES]

    # When they are drawn together, and each alone by merging
    together = fresh_pipeline.draw(samples, stacks=stacks, **SETTING).images
    pictures = []
    for sample, stack in zip(samples, stacks, strict=True):
        fresh_pipeline.apply(stack)
        pictures += fresh_pipeline.draw([sample], **SETTING).images
    fresh_pipeline.apply([])
    (plain,) = fresh_pipeline.draw([samples[0]], **SETTING).images

    # Then they are the same but for rounding, and the LoRAs count
    for one, other in zip(together, pictures, strict=True):
        assert distance(one, other) <= 1
    assert distance(together[0], plain) > 10


def test_what_was_applied_is_taken_out(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given somebody who is merged
    fresh_pipeline.apply([(person(unet_network, 1), 1.0)])

    # When others are drawn on activations
    fresh_pipeline.draw(SAMPLES[:1], stacks=[[(person(unet_network, 2), 1.0)]], **SETTING)

    # Then the weights are pristine
    assert fresh_pipeline.merger.is_pristine


def test_factors_are_padded_to_the_largest_rank(unet_network: HyperLoRA) -> None:
    ada, alan = person(unet_network, 1), person(unet_network, 2)
    factors = factors_of([[(ada, 0.5), (alan, 2.0)], [(only(alan, "attn1"), 1.0)]])
    assert factors.keys() == ada.layers.keys()
    for name, (down_BIR, up_BRO) in factors.items():
        rank = ada.layers[name].down.shape[0]
        assert down_BIR.shape[0] == up_BRO.shape[0] == 2 and down_BIR.shape[2] == up_BRO.shape[1] == 2 * rank
        expected = 0.5 * ada.layers[name].delta() + 2.0 * alan.layers[name].delta()
        torch.testing.assert_close((down_BIR[0] @ up_BRO[0]).T, expected, rtol=1e-4, atol=1e-6)
        own = alan.layers[name].delta() if "attn1" in name else torch.zeros_like(expected)
        torch.testing.assert_close((down_BIR[1] @ up_BRO[1]).T, own, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_drawn_together_is_refused(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    ada = person(unet_network, 1)
    region = Region(((ada, 1.0),), Image.new("L", (SIZE, SIZE), 255))
    for stacks, regions in (([[(ada, 1.0)]], []), ([[], []], []), ([[(ada, 1.0)], []], [region])):
        with pytest.raises(InvalidRequest, match="one list of LoRAs for each sample"):
            fresh_pipeline.draw(SAMPLES[:2], stacks=stacks, regions=regions, **SETTING)
    strange = replace(ada, layers={"lora_unet_nowhere": next(iter(ada.layers.values()))})
    with pytest.raises(LoRAMismatch, match="nowhere"):
        fresh_pipeline.draw(SAMPLES[:1], stacks=[[(strange, 1.0)]], **SETTING)


def distance(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of any pixel, in 1/255."""
    return int(np.abs(np.asarray(a).astype(np.int16) - np.asarray(b).astype(np.int16)).max())
