"""On a GPU: products in 8 bits are those of their emulation, and pictures lose as little as on a CPU.

Run with `make gpu`. What is faster, and by how much, is measured by `bench/lossy.py --device cuda`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora import HyperLoRA, PortraitPipeline, Sample
from hyperlora.engine import EngineOptions
from hyperlora.lossy import CacheOptions, LossyOptions, fp8, int8
from hyperlora.lossy.kinds import KINDS
from hyperlora.mini import build_untrained_pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def needs_fp8() -> None:
    """Skip where the GPU has no 8-bit floats."""
    if torch.cuda.get_device_capability() < fp8.LEAST_CAPABILITY:
        pytest.skip(f"fp8 needs compute capability {fp8.LEAST_CAPABILITY}, found {torch.cuda.get_device_capability()}")


def layer(kind: str, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random tokens (1, M, I) in fp16, and a weight of SDXL's size in 8 bits with its scales."""
    dice = torch.Generator().manual_seed(tokens)
    x = torch.randn(1, tokens, 1280, generator=dice).half().cuda()
    weight_NOI = torch.randn(1, 1280, 1280, generator=dice).half().cuda()
    into, scales = torch.empty_like(weight_NOI, dtype=KINDS[kind].dtype), torch.empty(1, 1280, device="cuda")
    KINDS[kind].quantise(weight_NOI, into, scales)
    return x, into[0], scales[0]


@pytest.mark.parametrize("tokens", [1, 16, 17, 4096])
def test_integers_are_those_of_a_cpu(tokens: int) -> None:
    x, weight_OI, scale_O = layer("int8", tokens)
    found = int8.linear(x, weight_OI, scale_O, None)
    expected = int8.linear(x.cpu(), weight_OI.cpu(), scale_O.cpu(), None)
    # The integers are equal; one that lies between two may be rounded to the other neighbour
    torch.testing.assert_close(found.cpu(), expected, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("tokens", [1, 16, 77, 4096])
def test_8_bit_floats_are_those_of_the_emulation(tokens: int) -> None:
    needs_fp8()
    x, weight_OI, scale_O = layer("fp8", tokens)
    found, expected = (way(x, weight_OI, scale_O, None).float() for way in (fp8.linear, fp8.emulated))
    # Sums are of 14 bits on some GPUs, and the result of 8
    assert float((found - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("options", [LossyOptions("int8"), LossyOptions("fp8", CacheOptions(every=2))])
def test_compiled_pictures_are_those_of_eager_ones(tmp_path: Path, options: LossyOptions) -> None:
    # Given the mini pack in fp16, run eager and with compiled blocks, and two people
    if options.linears == "fp8":
        needs_fp8()
    pack = build_untrained_pack(tmp_path / "pack", seed=0)
    network = HyperLoRA.from_pretrained(pack / "hyperlora", device="cuda", dtype=torch.float16)
    samples = [Sample(prompt=f"portrait {n} in a garden", seed=n, guidance=4.0) for n in range(4)]
    drawn: list[list[Image.Image]] = []
    for compiled in ("off", "blocks"):
        pipeline = PortraitPipeline.from_pretrained(
            pack / "sdxl", device="cuda", dtype=torch.float16, engine=EngineOptions(compile=compiled)
        )
        pipeline.use(options)
        pipeline.engine.warm(128, 128, 4)
        before, pictures = pipeline.engine.compilations, []
        # When both are drawn, one after the other
        for person in range(2):
            dice = torch.Generator().manual_seed(person)
            shape = (1, network.resampler.latents.shape[1], network.config.bases)
            unit = torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1)
            pipeline.apply([(network.lora(unit.to("cuda", torch.float16)), 0.8)])
            pictures += pipeline.draw(samples, width=128, height=128, steps=8).images
        assert pipeline.engine.compilations == before
        drawn.append(pictures)
    # Then compiled code sees each person's copies
    errors = [np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean() for a, b in zip(*drawn, strict=True)]
    assert max(errors) < 4, errors
