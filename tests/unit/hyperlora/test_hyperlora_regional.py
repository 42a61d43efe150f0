"""Several people in one picture: each region's LoRAs and words act there, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sdxl_pictures import box_mask, distance, draw, person, photo, pixels, tiny_controlnet
from tiny_sdxl import SIZE, tiny_pipeline

from hyperlora import Control, ControlNet, HyperLoRA, LoRA, LoRALayer, PortraitPipeline, Region, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, LoRAMismatch, NonFiniteWeights
from hyperlora.prompts import PromptEmbedding
from hyperlora.regional import regional_attention

WHITE = Image.new("L", (SIZE, SIZE), 255)
LEFT, RIGHT = box_mask((0, 0, SIZE // 2, SIZE)), box_mask((SIZE // 2, 0, SIZE, SIZE))
SAMPLE = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0)


@pytest.fixture(scope="module")
def people(unet_network: HyperLoRA) -> list[LoRA]:
    """Two people, strong enough to be seen."""
    return [person(unet_network, seed).scaled(10.0) for seed in (1, 2)]


@pytest.mark.parametrize("size", [(64, 64), (80, 48), (72, 40)])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_one_white_region_is_the_merged_lora(
    fresh_pipeline: PortraitPipeline, people: list[LoRA], size: tuple[int, int], guidance: float
) -> None:
    # Given a person in a region that is the whole picture, also at sizes that do not halve evenly
    settings = {"width": size[0], "height": size[1]}
    sample = replace(SAMPLE, guidance=guidance)
    plain = draw(fresh_pipeline, sample, **settings).images[0]
    regional = draw(fresh_pipeline, sample, regions=[Region(((people[0], 0.8),), WHITE)], **settings).images[0]
    # When the person is merged into the weights instead
    fresh_pipeline.apply([(people[0], 0.8)])
    merged = draw(fresh_pipeline, sample, **settings).images[0]
    # Then the pictures are equal within one step of 255
    assert distance(regional, merged) <= 1
    assert distance(regional, plain) > 20


def test_regions_act_on_top_of_what_is_applied(fresh_pipeline: PortraitPipeline, people: list[LoRA]) -> None:
    # Given one LoRA merged, and two in a region
    a, b = people
    fresh_pipeline.apply([(b, -0.3)])
    regional = draw(fresh_pipeline, SAMPLE, regions=[Region(((a, 0.8), (b, 0.5)), WHITE)]).images[0]
    # Then it is as if all were merged
    fresh_pipeline.apply([(b, -0.3), (a, 0.8), (b, 0.5)])
    assert distance(regional, draw(fresh_pipeline, SAMPLE).images[0]) <= 1


def test_overlapping_regions_share(fresh_pipeline: PortraitPipeline, people: list[LoRA]) -> None:
    # Given one person in two regions that both are the whole picture
    regional = draw(fresh_pipeline, SAMPLE, regions=[Region(((people[0], 0.8),), WHITE)] * 2).images[0]
    # Then the person is there once, not twice
    fresh_pipeline.apply([(people[0], 0.8)])
    assert distance(regional, draw(fresh_pipeline, SAMPLE).images[0]) <= 1


def _module_weights(pipeline: PortraitPipeline, name: str, loras: list[LoRA]) -> list[dict[str, torch.Tensor]]:
    """Dense weights of one attention: plain, and with each LoRA."""
    attn = pipeline.components.unet.get_submodule(name)
    out = []
    for lora in (None, *loras):
        weights = {}
        for part, linear in (
            ("to_q", attn.to_q),
            ("to_k", attn.to_k),
            ("to_v", attn.to_v),
            ("to_out_0", attn.to_out[0]),
        ):
            layer = lora.layers[f"lora_unet_{name.replace('.', '_')}_{part}"] if lora else None
            weights[part] = linear.weight + (layer.delta() if layer else 0)
        out.append(weights)
    return out


def _by_place(x_BNC: torch.Tensor, weights: list[torch.Tensor], owner_N: torch.Tensor) -> torch.Tensor:
    """Each token times the weight of whoever owns it."""
    return torch.stack([x_BNC[:, n] @ weights[owner].T for n, owner in enumerate(owner_N.tolist())], dim=1)


def _softmax_attention(heads: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (scores @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
@torch.inference_mode()
def test_each_token_is_treated_by_its_region(pipeline: PortraitPipeline, people: list[LoRA], kind: str) -> None:
    # Given one person in the first two columns of eight, another in the last three, nobody between
    name = f"down_blocks.1.attentions.0.transformer_blocks.0.{kind}"
    unet = pipeline.components.unet
    attn = unet.get_submodule(name)
    regions = [
        Region(((people[0], 1.0),), box_mask((0, 0, 16, SIZE))),
        Region(((people[1], 1.0),), box_mask((40, 0, SIZE, SIZE))),
    ]
    owner_N = torch.tensor([1, 1, 0, 0, 0, 2, 2, 2]).repeat(8)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 64, attn.to_q.in_features, generator=generator)
    tokens = torch.randn(2, 5, 64, generator=generator) if kind == "attn2" else None
    # When the attention is computed with the regions
    with regional_attention(unet, regions, [None, None], latent_size=(8, 8)):
        ours = attn(hidden, encoder_hidden_states=tokens)
    # Then it is what dense weights of each token's own give
    weights = _module_weights(pipeline, name, people)
    q = _by_place(hidden, [each["to_q"] for each in weights], owner_N)
    if tokens is None:
        k, v = (_by_place(hidden, [each[part] for each in weights], owner_N) for part in ("to_k", "to_v"))
        attended = _softmax_attention(attn.heads, q, k, v)
    else:
        each_way = [_softmax_attention(attn.heads, q, tokens @ w["to_k"].T, tokens @ w["to_v"].T) for w in weights]
        attended = torch.stack([each_way[owner][:, n] for n, owner in enumerate(owner_N.tolist())], dim=1)
    expected = _by_place(attended, [each["to_out_0"] for each in weights], owner_N) + attn.to_out[0].bias
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(ours, attn(hidden, encoder_hidden_states=tokens), atol=1e-2)


@torch.inference_mode()
def test_masks_are_averaged_over_the_grid(pipeline: PortraitPipeline, people: list[LoRA]) -> None:
    # Given a mask of another size than the picture that covers a quarter of the first token
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    unet = pipeline.components.unet
    attn = unet.get_submodule(name)
    lora = LoRA({key: layer for key, layer in people[0].layers.items() if key.endswith("attn1_to_out_0")})
    hidden = torch.randn(1, 64, attn.to_q.in_features, generator=torch.Generator().manual_seed(0))
    plain, out = attn(hidden), {}
    for mask in (box_mask((0, 0, 2, 2), (32, 32)), Image.new("L", (16, 16), 255)):
        with regional_attention(unet, [Region(((lora, 1.0),), mask)], [None], latent_size=(8, 8)):
            out[mask.size] = attn(hidden)
    # Then that token changes by a quarter of what it does in a white region, and no other changes
    change, full = out[32, 32] - plain, out[16, 16] - plain
    assert torch.allclose(change[:, 0], full[:, 0] / 4, atol=1e-5)
    assert not change[:, 1:].any()


def test_a_region_with_words_is_drawn_with_them(fresh_pipeline: PortraitPipeline) -> None:
    # Given words for a region that is the whole picture
    sample = replace(SAMPLE, guidance=9.0)
    regional = draw(fresh_pipeline, sample, regions=[Region((), WHITE, "a red hat")]).images[0]
    # When the words stand in the prompt, but the pooled vector, which has no place, is that of the plain prompt
    long = f"{SAMPLE.prompt}, a red hat"
    encoder = fresh_pipeline.prompts
    encoder._cache[long, False] = PromptEmbedding(
        encoder.encode(long).tokens_TC, encoder.encode(SAMPLE.prompt).pooled_P
    )
    # Then the pictures are equal within one step of 255
    assert distance(regional, draw(fresh_pipeline, replace(sample, prompt=long)).images[0]) <= 1
    assert distance(regional, draw(fresh_pipeline, sample).images[0]) > 3


def test_trigger_words_stand_before_a_regions_words_too(fresh_pipeline: PortraitPipeline) -> None:
    fresh_pipeline.trigger_words = "fcsks"
    region = Region((), LEFT, "red hat")
    draw(fresh_pipeline, replace(SAMPLE, prompt=""), regions=[region])
    draw(fresh_pipeline, SAMPLE, regions=[region])
    draw(fresh_pipeline, replace(SAMPLE, trigger_words=False), regions=[region])
    encoded = [text for text, _ in fresh_pipeline.prompts._cache]
    assert {"fcsks", "fcsks, red hat", f"fcsks, {SAMPLE.prompt}, red hat", f"{SAMPLE.prompt}, red hat"} <= set(encoded)


def test_two_people_stand_side_by_side(pipeline: PortraitPipeline, people: list[LoRA]) -> None:
    # Given two people, left and right, then changed about
    a, b = people
    both = draw(pipeline, SAMPLE, regions=[Region(((a, 0.8),), LEFT), Region(((b, 0.8),), RIGHT)]).images[0]
    swapped = draw(pipeline, SAMPLE, regions=[Region(((b, 0.8),), LEFT), Region(((a, 0.8),), RIGHT)]).images[0]
    # Then it matters who stands where, and that both are there
    assert distance(both, swapped) > 8
    assert distance(both, draw(pipeline, SAMPLE, regions=[Region(((a, 0.8),), LEFT)]).images[0]) > 8


@pytest.mark.parametrize("words", ["", "red hat"])
def test_a_regional_picture_does_not_depend_on_its_batch(
    pipeline: PortraitPipeline, people: list[LoRA], words: str
) -> None:
    # Given samples of which one becomes two chunks long by the region's words (the tokenizer knows letters only)
    samples = [
        SAMPLE,
        replace(SAMPLE, prompt="m" * 73, seed=2),
        replace(SAMPLE, prompt="a cat", negative_prompt="", guidance=7.0),
    ]
    assert [pipeline.prompt_chunks(sample) for sample in samples] == [1, 1, 1]
    assert pipeline.prompt_chunks(replace(samples[1], prompt=samples[1].prompt + ", red hat")) == 2
    regions = [Region(((people[0], 0.8),), LEFT, words), Region(((people[1], 0.8),), box_mask((20, 10, 64, 50)))]
    alone = [draw(pipeline, sample, regions=regions).images[0] for sample in samples]
    # When drawn together, then every picture is the one drawn alone
    for order in ((0, 1, 2), (2, 0, 1)):
        drawn = draw(pipeline, *(samples[index] for index in order), regions=regions).images
        assert max(distance(image, alone[index]) for index, image in zip(order, drawn, strict=True)) <= 1


def test_regions_go_with_controls_and_given_pictures(
    pipeline: PortraitPipeline, people: list[LoRA], tmp_path: Path
) -> None:
    # Given everything at once
    net = ControlNet.from_pretrained(tiny_controlnet(tmp_path, pipeline.components.unet))
    sample = replace(SAMPLE, image=photo(1), mask=box_mask((8, 8, 56, 56)), control=(photo(2),))
    settings: dict[str, Any] = {"strength": 0.8, "controls": [Control(net, 0.7, 0.0, 0.7)]}
    regional = draw(pipeline, sample, regions=[Region(((people[0], 0.8),), WHITE)], **settings).images[0]
    # Then a white region is still the merged LoRA
    try:
        pipeline.apply([(people[0], 0.8)])
        assert distance(regional, draw(pipeline, sample, **settings).images[0]) <= 1
    finally:
        pipeline.restore()


def test_the_attention_is_as_before_after_a_drawing_and_after_an_abort(
    pipeline: PortraitPipeline, people: list[LoRA]
) -> None:
    # Given a plain picture
    plain = draw(pipeline, SAMPLE).images[0]
    before = dict(pipeline.components.unet.attn_processors)
    regions = [Region(((people[0], 0.8),), LEFT, "red hat")]

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    # When a drawing with regions ends, is aborted, or fails
    draw(pipeline, SAMPLE, regions=regions)
    assert pipeline.components.unet.attn_processors == before
    with pytest.raises(Stop):
        draw(pipeline, SAMPLE, regions=regions, on_step=stop)
    # Then the attention is the same as before, and nobody is left in the next picture
    assert pipeline.components.unet.attn_processors == before
    assert distance(draw(pipeline, SAMPLE).images[0], plain) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_regions_in_half_precision(tmp_path: Path, people: list[LoRA], dtype: torch.dtype) -> None:
    # Given a half-precision model, and LoRAs in another precision
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path).to(dtype)))
    half = people[0].scaled(0.1).to(dtype=torch.float16)
    regional = draw(pipeline, SAMPLE, regions=[Region(((half, 0.8),), WHITE), Region(((half, 0.8),), LEFT)])
    # Then the picture is the merged one, as near as that precision allows
    pipeline.apply([(half, 0.8)])
    merged = draw(pipeline, SAMPLE).images[0]
    difference = abs(pixels(regional.images[0]) - pixels(merged))
    assert difference.mean() < (1 if dtype == torch.float16 else 6)


def test_regions_that_cannot_be_drawn_are_refused(pipeline: PortraitPipeline, people: list[LoRA]) -> None:
    name, layer = next(iter(people[0].layers.items()))
    stranger = LoRA({"lora_unet_x_to_q": layer})
    broken = LoRA({name: LoRALayer(layer.down * float("nan"), layer.up, layer.alpha)})
    black = Image.new("L", (SIZE, SIZE), 0)
    for region, error, message in (
        (Region(((people[0], 1.0),), WHITE.convert("RGB")), InvalidRequest, "region 1 .* found mode RGB"),
        (Region(((people[0], 1.0),), black), InvalidRequest, "black everywhere"),
        (Region(((people[0], float("nan")),), WHITE), NonFiniteWeights, "finite number"),
        (Region(((stranger, 1.0),), WHITE), LoRAMismatch, "lora_unet_x_to_q"),
        (Region(((broken, 1.0),), WHITE), NonFiniteWeights, "NaN or infinity"),
    ):
        with pytest.raises(error, match=message):
            draw(pipeline, SAMPLE, regions=[region])
