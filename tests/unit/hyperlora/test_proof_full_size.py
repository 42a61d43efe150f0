"""The released network and SDXL's UNet of full size: a LoRA of photos, merged, a look at 128 pixels, restored.

In half precision, as they are used. Needs 12 GB of memory; seconds and memory are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from full_size import Watch, anonymous_bytes, released_network, sdxl_unet, watched

from hyperlora import WeightMerger
from hyperlora.merge import attention_projections

MOST_BYTES = 13 * 10**9


@torch.no_grad()
def look(unet: UNet2DConditionModel) -> torch.Tensor:
    """The UNet's answer for a picture of 128 pixels: latents of 16 x 16."""
    generator = torch.Generator().manual_seed(4)
    answer: torch.Tensor = unet(
        torch.randn(1, 4, 16, 16, generator=generator).to(unet.dtype),
        torch.tensor(500),
        encoder_hidden_states=torch.randn(1, 77, 2048, generator=generator).to(unet.dtype),
        added_cond_kwargs={
            "text_embeds": torch.randn(1, 1280, generator=generator).to(unet.dtype),
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]).to(unet.dtype),
        },
    ).sample
    return answer.float()


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_full_size_lora_merged_into_a_full_size_unet(record_property: Callable[[str, object], None]) -> None:
    watches: dict[str, Watch] = {}
    began = anonymous_bytes()
    with watched() as watches["all"]:
        # Given both, in bfloat16
        with watched() as watches["make the hypernetwork"]:
            network = released_network(torch.bfloat16)
        with watched() as watches["make the UNet"]:
            unet = sdxl_unet(torch.bfloat16)
        assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684
        assert sum(parameter.numel() for parameter in network.parameters()) == 1_569_513_600
        with watched() as watches["copy the pristine weights"]:
            merger = WeightMerger(unet)
        assert len(merger.layers) == 560
        assert sum(out * inside for out, inside in merger.shapes.values()) == 955_187_200
        # When a LoRA is made of two photos
        generator = torch.Generator().manual_seed(3)
        read = torch.randn(2, 512, generator=generator), torch.randn(2, 257, 1024, generator=generator)
        with watched() as watches["coefficients"]:
            coefficients = network.coefficients(*read)
        assert coefficients.shape == (1, 1120, 128)
        torch.testing.assert_close(coefficients.norm(dim=-1), torch.ones(1, 1120))
        with watched() as watches["fingerprint"]:
            assert len(network.fingerprint) == 64
        with watched() as watches["LoRA"]:
            lora = network.lora(coefficients)
        # Then it has the released numbers
        assert sum(layer.down.numel() + layer.up.numel() for layer in lora.layers.values()) == 11_612_160
        assert lora.shapes == merger.shapes
        with watched() as watches["look"]:
            plain = look(unet)
        assert plain.shape == (1, 4, 16, 16)
        assert torch.isfinite(plain).all()
        # And merged, every weight is W + 0.8 * 0.5 * up @ down, rounded once; looked at in one layer of each shape
        weights = {name: layer.weight for name, layer in attention_projections(unet).items()}
        chosen = {tuple(weight.shape): name for name, weight in weights.items()}
        assert set(chosen) == {(1280, 1280), (1280, 2048), (640, 640), (640, 2048)}
        pristine = {name: weights[name].clone() for name in chosen.values()}
        with watched() as watches["merge"]:
            merger.merge([(lora, 0.8)])
        for name, before in pristine.items():
            layer = lora.layers[name]
            exact = before.double() + 0.8 * 0.5 * (layer.up.double() @ layer.down.double())
            error = (weights[name].double() - exact).abs()
            assert (error <= torch.finfo(torch.bfloat16).eps / 2 * 1.001 * exact.abs() + 1e-7).all(), name
            assert not torch.equal(weights[name], before)
        # And the UNet answers otherwise, and after restoring as before, bit for bit
        with_lora = look(unet)
        assert torch.isfinite(with_lora).all()
        assert (with_lora - plain).abs().max() > 0.02 * plain.abs().max()
        with watched() as watches["restore"]:
            merger.restore()
        assert all(torch.equal(weights[name], before) for name, before in pristine.items())
        assert torch.equal(look(unet), plain)
    # And all of it fits: 3.1 GB of network, 5.1 of UNet, 1.9 of pristine weights, and little beside
    told = "; ".join(f"{what} {watch}" for what, watch in watches.items())
    record_property("measured", f"full size, bfloat16, 128 px: {told}")
    held = watches["all"].peak_bytes - began
    assert 10.0e9 < held < MOST_BYTES
