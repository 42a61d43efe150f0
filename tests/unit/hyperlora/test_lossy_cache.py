"""Deep features kept over steps: what a short step is, when it is taken, and that nothing outlives a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from sdxl_pictures import box_mask, distance, draw, person, photo, tiny_controlnet
from tiny_sdxl import tiny_pipeline

from hyperlora import Control, ControlNet, HyperLoRA, PortraitPipeline, Region, Sample
from hyperlora.components import SDXLComponents
from hyperlora.engine import EngineOptions
from hyperlora.errors import LossyMismatch
from hyperlora.lossy import CacheOptions, LossyOptions
from hyperlora.lossy.cache import short_step, whole_step
from hyperlora.lossy.schedule import whole_steps

SAMPLE = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0)
OTHER = Sample("a garden", seed=3, guidance=2.0)
SECOND = LossyOptions(cache=CacheOptions(every=2, first=0.0))


@pytest.mark.parametrize(
    ("every", "first", "conditions", "expected"),
    [
        (1, 0.0, "aaaa", "WWWW"),
        (2, 0.0, "aaaaa", "WsWsW"),
        (3, 0.0, "aaaaaaa", "WssWssW"),
        (2, 0.5, "aaaaaa", "WWWsWs"),  # 3 of 6 at the beginning
        (2, 0.3, "aaaaa", "WWsWs"),  # ceil(1.5)
        (4, 1.0, "aaaa", "WWWW"),
        (4, 0.0, "aabbbbb", "WsWsssW"),  # another ControlNet is at work from the third step on
        (16, 0.0, "aab", "WsW"),
        (2, 0.0, "a", "W"),
        (2, 0.5, "", ""),
    ],
)
def test_which_steps_are_whole(every: int, first: float, conditions: str, expected: str) -> None:
    found = whole_steps(CacheOptions(every=every, first=first), conditions)
    assert "".join("W" if whole else "s" for whole in found) == expected


def step_inputs(unet: Any, size: tuple[int, int], *, controlled: bool) -> tuple[list[Any], Any, Any]:
    """A step's sample, time, text and pooled text; what ControlNets add to the skips; and to the middle."""
    dice = torch.Generator().manual_seed(4)
    sample = torch.randn(2, 4, *size, generator=dice)
    tokens = torch.randn(2, 77, unet.config.cross_attention_dim, generator=dice)
    added = {"text_embeds": torch.randn(2, 32, generator=dice), "time_ids": torch.randn(2, 6, generator=dice).abs()}
    given = [sample, torch.tensor(400.0), tokens, added]
    if not controlled:
        return given, None, None
    down: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda module, args, out: down.extend(out[1])) for block in unet.down_blocks]
    handles.append(unet.conv_in.register_forward_hook(lambda module, args, out: down.append(out)))
    middle = unet.mid_block.register_forward_hook(lambda module, args, out: down.append(out))
    unet(sample, given[1], encoder_hidden_states=tokens, added_cond_kwargs=added)
    for handle in (*handles, middle):
        handle.remove()
    noise = [torch.randn(each.shape, generator=dice) for each in down]
    return given, tuple(noise[:-1]), noise[-1]


@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "with a ControlNet"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)], ids=["even", "uneven"])
@torch.inference_mode()
def test_a_whole_step_is_the_unets_own_and_a_short_one_goes_on_from_it(
    sdxl: StableDiffusionXLPipeline, size: tuple[int, int], controlled: bool
) -> None:
    # Given one step's inputs
    unet = sdxl.unet
    given, residuals, middle = step_inputs(unet, size, controlled=controlled)
    sample, time, tokens, added = given

    # When the UNet itself walks it, a whole step, and a short one on what the deep part just gave
    expected = unet(
        sample, time, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False,
        down_block_additional_residuals=residuals, mid_block_additional_residual=middle,
    )[0]  # fmt: skip
    found, deep = whole_step(unet, 1, *given, residuals, middle)
    short = short_step(unet, 1, *given, residuals, deep)

    # Then all three are equal to the last bit
    assert found.equal(expected) and short.equal(expected)
    # And with another deep part the short step gives something else
    assert not short_step(unet, 1, *given, residuals, deep * 0.9).equal(expected)


def middles(pipeline: PortraitPipeline, *samples: Sample, **asked: Any) -> tuple[list[Any], int]:
    """The pictures, and in how many steps the middle of the UNet was computed."""
    calls: list[int] = []
    handle = pipeline.components.unet.mid_block.register_forward_hook(lambda *_: calls.append(1))
    try:
        return draw(pipeline, *samples, **asked).images, len(calls)
    finally:
        handle.remove()


def test_every_step_is_exact_and_every_second_is_near(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA
) -> None:
    # Given a person's picture of eight steps, and a picture of nobody
    pipeline = fresh_pipeline
    nobody, _ = middles(pipeline, SAMPLE, steps=8)
    pipeline.apply([(person(unet_network, 1), 1.0)])
    exact, steps = middles(pipeline, SAMPLE, steps=8)
    # When the deep part is computed in every step, in half of them, and exactly again
    pipeline.use(LossyOptions(cache=CacheOptions(every=1)))
    same, every = middles(pipeline, SAMPLE, steps=8)
    pipeline.use(SECOND)
    near, second = middles(pipeline, SAMPLE, steps=8)
    pipeline.use(None)
    again, _ = middles(pipeline, SAMPLE, steps=8)

    # Then it is computed so often, and the pictures are equal or near
    assert (steps, every, second) == (8, 8, 4)
    assert distance(same[0], exact[0]) == distance(again[0], exact[0]) == 0
    assert 0 < distance(near[0], exact[0]) < distance(nobody[0], exact[0])


@pytest.mark.parametrize("guided", [True, False])
def test_a_picture_does_not_depend_on_its_neighbours(fresh_pipeline: PortraitPipeline, guided: bool) -> None:
    # Given samples with guidance or without
    samples = [Sample(one.prompt, one.seed, guidance=one.guidance if guided else 1.0) for one in (SAMPLE, OTHER)]
    fresh_pipeline.use(SECOND)
    # When they are drawn together and apart, then the pictures are the same but for rounding
    together = draw(fresh_pipeline, *samples).images
    for sample, picture in zip(samples, together, strict=True):
        assert distance(draw(fresh_pipeline, sample).images[0], picture) <= 1


class Stopped(Exception):
    """Somebody wants no more of it."""


def test_an_aborted_batch_leaves_nothing_behind(fresh_pipeline: PortraitPipeline) -> None:
    # Given a picture, drawn with the cache
    fresh_pipeline.use(SECOND)
    (alone,) = draw(fresh_pipeline, SAMPLE).images

    # When another batch, of other size, ends between a whole and a short step
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise Stopped

    with pytest.raises(Stopped):
        draw(fresh_pipeline, OTHER, OTHER, width=128, on_step=stop)

    # Then the picture is the same, and nothing of the batch is kept
    assert distance(draw(fresh_pipeline, SAMPLE).images[0], alone) == 0
    assert not any(isinstance(value, torch.Tensor) for value in vars(fresh_pipeline.lossy).values())


def test_a_picture_to_start_from_and_a_mask(fresh_pipeline: PortraitPipeline) -> None:
    # Given a picture of which the left half is drawn anew, in 3 of 6 steps
    mask = box_mask((0, 0, 32, 64))
    sample = Sample("a hat", seed=5, guidance=3.0, image=photo(1), mask=mask)
    (exact,), _ = middles(fresh_pipeline, sample, steps=6, strength=0.5)
    fresh_pipeline.use(SECOND)
    # When the cache is on
    (near,), calls = middles(fresh_pipeline, sample, steps=6, strength=0.5)
    # Then the walked steps are planned, not all, and what is kept of the picture is kept
    assert calls == 2 and distance(near, exact) > 0
    box = (40, 0, 64, 64)
    assert distance(near.crop(box), exact.crop(box)) == 0


def test_regions_act_in_short_steps_too(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given two people side by side
    regions = [
        Region(((person(unet_network, seed), 3.0),), box_mask(box), words)
        for seed, box, words in ((1, (0, 0, 32, 64), "a hat"), (2, (32, 0, 64, 64), ""))
    ]
    (exact,), _ = middles(fresh_pipeline, SAMPLE, regions=regions, steps=8)
    (without,), _ = middles(fresh_pipeline, SAMPLE, steps=8)
    # When the cache is on, then the picture is near theirs
    fresh_pipeline.use(SECOND)
    (near,), calls = middles(fresh_pipeline, SAMPLE, regions=regions, steps=8)
    assert calls == 4 and 0 < distance(near, exact) < distance(near, without)


def test_several_people_in_a_batch_keep_their_own(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    fresh_pipeline.use(SECOND)
    stacks = [[(person(unet_network, seed), 1.0)] for seed in (1, 2)]
    together = draw(fresh_pipeline, SAMPLE, OTHER, stacks=stacks).images
    for sample, stack, picture in zip((SAMPLE, OTHER), stacks, together, strict=True):
        fresh_pipeline.apply(stack)
        assert distance(draw(fresh_pipeline, sample).images[0], picture) <= 1


@pytest.fixture(scope="module")
def net(sdxl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> ControlNet:
    return ControlNet.from_pretrained(tiny_controlnet(tmp_path_factory.mktemp("control"), sdxl.unet))


@pytest.mark.parametrize(("start", "end", "whole"), [(0.0, 1.0, 4), (0.0, 0.4, 5), (0.3, 1.0, 5)])
def test_what_a_controlnet_adds_does_not_outlive_it(
    fresh_pipeline: PortraitPipeline, net: ControlNet, start: float, end: float, whole: int
) -> None:
    # Given a ControlNet that acts in all of eight steps, in the first three, or from the fourth on
    sample = Sample(SAMPLE.prompt, SAMPLE.seed, guidance=3.0, control=(photo(21),))
    controls = [Control(net, 0.7, start, end)]
    (exact,), _ = middles(fresh_pipeline, sample, controls=controls, steps=8)
    (without,), _ = middles(fresh_pipeline, Sample(SAMPLE.prompt, SAMPLE.seed, guidance=3.0), steps=8)
    # When the cache is on
    fresh_pipeline.use(SECOND)
    (near,), calls = middles(fresh_pipeline, sample, controls=controls, steps=8)
    # Then the step in which it comes or goes is whole, and it acts
    assert calls == whole
    assert 0 < distance(near, exact) < distance(near, without)


def test_compiled_blocks_are_used_in_short_steps(tmp_path: Path) -> None:
    # Given blocks that are traced, with 8-bit layers, and the same model run eager
    options = LossyOptions("int8", SECOND.cache)
    engine = EngineOptions(compile="blocks", backend="eager")
    pictures: list[Sequence[Any]] = []
    for each in (None, engine):
        pipeline = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)), engine=each)
        pipeline.use(options)
        pipeline.engine.warm(64, 64, 1)
        before = pipeline.engine.compilations
        pictures.append(draw(pipeline, SAMPLE).images)
        assert pipeline.engine.compilations == before
    # Then their pictures are the same but for rounding, and drawing compiled nothing
    assert distance(pictures[0][0], pictures[1][0]) <= 1


def test_a_unet_in_one_piece_cannot_be_cut_short(tmp_path: Path) -> None:
    engine = EngineOptions(compile="whole", backend="eager")
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)), engine=engine)
    with pytest.raises(LossyMismatch, match="PORTRAITS_COMPILE=blocks"):
        pipeline.use(SECOND)


def test_something_deep_must_be_left(fresh_pipeline: PortraitPipeline) -> None:
    with pytest.raises(LossyMismatch, match="from 1 to 1 for this UNet, which has 2 up blocks, found 2"):
        fresh_pipeline.use(LossyOptions(cache=CacheOptions(blocks=2)))
    assert fresh_pipeline.lossy.options.told == {}
