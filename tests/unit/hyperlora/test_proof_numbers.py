"""The released sizes, tensor by tensor, on the meta device; and the small number under the root.

The lists are written out from the description of the released files, not from the package's configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import reference_hyperlora as reference
import torch
from safetensors.numpy import load_file
from test_hyperlora_network import conditions, make_network
from torch import nn

from hyperlora import HyperLoRA, HyperLoRAConfig, mix
from hyperlora.coefficients import normalise

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def released() -> HyperLoRA:
    """The released network, without memory."""
    with torch.device("meta"):
        return HyperLoRA(HyperLoRAConfig.sdxl())


@pytest.fixture(scope="module")
def with_base() -> HyperLoRA:
    """The same with the Base branch that was never released."""
    with torch.device("meta"):
        return HyperLoRA(HyperLoRAConfig.sdxl(base_rank=4))


def modules() -> Iterator[tuple[str, int, int | None]]:
    """SDXL's 140 attention modules: name, width, width of what keys and values read (None: the pixels themselves)."""
    places = [
        *((f"down_blocks_1_attentions_{i}", 2, 640) for i in range(2)),
        *((f"down_blocks_2_attentions_{i}", 10, 1280) for i in range(2)),
        ("mid_block_attentions_0", 10, 1280),
        *((f"up_blocks_0_attentions_{i}", 10, 1280) for i in range(3)),
        *((f"up_blocks_1_attentions_{i}", 2, 640) for i in range(3)),
    ]
    for place, depth, width in places:
        for block in range(depth):
            yield f"lora_unet_{place}_transformer_blocks_{block}_attn1", width, None
            yield f"lora_unet_{place}_transformer_blocks_{block}_attn2", width, 2048


def bases(branch: str, rank: int) -> Shapes:
    shapes: Shapes = {}
    for index, (_, width, context) in enumerate(modules()):
        for projection in ("to_q", "to_k", "to_v", "to_out"):
            inside = context if context and projection in ("to_k", "to_v") else width
            shapes[f"{index}.{projection}.{branch}_down_basis"] = (128, inside, rank)
            shapes[f"{index}.{projection}.{branch}_up_basis"] = (128, rank, width)
    return shapes


def resampler(streams: int) -> Shapes:
    shapes: Shapes = {"latents": (1, 1120, 1024), "proj_out.weight": (128, 1024), "proj_out.bias": (128,)}
    norms, attentions = ["norm_attn1", "norm_attn2_l", "norm_attn2_x", "norm_ff"], [1, 2]
    shapes |= {"proj_in.weight": (1024, 1024), "proj_in.bias": (1024,)}
    if streams == 2:
        shapes |= {"proj_in_2.weight": (1024, 1024), "proj_in_2.bias": (1024,)}
        norms, attentions = [*norms, "norm_attn3_l", "norm_attn3_y"], [1, 2, 3]
    for n in range(4):
        shapes |= {f"layers.{n}.{norm}.{part}": (1024,) for norm in norms for part in ("weight", "bias")}
        for attention in attentions:
            shapes |= {f"layers.{n}.attn{attention}.{part}.weight": (768, 1024) for part in ("to_q", "to_k", "to_v")}
            shapes[f"layers.{n}.attn{attention}.to_out.0.weight"] = (1024, 768)
        shapes |= {f"layers.{n}.ff.net.0.proj.weight": (4096, 1024), f"layers.{n}.ff.net.0.proj.bias": (4096,)}
        shapes |= {f"layers.{n}.ff.net.2.weight": (1024, 4096), f"layers.{n}.ff.net.2.bias": (1024,)}
    return shapes


PROJECTOR: Shapes = {"0.weight": (16384, 512), "0.bias": (16384,), "2.weight": (1024,), "2.bias": (1024,)}


def numbers(shapes: Shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_the_released_files_hold_exactly_these_tensors(released: HyperLoRA) -> None:
    assert released.released_shapes() == {
        "hyper_lora_modules.safetensors": bases("id", 8),
        "resampler.safetensors": resampler(2),
        "id_projector.safetensors": PROJECTOR,
    }


def test_with_base_two_more_parts_hold_exactly_these_tensors(with_base: HyperLoRA) -> None:
    assert with_base.released_shapes() == {
        "hyper_lora_modules.safetensors": bases("id", 8) | bases("base", 4),
        "resampler.safetensors": resampler(2),
        "id_projector.safetensors": PROJECTOR,
        "base_resampler.safetensors": resampler(1),
    }


def test_the_counts_are_the_described_ones(released: HyperLoRA) -> None:
    # Given the lists above and the network's parameters, then both have the numbers that the description names
    assert numbers(bases("id", 8)) == 1_486_356_480
    assert numbers(resampler(2)) == 74_750_080
    assert numbers(PROJECTOR) == 8_407_040
    # No parameter lies outside the files, no buffer at all.
    assert sum(each.numel() for each in released.parameters()) == 1_486_356_480 + 74_750_080 + 8_407_040
    assert not list(released.buffers())
    # The bases in half precision: 2.97 GB
    assert round(2 * numbers(bases("id", 8)) / 1e9, 2) == 2.97


def test_modules_come_in_the_order_of_the_unet(released: HyperLoRA) -> None:
    found = [(each.name, each.hidden_size, each.cross_attention_dim) for each in released.config.modules]
    assert found == list(modules())
    assert len(found) == 140


@pytest.mark.parametrize(("branch", "rank"), [("id", 8), ("base", 4)])
def test_the_emitted_lora_has_560_layers_of_these_shapes(branch: str, rank: int, with_base: HyperLoRA) -> None:
    # When the bases are mixed by 1120 vectors of 128, without numbers
    bank = with_base.id_bases if branch == "id" else with_base.base_bases
    assert bank is not None
    layers = bank.mix(torch.empty(1120, 128, device="meta"))
    # Then its layers are these, in this order, with a factor of a half
    expected = []
    for name, width, context in modules():
        for projection in ("to_q", "to_k", "to_v", "to_out_0"):
            inside = context if context and projection in ("to_k", "to_v") else width
            expected.append((f"{name}_{projection}", (rank, inside), (width, rank), rank / 2))
    assert expected == [
        (name, tuple(each.down.shape), tuple(each.up.shape), each.alpha) for name, each in layers.items()
    ]
    assert {each.scale for each in layers.values()} == {0.5}
    total = sum(each.down.numel() + each.up.numel() for each in layers.values())
    assert total == 11_612_160 * rank // 8


def test_norms_and_heads_are_the_described_ones(with_base: HyperLoRA) -> None:
    for part in (with_base.resampler, with_base.base_resampler):
        assert part is not None
        attentions = [each for each in part.modules() if hasattr(each, "heads")]
        assert {each.heads for each in attentions} == {12}
        assert not [name for name, _ in part.named_parameters() if ".attn" in name and name.endswith("bias")]
    norms = [each for each in with_base.modules() if isinstance(each, nn.LayerNorm)]
    assert {(each.normalized_shape, each.eps) for each in norms} == {((1024,), 1e-5)}
    # One in the projector; 6 per block of two streams, 4 per block of one
    assert len(norms) == 1 + 4 * 6 + 4 * 4


def test_the_layer_of_text_and_the_names_around_the_checkpoint(released: HyperLoRA) -> None:
    config = released.config
    assert config.trigger_words == "fcsks fxhks fhyks"
    assert config.streams == ("face", "clip")
    assert config.prompt_hidden_layer == -2
    assert config.clip_vision == "openai/clip-vit-large-patch14"
    assert config.face_encoder == "insightface-antelopev2"


@pytest.mark.parametrize("size", [1e-5, 1e-4, 1.0])
def test_the_small_number_is_1e_minus_8_and_lies_under_the_root(size: float) -> None:
    # A vector (3, 4) * size / 5 has length `size`: then size / sqrt(size^2 + 1e-8).
    vector = torch.tensor([[[3.0, 4.0]]]) * size / 5
    expected = size / (size**2 + 1e-8) ** 0.5
    assert normalise(vector).norm().item() == pytest.approx(expected, rel=1e-5)
    assert mix([(vector, 1.0)]).norm().item() == pytest.approx(expected, rel=1e-5)
    # Half precision would round the small number to nothing.
    assert normalise(torch.zeros(1, 1, 2, dtype=torch.float16)).tolist() == [[[0.0, 0.0]]]


def test_quiet_networks_feel_the_small_number_in_the_same_place_as_the_plain_loops(tmp_path: Path) -> None:
    # Given a network whose raw coefficients are about as long as the root of 1e-8
    network = make_network()
    with torch.no_grad():
        network.resampler.proj_out.weight *= 5e-5
        network.resampler.proj_out.bias *= 5e-5
    network.save_pretrained(tmp_path)
    files = {
        path.stem: {name: tensor.astype(np.float64) for name, tensor in load_file(path).items()}
        for path in tmp_path.glob("*.safetensors")
    }
    faces, clips = conditions(2)
    # When two photos are read
    coefficients = network.coefficients(faces, clips)[0]
    # Then the mean is taken first and the small number added after, as in the loops
    raw = [
        reference.resample(files["resampler"], reference.project(files["id_projector"], face, tokens=2), clip, 2, 4)
        for face, clip in zip(faces.double().numpy(), clips.double().numpy(), strict=True)
    ]
    lengths = np.linalg.norm(sum(raw) / 2, axis=1)
    assert 1e-5 < lengths.mean() < 5e-4
    np.testing.assert_allclose(coefficients.numpy(), reference.unit(sum(raw) / 2), atol=1e-5)
    assert coefficients.norm(dim=-1).max() < 0.999
