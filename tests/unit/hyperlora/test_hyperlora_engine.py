"""The engine: compiled or not, filled up or not, every way of running the UNet draws the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sdxl import SIZE, tiny_pipeline

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Region, Sample
from hyperlora.compiler import PROVING
from hyperlora.components import SDXLComponents
from hyperlora.engine import EngineOptions
from hyperlora.errors import CompilationFailed, InvalidRequest
from hyperlora.grouped import factors_of
from hyperlora.shapes import Shape, fitting, to_rank, worthwhile
from hyperlora.stand_in import stand_in, stand_in_timestep

SETTING = {"width": SIZE, "height": SIZE, "steps": 2}
SAMPLES = [
    Sample("a cat in a hat", seed=1, guidance=5.0),
    Sample("an old man", seed=2, guidance=3.0, negative_prompt="blurry"),
    Sample("a garden", seed=3, guidance=2.0),
    Sample("the sea", seed=4, guidance=2.0),
]
# What is compiled, without a C++ compiler: PyTorch traces, and runs what it traced.
TRACED = EngineOptions(compile="blocks", backend="eager")


def make(folder: Path, options: EngineOptions | None = None) -> PortraitPipeline:
    """Always the same tiny model, run in a way of its own."""
    return PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(folder)), engine=options)


def person(network: HyperLoRA, seed: int) -> LoRA:
    """A strong LoRA of somebody."""
    dice = torch.Generator().manual_seed(seed)
    shape = (1, len(network.resampler.latents[0]), network.config.bases)
    return network.lora(torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1)).scaled(3.0)


def distance(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a byte."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def alike(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> bool:
    return len(some) == len(others) and all(distance(a, b) <= 1 for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(cache_text=False),
        EngineOptions(fuse_qkv=True),
        TRACED,
        replace(TRACED, fuse_qkv=True, channels_last=True),
    ],
    ids=["text at every step", "fused", "blocks", "blocks fused, channels last"],
)
def test_every_way_of_running_draws_the_same(tmp_path: Path, unet_network: HyperLoRA, options: EngineOptions) -> None:
    # Given the plain way and another, two people, and a shape that is warm
    plain, other = make(tmp_path), make(tmp_path, options)
    ada, alan = person(unet_network, 1), person(unet_network, 2)
    other.engine.warm(SIZE, SIZE, 2)
    other.engine.warm(SIZE, SIZE, 2, rank=4)
    compiled = other.engine.compilations

    # When both draw somebody merged, somebody else, two people at once, and nobody
    pictures = []
    for pipeline in (plain, other):
        drawn = []
        for merged in ([(ada, 1.0)], [(alan, 0.7)]):
            pipeline.apply(merged)
            drawn += pipeline.draw(SAMPLES[:2], **SETTING).images
        drawn += pipeline.draw(SAMPLES[:2], stacks=[[(ada, 1.0)], [(alan, 0.7)]], **SETTING).images
        drawn += pipeline.draw(SAMPLES[:2], **SETTING).images
        pictures.append(drawn)

    # Then the pictures are the same, the people are not, and nothing was compiled while drawing
    assert alike(*pictures)
    assert distance(pictures[0][0], pictures[0][2]) > 10 and distance(pictures[0][0], pictures[0][6]) > 10
    assert distance(pictures[0][0], pictures[0][4]) <= 1
    assert other.engine.compilations == compiled
    assert (compiled > 0) == (options.compile != "off")
    assert not other.engine.wanted


def test_no_change_of_person_misses_the_compiled_code(
    tmp_path: Path, unet_network: HyperLoRA, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a warm engine
    pipeline = make(tmp_path, TRACED)
    pipeline.engine.warm(SIZE, SIZE, 1)
    pipeline.engine.warm(SIZE, SIZE, 1, rank=4)
    people = [person(unet_network, seed) for seed in range(4)]

    # When many people are drawn, one after the other, where a miss of the compiled code is an error
    monkeypatch.setattr("hyperlora.compiler.DRAWING", PROVING)
    pipeline.engine.warm(2 * SIZE, SIZE, 1)
    pictures = []
    for somebody in people:
        pipeline.apply([(somebody, 1.0)])
        pictures += pipeline.draw(SAMPLES[:1], **SETTING).images
        pictures += pipeline.draw(SAMPLES[:1], stacks=[[(somebody, -1.0)]], **SETTING).images

    # Then all are drawn by the same code, and each as themselves
    assert not pipeline.engine.wanted
    assert all(distance(one, other) > 5 for one, other in pairwise(pictures))


def test_a_batch_that_is_nearly_full_is_filled_up_to_the_compiled_shape(
    tmp_path: Path, unet_network: HyperLoRA
) -> None:
    # Given code for four pictures, and room for three in it
    plain, pipeline = make(tmp_path), make(tmp_path, replace(TRACED, room=1.4))
    pipeline.engine.warm(SIZE, SIZE, 4)
    pipeline.engine.warm(SIZE, SIZE, 4, rank=4)
    seen: list[int] = []
    pipeline.components.unet.conv_in.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    stacks = [[(person(unet_network, seed), 1.0)] for seed in range(3)]

    # When three pictures are drawn, of nobody and of three people
    found = pipeline.draw(SAMPLES[:3], **SETTING).images + pipeline.draw(SAMPLES[:3], stacks=stacks, **SETTING).images
    wanted = plain.draw(SAMPLES[:3], **SETTING).images + plain.draw(SAMPLES[:3], stacks=stacks, **SETTING).images

    # Then the UNet saw eight rows, and three pictures came out, as they are without
    assert set(seen) == {8} and len(seen) == 4
    assert alike(found, wanted)


def test_what_is_not_warm_runs_eager_and_is_remembered_for_later(tmp_path: Path) -> None:
    # Given code for one picture only
    plain, pipeline = make(tmp_path), make(tmp_path, TRACED)
    pipeline.engine.warm(SIZE, SIZE, 1)
    compiled = pipeline.engine.compilations

    # When three are drawn, twice, and once two of another size
    found = pipeline.draw(SAMPLES[:3], **SETTING).images
    pipeline.draw(SAMPLES[:3], **SETTING)
    pipeline.draw(SAMPLES[:2], width=SIZE, height=2 * SIZE, steps=1)

    # Then they are right, nothing was compiled, and the shape that came most is the first to be warmed
    assert alike(found, plain.draw(SAMPLES[:3], **SETTING).images)
    assert pipeline.engine.compilations == compiled
    most = Shape(SIZE, SIZE, 6, 77)
    assert pipeline.engine.wanted[most] == 2
    assert pipeline.engine.warm_wanted() == most
    now = pipeline.engine.compilations
    assert now > compiled

    # And from then on it is drawn by compiled code
    assert alike(pipeline.draw(SAMPLES[:3], **SETTING).images, found)
    assert pipeline.engine.compilations == now
    assert most not in pipeline.engine.wanted
    assert pipeline.engine.warm_wanted() == Shape(SIZE, 2 * SIZE, 4, 77)
    assert pipeline.engine.warm_wanted() is None


def test_a_shape_that_could_not_be_compiled_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a shape that was missed once, and a device that has no room to compile for it
    pipeline = make(tmp_path, TRACED)
    engine = pipeline.engine
    pipeline.draw(SAMPLES[:1], **SETTING)
    (shape,) = engine.wanted
    assert engine.most_wanted(at_least=1) == shape and engine.most_wanted(at_least=2) is None

    def no_room(_engine: object, _shape: Shape) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(type(engine), "_call_once", no_room)
        engine.warm_wanted()

    # When it is missed again, and asked for, then nobody tries again, though there would be room
    assert engine.want(SIZE, SIZE, 1, times=5) == shape and engine.warm_wanted() is None
    pipeline.draw(SAMPLES[:1], **SETTING)
    assert engine.wanted[shape] == 6 and engine.most_wanted() is None

    # And another shape that was asked for is compiled
    other = engine.want(SIZE, 2 * SIZE, 1, rank=4, times=3)
    assert engine.warm_wanted(at_least=3) == other and other in engine.warmed


def test_a_whole_unet_may_be_compiled_and_regions_drawn_beside_it(tmp_path: Path, unet_network: HyperLoRA) -> None:
    # Given a region with somebody in it, and a UNet that is compiled whole for the same shape
    plain, pipeline = make(tmp_path), make(tmp_path, replace(TRACED, compile="whole"))
    pipeline.engine.warm(SIZE, SIZE, 1)
    compiled = pipeline.engine.compilations
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    region = Region(((person(unet_network, 1), 1.0),), mask, "a hat")

    # When it is drawn, and after it a picture without
    pictures = [
        each.draw(SAMPLES[:1], regions=[region], **SETTING).images + each.draw(SAMPLES[:1], **SETTING).images
        for each in (plain, pipeline)
    ]

    # Then both are as they are without compiled code, and nothing was compiled again
    assert alike(*pictures)
    assert distance(pictures[0][0], pictures[0][1]) > 3
    assert pipeline.engine.compilations == compiled


def test_a_batch_that_is_given_up_leaves_nothing_behind(tmp_path: Path, unet_network: HyperLoRA) -> None:
    # Given an engine
    plain, pipeline = make(tmp_path), make(tmp_path)

    class Enough(Exception):
        """The caller wants no more."""

    def stop(_done: int, _steps: int) -> None:
        raise Enough

    # When a batch of two people is given up after the first step
    with pytest.raises(Enough):
        pipeline.draw(SAMPLES[:2], stacks=[[(person(unet_network, n), 1.0)] for n in (1, 2)], on_step=stop, **SETTING)

    # Then neither their LoRAs nor their texts are in the next picture
    other = [replace(SAMPLES[0], prompt="somebody else")]
    assert pipeline.draw(other, **SETTING).images == plain.draw(other, **SETTING).images


def test_the_way_of_running_may_change_later(tmp_path: Path) -> None:
    # Given a pipeline with compiled code
    plain, pipeline = make(tmp_path), make(tmp_path, replace(TRACED, fuse_qkv=True))
    pipeline.engine.warm(SIZE, SIZE, 1)

    # When it is run eager, and compiled again
    pictures = []
    for options in (EngineOptions(), TRACED):
        pipeline.run_with(options)
        assert (pipeline.engine.warm(SIZE, SIZE, 1) > 0.0) == (options.compile != "off")
        compiled = pipeline.engine.compilations
        pictures += pipeline.draw(SAMPLES[:1], **SETTING).images
        assert pipeline.engine.compilations == compiled

    # Then the pictures stay, and only the second has compiled code
    assert alike(pictures, plain.draw(SAMPLES[:1], **SETTING).images * 2)
    assert pipeline.engine.warmed


def test_what_the_compiler_cannot_do_is_told(tmp_path: Path) -> None:
    # Given a compiler that is none
    def broken(_graph: object, _inputs: object) -> object:
        raise RuntimeError("no C++ compiler found")

    pipeline = make(tmp_path, replace(TRACED, backend=broken))

    # When a shape is warmed, the reason is told
    with pytest.raises(CompilationFailed, match=r"no code can be compiled for 64x64.*no C\+\+ compiler"):
        pipeline.engine.warm(SIZE, SIZE, 1)

    # And pictures are drawn all the same
    assert not pipeline.engine.warmed
    assert alike(pipeline.draw(SAMPLES[:1], **SETTING).images, make(tmp_path).draw(SAMPLES[:1], **SETTING).images)


def test_code_that_is_not_found_again_is_told_while_warming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a UNet that is called with another memory layout every time
    pipeline = make(tmp_path, TRACED)
    layouts = iter([torch.contiguous_format, torch.channels_last, torch.contiguous_format])
    before = pipeline.components.unet.conv_in.register_forward_hook(
        lambda _m, _i, output: output.contiguous(memory_format=next(layouts))
    )

    # When a shape is warmed, then it is not taken for compiled
    with pytest.raises(CompilationFailed, match="64x64"):
        pipeline.engine.warm(SIZE, SIZE, 1)
    before.remove()
    assert not pipeline.engine.warmed


def test_a_compiled_whole_fills_nothing_up_for_controlnets_it_has_no_code_for(tmp_path: Path) -> None:
    # Given an engine that would fill three rows up to four
    pipeline = make(tmp_path, EngineOptions(compile="whole", backend="eager", room=2.0))
    shape = Shape(SIZE, SIZE, 4, 77)
    pipeline.engine.warmed.add(shape)
    _, conditioning = stand_in(pipeline.components.unet, replace(shape, rows=3), 8)
    sample = torch.zeros(3, 4, SIZE // 8, SIZE // 8)
    seen: list[int] = []
    pipeline.components.unet.conv_in.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))

    # When it is called with a ControlNet at work and without
    for controlled in (True, False):
        with (
            torch.inference_mode(),
            pipeline.engine.drawing(conditioning, width=SIZE, height=SIZE, controlled=controlled) as call,
        ):
            call(
                sample,
                stand_in_timestep(pipeline.components.unet),
                encoder_hidden_states=conditioning.tokens_BTC,
                added_cond_kwargs=conditioning.added,
                return_dict=False,
            )

    # Then only the latter was filled up
    assert seen == [3, 4]


def test_each_lora_of_a_batch_is_read_once_whatever_the_order_of_its_layers(unet_network: HyperLoRA) -> None:
    # Given one LoRA as it was made, and another as it was read from a file, whose layers are in another order
    ada, alan = person(unet_network, 1), LoRA.from_bytes(person(unet_network, 2).to_bytes())
    assert [each.names for each in ada.stacks] != [each.names for each in alan.stacks]

    # When four rows are made of them, two of one person with different weights
    factors = factors_of([[(ada, 0.5)], [(alan, 1.0)], [(ada, 0.5)], [(ada, 2.0)]])

    # Then each row has its own change
    for name, (down_BIR, up_BRO) in factors.items():
        assert down_BIR.shape[2] == 8
        for row, (lora, weight) in enumerate([(ada, 0.5), (alan, 1.0), (ada, 0.5), (ada, 2.0)]):
            wanted = weight * lora.layers[name].delta()
            assert torch.allclose((down_BIR[row] @ up_BRO[row]).T, wanted, atol=1e-5), (name, row)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"compile": "everything"}, "off, blocks, whole"),
        ({"room": 0.5}, "at least 1"),
        ({"mode": "reduce-overhead"}, "CUDA graphs"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        EngineOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "compiled", "room", "wanted"),
    [
        (16, [16], 1.0, 16),
        (14, [16, 32], 1.18, 16),  # 16 / 14 = 1.14
        (13, [16, 32], 1.18, None),  # 16 / 13 = 1.23
        (13, [14, 16], 1.3, 14),  # the smaller one
        (17, [16], 2.0, None),  # never fewer rows than pictures
    ],
)
def test_a_batch_takes_the_smallest_compiled_shape_with_room(
    rows: int, compiled: list[int], room: float, wanted: int | None
) -> None:
    shapes = {Shape(1024, 1024, each, 77) for each in compiled}
    shapes |= {Shape(896, 1024, rows, 77), Shape(1024, 1024, rows, 154), Shape(1024, 1024, rows, 77, 8)}
    found = fitting(Shape(1024, 1024, rows, 77), shapes, room)
    assert (found and found.rows) == wanted


@pytest.mark.parametrize(("rows", "most", "wanted"), [(5, 16, 6), (6, 16, 6), (13, 14, 14), (100, 100, 100)])
def test_what_is_worth_compiling_has_a_usual_number_of_rows_and_no_more_than_was_seen(
    rows: int, most: int, wanted: int
) -> None:
    assert worthwhile(Shape(64, 64, rows, 77), most).rows == wanted


@pytest.mark.parametrize(("rank", "wanted"), [(1, 8), (8, 8), (9, 16), (32, 32), (33, 64), (64, 64)])
def test_ranks_are_filled_up_to_a_few(rank: int, wanted: int) -> None:
    assert to_rank(rank) == wanted
