"""The autoencoder in half precision, and its decoder by compiled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sdxl import SIZE, tiny_pipeline, tiny_vae

from hyperlora import PortraitPipeline, Sample
from hyperlora.compiler import Compiler, EngineOptions
from hyperlora.components import SDXLComponents
from hyperlora.vae_call import VaeDecoder
from hyperlora.vae_range import fit_half

LATENTS = torch.randn((3, 4, SIZE // 8, SIZE // 8), generator=torch.Generator().manual_seed(1))
PIXELS = torch.rand((2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(2)) * 2 - 1


def loud_vae(loudness: float = 2e5) -> Any:
    """An autoencoder like the trained one: inside, numbers are far beyond what float16 holds."""
    torch.manual_seed(5)
    vae = tiny_vae().eval().requires_grad_(False)
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight *= loudness
        for module in part.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.normal_(1, 0.3)
                module.bias.normal_(0, 0.3)
            if type(module).__name__ == "ResnetBlock2D":
                module.conv2.weight *= loudness / 10
    return vae


def test_smaller_numbers_inside_change_nothing_outside() -> None:
    # Given an autoencoder in full precision
    vae = loud_vae()
    decoded, encoded = vae.decode(LATENTS).sample, vae.encode(PIXELS).latent_dist.mode()

    # When the numbers inside are made smaller
    fit_half(vae)

    # Then it gives the same
    assert torch.allclose(vae.decode(LATENTS).sample, decoded, rtol=0, atol=1e-6)
    assert torch.allclose(vae.encode(PIXELS).latent_dist.mode(), encoded, rtol=0, atol=1e-6)


def test_an_autoencoder_that_overflows_in_half_precision_does_not_any_more() -> None:
    # Given one whose pictures are NaN in half precision
    vae = loud_vae()
    decoded, encoded = vae.decode(LATENTS).sample, vae.encode(PIXELS).latent_dist.mode()
    vae.half()
    assert not torch.isfinite(vae.decode(LATENTS.half()).sample).all()
    assert not torch.isfinite(vae.encode(PIXELS.half()).latent_dist.mode()).all()

    # When the numbers inside are made smaller
    fit_half(vae)

    # Then both ways are those of full precision, but for half precision's rounding
    assert error(vae.decode(LATENTS.half()).sample, decoded) < 0.003
    assert error(vae.encode(PIXELS.half()).latent_dist.mode(), encoded) < 0.003


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The mean difference, as a share of what is wanted."""
    return float((found.float() - wanted).abs().mean() / wanted.std())


def test_a_half_precision_model_decodes_in_half_precision(tmp_path: Path) -> None:
    # Given a model whose autoencoder says that it does not stand half precision, which is true
    pipe = tiny_pipeline(tmp_path)
    pipe.vae = loud_vae(2e3)  # this model's latents are a hundred times as large
    pipe.vae.register_to_config(force_upcast=True)
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(pipe.to(torch.float16)))

    # When a picture is drawn, then it is one
    (picture,) = pipeline.draw([Sample("a cat", seed=1, guidance=2.0)], width=SIZE, height=SIZE, steps=2).images
    assert pipeline.components.vae.dtype == torch.float16
    assert np.asarray(picture, dtype=float).std() > 10


def test_a_few_pictures_less_than_a_compiled_pass_are_filled_up() -> None:
    # Given a decoder of four at once, compiled for one size, and room for three in it
    plain, vae = tiny_decoder_pair()
    compiler = Compiler(EngineOptions(compile="whole", backend="eager", room=1.4))
    decoder = VaeDecoder(vae, compiler)
    seen: list[int] = []
    decode = vae.decode

    def counted(latents: torch.Tensor, **options: Any) -> Any:
        seen.append(len(latents))
        return decode(latents, **options)

    vae.decode = counted

    with torch.inference_mode():
        decoder.warm(SIZE // 8, SIZE // 8, 4)
        compiled = compiler.compilations

        # When three pictures are decoded, and one of another size
        pictures, tall = decoder(LATENTS), decoder(LATENTS[:1].repeat(1, 1, 2, 1))
        one = decoder(LATENTS[:1])

    # Then there are three, as without, one alone is not four times the work, and nothing was compiled again
    assert seen == [4, 4, 4, 1, 1] and torch.allclose(one, pictures[:1], rtol=0, atol=1e-5)
    assert torch.allclose(pictures, plain.decode(LATENTS).sample, rtol=0, atol=1e-5)
    assert tall.shape == (1, 3, 2 * SIZE, SIZE)
    assert compiler.compilations == compiled


def tiny_decoder_pair() -> tuple[Any, Any]:
    torch.manual_seed(5)
    first, second = tiny_vae().eval().requires_grad_(False), tiny_vae().eval().requires_grad_(False)
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_an_engine_that_compiles_nothing_decodes_what_is_there(at_once: int) -> None:
    plain, vae = tiny_decoder_pair()
    decoder = VaeDecoder(vae, Compiler(EngineOptions()))
    with torch.inference_mode():
        decoder.warm(SIZE // 8, SIZE // 8, at_once)
        assert torch.equal(decoder(LATENTS), plain.decode(LATENTS).sample)
