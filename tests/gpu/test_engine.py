"""On a GPU in fp16: every way of running draws the same pictures, and no change of person compiles or captures anew.

Bars: PSNR of at least 40 dB in the median and 30 dB at worst against the eager UNet. Run with `make gpu`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Sample
from hyperlora.compiler import PROVING, EngineOptions
from hyperlora.mini import build_untrained_pack
from hyperlora.pace import Pace
from hyperlora.shapes import Shape
from hyperlora.stand_in import stand_in, stand_in_timestep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIDE, BATCH = 128, 4
SETTING = {"width": SIDE, "height": SIDE, "steps": 8}
SAMPLES = [Sample(prompt=f"portrait {n} in a garden", seed=n, guidance=3.0 + n % 5) for n in range(BATCH)]
EAGER = EngineOptions(cache_text=False)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained_pack(tmp_path_factory.mktemp("pack") / "pack", seed=0)


def load(pack: Path, options: EngineOptions) -> PortraitPipeline:
    return PortraitPipeline.from_pretrained(pack / "sdxl", device="cuda", dtype=torch.float16, engine=options)


def people(pack: Path, count: int) -> list[LoRA]:
    network = HyperLoRA.from_pretrained(pack / "hyperlora", device="cuda", dtype=torch.float16)
    dice = torch.Generator().manual_seed(0)
    shape = (1, network.resampler.latents.shape[1], network.config.bases)
    unit = [torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1) for _ in range(count)]
    return [network.lora(each.to("cuda", torch.float16)) for each in unit]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two 8 bit pictures; infinite when they are equal."""
    error = float(((np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(),
        EngineOptions(fuse_qkv=True),
        EngineOptions(compile="blocks", fuse_qkv=True),
        EngineOptions(compile="whole"),
    ],
    ids=["text once", "fused", "blocks", "whole"],
)
def test_every_way_draws_the_same_and_people_change_without_compiling(pack: Path, options: EngineOptions) -> None:
    # Given the eager way, another that is warm for one person and for several, and eight people
    plain, other, crowd = load(pack, EAGER), load(pack, options), people(pack, 8)
    for rank in (None, crowd[0].stacks[0].rank):
        other.engine.warm(SIDE, SIDE, BATCH, rank=rank)
    compiled = other.engine.compilations

    # When each is merged and drawn, and four of them together
    pictures: list[list[Image.Image]] = []
    for pipeline in (plain, other):
        drawn: list[Image.Image] = []
        for somebody in crowd:
            pipeline.apply([(somebody, 0.8)])
            drawn += pipeline.draw(SAMPLES, **SETTING).images
        drawn += pipeline.draw(SAMPLES, stacks=[[(each, 0.8)] for each in crowd[:BATCH]], **SETTING).images
        pictures.append(drawn)

    # Then the pictures are the same to the eye, and nothing was compiled, nor left to be
    found = sorted(psnr(a, b) for a, b in zip(*pictures, strict=True))
    assert found[len(found) // 2] >= 40, f"median {found[len(found) // 2]:.1f} dB"
    assert found[0] >= 30, f"worst {found[0]:.1f} dB"
    assert other.engine.compilations == compiled and not other.engine.wanted


def test_a_thousand_changes_of_person_compile_nothing_and_leave_no_trace(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given compiled blocks, where a miss of the code is an error, and the picture of nobody
    monkeypatch.setattr("hyperlora.compiler.DRAWING", PROVING)
    pipeline, crowd = load(pack, EngineOptions(compile="blocks", fuse_qkv=True)), people(pack, 10)
    pipeline.engine.warm(SIDE, SIDE, 1)
    before = pipeline.draw(SAMPLES[:1], **SETTING).images
    compiled = pipeline.engine.compilations

    # When a thousand people are merged, one after the other, and some are drawn
    for number in range(1000):
        pipeline.apply([(crowd[number % 10], 0.5 + number / 2000)])
        if number % 100 == 0:
            pipeline.draw(SAMPLES[:1], **SETTING)
    pipeline.restore()

    # Then nobody's picture is what it was, bit for bit
    assert pipeline.engine.compilations == compiled
    assert np.array_equal(pipeline.draw(SAMPLES[:1], **SETTING).images[0], before[0])


def test_a_captured_graph_sees_who_is_merged(pack: Path) -> None:
    # Given one step of the UNet, captured while nobody is merged
    pipeline, (somebody,) = load(pack, EngineOptions()), people(pack, 1)
    unet, shape = pipeline.components.unet, Shape(SIDE, SIDE, 2, 77)
    latents, conditioning = stand_in(unet, shape, pipeline.size_step)
    latents.normal_()

    def step() -> torch.Tensor:
        inputs = {"encoder_hidden_states": conditioning.tokens_BTC, "added_cond_kwargs": conditioning.added}
        noise: torch.Tensor = unet(latents, stand_in_timestep(unet), return_dict=False, **inputs)[0]
        return noise

    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        graph.replay()
        nobody = captured.clone()

        # When somebody is merged and the graph is run again
        pipeline.apply([(somebody, 1.0)])
        graph.replay()

        # Then it computes with the merged weights
        assert torch.allclose(captured, step(), rtol=1e-2, atol=1e-2)
        assert not torch.allclose(captured, nobody, rtol=1e-2, atol=1e-2)


def test_the_host_is_never_more_than_two_steps_ahead() -> None:
    # Given work that takes a while, and a pace
    device = torch.device("cuda")
    matrix, pace, done = torch.randn(4096, 4096, device=device), Pace(device), []

    # When ten steps are asked for
    ends = []
    for number in range(10):
        for _ in range(20):
            torch.mm(matrix, matrix)
        ends.append(torch.cuda.Event())
        ends[-1].record()
        pace.step()
        done.append(sum(each.query() for each in ends) >= number + 1 - 2)

    # Then all but the last two were done at every moment
    assert all(done)
