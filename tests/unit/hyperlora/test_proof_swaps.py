"""A thousand people through one UNet, and a broken one among them: the next picture is as if nobody had been there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from tiny_sdxl import SIZE, tiny_unet

from hyperlora import LoRA, LoRALayer, PortraitPipeline, Sample, WeightMerger
from hyperlora.errors import LoRAMismatch, NonFiniteWeights
from hyperlora.merge import attention_projections


def person(unet: UNet2DConditionModel, seed: int, *, only: str = "", rank: int = 8) -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    return LoRA(
        {
            name: LoRALayer(
                torch.randn(rank, layer.in_features, generator=generator) * 0.1,
                torch.randn(layer.out_features, rank, generator=generator) * 0.1,
                alpha=rank / 2,
            )
            for name, layer in attention_projections(unet).items()
            if only in name
        }
    )


def bits(unet: UNet2DConditionModel) -> str:
    """SHA-256 of every parameter's and buffer's bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_thousand_swaps_and_a_restore_change_no_bit(dtype: torch.dtype) -> None:
    # Given two people, B with fewer layers than A, and what the UNet is with nobody, A or B merged
    torch.manual_seed(1)
    unet = tiny_unet().to(dtype)
    nobody = bits(unet)
    merger = WeightMerger(unet)
    a, b = [(person(unet, 1), 0.8)], [(person(unet, 2, only="attn2"), -0.7), (person(unet, 3, only="to_v"), 0.3)]
    merger.merge(a)
    with_a = bits(unet)
    merger.merge(b)
    with_b = bits(unet)
    assert len({nobody, with_a, with_b}) == 3
    # When they are swapped a thousand times, A-B-A-B..., looked at now and then
    for swap in range(1, 1001):
        merger.merge(a if swap % 2 else b)
        if swap % 250 in (0, 1):
            assert bits(unet) == (with_a if swap % 2 else with_b), swap
    # Then the last is B, bit for bit, and without anybody the UNet is what it was
    assert bits(unet) == with_b
    merger.restore()
    assert bits(unet) == nobody


def picture(pipeline: PortraitPipeline, seed: int = 5) -> Image.Image:
    return pipeline.draw([Sample("a man in a garden", seed)], width=SIZE, height=SIZE, steps=3).images[0]


def broken_loras(good: LoRA) -> Iterator[tuple[str, list[tuple[LoRA, float]], type[Exception]]]:
    """Every way in which one person's LoRA can be bad."""
    first, *_, last = good.layers
    for value in (float("nan"), float("inf"), float("-inf")):
        for name in (first, last):
            layer = good.layers[name]
            for part in ("down", "up"):
                factors = {"down": layer.down.clone(), "up": layer.up.clone()}
                factors[part][-1, -1] = value
                bad = LoRA({**good.layers, name: LoRALayer(**factors, alpha=layer.alpha)})
                yield f"{value} in {part} of {name}", [(bad, 0.8)], NonFiniteWeights
        with_alpha = LoRALayer(good.layers[last].down, good.layers[last].up, value)
        yield f"alpha {value}", [(LoRA({**good.layers, last: with_alpha}), 0.8)], NonFiniteWeights
        yield f"weight {value}", [(good, value)], NonFiniteWeights
    layer = good.layers[last]
    huge = LoRA({**good.layers, last: LoRALayer(layer.down * 1e30, layer.up * 1e30, layer.alpha)})
    yield "a product beyond float32", [(good, 0.8), (huge, 1.0)], NonFiniteWeights
    # Two infinities of opposite sign make NaN in the sum only.
    yield "an overflow that cancels", [(huge, 1.0), (huge, -1.0)], NonFiniteWeights
    wider = LoRALayer(torch.ones(2, layer.down.shape[1] + 1), torch.ones(layer.up.shape[0], 2), 1.0)
    yield "a wrong shape", [(LoRA({**good.layers, last: wider}), 0.8)], LoRAMismatch
    yield "a strange layer", [(LoRA({**good.layers, "lora_unet_x_to_q": layer}), 0.8)], LoRAMismatch


def test_a_broken_lora_cannot_reach_the_next_persons_picture(fresh_pipeline: PortraitPipeline) -> None:
    # Given the pictures of nobody, of Ada and of Alan
    pipeline, unet = fresh_pipeline, fresh_pipeline.components.unet
    ada, alan = person(unet, 1), person(unet, 2, only="attn2")
    pictures = {}
    for name, loras in (("nobody", []), ("ada", [(ada, 0.8)]), ("alan", [(alan, 0.8)])):
        pipeline.apply(loras)
        pictures[name] = picture(pipeline).tobytes()
    assert len(set(pictures.values())) == 3
    count = 0
    for what, loras, error in broken_loras(ada):
        # When a broken LoRA follows Ada
        pipeline.apply([(ada, 0.8)])
        with pytest.raises(error):
            pipeline.apply(loras)
        # Then a picture drawn now shows nobody, the next person's is Alan's own, and Ada comes back as she was
        assert picture(pipeline).tobytes() == pictures["nobody"], what
        pipeline.apply([(alan, 0.8)])
        assert picture(pipeline).tobytes() == pictures["alan"], what
        pipeline.apply([(ada, 0.8)])
        assert picture(pipeline).tobytes() == pictures["ada"], what
        count += 1
    assert count == 3 * (4 + 2) + 4


def test_nan_with_weight_zero_is_nan_still(fresh_pipeline: PortraitPipeline) -> None:
    # 0 times NaN is NaN, so "switched off" is no excuse.
    lora = person(fresh_pipeline.components.unet, 1)
    next(iter(lora.layers.values())).up[0, 0] = torch.nan
    before = bits(fresh_pipeline.components.unet)
    with pytest.raises(NonFiniteWeights):
        fresh_pipeline.apply([(lora, 0.0)])
    assert bits(fresh_pipeline.components.unet) == before
