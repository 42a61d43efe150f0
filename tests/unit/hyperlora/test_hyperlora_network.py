"""The hypernetwork against the description's arithmetic in plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import reference_hyperlora as reference
import torch
from safetensors.numpy import load_file

from hyperlora import HyperLoRA, HyperLoRAConfig, LoRA, interpolate, mix
from hyperlora.config import AttentionModule, Branch
from hyperlora.errors import CheckpointMismatch, FaceEncoderMismatch, InvalidRequest

MODULES = (
    AttentionModule("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1", 8, None),
    AttentionModule("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2", 8, 12),
    AttentionModule("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1", 6, None),
)
SMALL: dict[str, Any] = {
    "modules": MODULES, "rank": 3, "bases": 5, "width": 12, "depth": 2, "dim_head": 4, "inner": 8, "feed_forward": 20,
    "face_width": 7, "id_tokens": 2, "id_token_width": 9, "clip_width": 10, "alpha_over_rank": 0.75,
}  # fmt: skip


def make_network(**changes: Any) -> HyperLoRA:
    torch.manual_seed(5)
    network = HyperLoRA(HyperLoRAConfig(**{**SMALL, **changes}))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network


def conditions(photos: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(photos, 7, generator=generator), torch.randn(photos, 4, 10, generator=generator)


def released(network: HyperLoRA, folder: Path) -> dict[str, dict[str, Any]]:
    network.save_pretrained(folder)
    return {
        file.stem: {name: tensor.astype(np.float64) for name, tensor in load_file(file).items()}
        for file in folder.glob("*.safetensors")
    }


def expected_coefficients(
    files: dict[str, dict[str, Any]], faces: torch.Tensor, clips: torch.Tensor, streams: tuple[str, ...], branch: str
) -> Any:
    raw = []
    for face, clip in zip(faces.double().numpy(), clips.double().numpy(), strict=True):
        if branch == "base":
            raw.append(reference.resample(files["base_resampler"], clip, None, 2, 4))
            continue
        read = {"clip": clip}
        if "face" in streams:
            read["face"] = reference.project(files["id_projector"], face, tokens=2)
        x, *y = [read[stream] for stream in streams]
        raw.append(reference.resample(files["resampler"], x, y[0] if y else None, 2, 4))
    return reference.unit(sum(raw) / len(raw))


@pytest.mark.parametrize("streams", [("face", "clip"), ("clip",), ("face",)])
@pytest.mark.parametrize("photos", [1, 3])
@pytest.mark.parametrize("branch", get_args(Branch))
def test_network_is_the_described_arithmetic(
    streams: tuple[Any, ...], photos: int, branch: Branch, tmp_path: Path
) -> None:
    # Given a small network with random weights, and photos of one person
    network = make_network(streams=streams, base_rank=2)
    faces, clips = conditions(photos)
    files = released(network, tmp_path)
    # When it reads them
    coefficients = network.coefficients(faces, clips, branch)
    lora = network.generate(faces, clips, branch)
    # Then coefficients are those of the plain loops over the released tensors
    expected = expected_coefficients(files, faces, clips, streams, branch)
    assert coefficients.shape == (1, 24, 5)
    assert coefficients.dtype == torch.float32
    np.testing.assert_allclose(coefficients[0].numpy(), expected, atol=2e-6)
    # And every projection changes by scale * up^T down^T of the mixed bases
    names = list(lora.layers)
    assert len(names) == 12
    for index, name in enumerate(names):
        change = reference.weight_change(
            files["hyper_lora_modules"], expected, index // 4, index % 4, branch, scale=0.75
        )
        np.testing.assert_allclose(lora.layers[name].delta().numpy(), change, atol=5e-6)
        assert name.startswith(MODULES[index // 4].name)
    # And alpha / rank is the checkpoint's factor in both branches
    rank = 3 if branch == "id" else 2
    assert {(layer.rank, layer.alpha) for layer in lora.layers.values()} == {(rank, 0.75 * rank)}


def test_coefficients_lie_on_the_unit_sphere() -> None:
    coefficients = make_network().coefficients(*conditions(2))
    torch.testing.assert_close(coefficients.norm(dim=-1), torch.ones(1, 24))


def test_the_mean_over_photos_is_taken_before_the_normalisation() -> None:
    # Given two photos of one person
    network = make_network()
    faces, clips = conditions(2)
    both = network.coefficients(faces, clips)
    raw = network.raw_coefficients(faces, clips)
    # Then the order of photos does not matter, and the result is the normalised mean of raw outputs
    torch.testing.assert_close(network.coefficients(faces.flip(0), clips.flip(0)), both)
    mean = (raw[0] + raw[1]) / 2
    torch.testing.assert_close(both[0], mean / mean.norm(dim=-1, keepdim=True))
    # And not the mean of normalised ones
    units = torch.cat([network.coefficients(faces[i : i + 1], clips[i : i + 1]) for i in range(2)])
    assert (units.mean(dim=0) - both[0]).abs().max() > 1e-3


def test_raw_coefficients_keep_the_people_of_a_training_batch_apart() -> None:
    network = make_network()
    faces, clips = conditions(2)
    apart = torch.cat([network.raw_coefficients(faces[i : i + 1], clips[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(network.raw_coefficients(faces, clips), apart)
    assert apart.requires_grad


def test_a_two_stream_network_runs_with_stream_x_absent_as_in_stage_two_of_training() -> None:
    network = make_network()
    _, clips = conditions(1)
    without_face = network.raw_coefficients(None, clips)
    assert without_face.shape == (1, 24, 5)
    faces = torch.zeros(1, 7)
    assert (network.raw_coefficients(faces, clips) - without_face).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("faces", "clips", "error", "message"),
    [
        (None, torch.zeros(1, 4, 10), InvalidRequest, r"face embeddings \(N, 7\) were wanted, found none"),
        (torch.zeros(1, 7), None, InvalidRequest, r"CLIP tokens \(N, T, 10\) were wanted, found none"),
        (torch.zeros(2, 7), torch.zeros(1, 4, 10), InvalidRequest, r"one row per photo, found \[1, 2\]"),
        (torch.zeros(0, 7), torch.zeros(0, 4, 10), InvalidRequest, r"found shape \(0, 7\)"),
        (torch.zeros(1, 8), torch.zeros(1, 4, 10), FaceEncoderMismatch, "7 numbers, found 8"),
        (torch.zeros(1, 7), torch.zeros(1, 4, 11), CheckpointMismatch, "width 10, found width 11"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(
    faces: torch.Tensor | None, clips: torch.Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_network().generate(faces, clips)


def test_a_missing_branch_is_refused_by_name() -> None:
    network = make_network()
    with pytest.raises(CheckpointMismatch, match="branch 'base' was asked for, the checkpoint has id"):
        network.generate(None, conditions(1)[1], branch="base")


def test_coefficients_of_another_network_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"are \(1, 24, 5\), found \(2, 24, 5\)"):
        make_network().lora(torch.zeros(2, 24, 5))


def test_the_face_encoder_is_checked_by_name_and_width() -> None:
    network = make_network(face_encoder="opencv-yunet-sface")
    network.require_face_encoder("opencv-yunet-sface", 7)
    with pytest.raises(FaceEncoderMismatch, match="found 'insightface-antelopev2'"):
        network.require_face_encoder("insightface-antelopev2", 7)
    # A checkpoint that reads no face does not care.
    make_network(streams=("clip",)).require_face_encoder("anything", 3)


def test_half_precision_network_gives_nearly_the_same_lora() -> None:
    network = make_network()
    full = network.generate(*conditions(2))
    half = network.to(torch.float16).generate(*conditions(2))
    for name, layer in full.layers.items():
        assert half.layers[name].down.dtype == torch.float16
        error = (half.layers[name].delta() - layer.delta()).norm() / layer.delta().norm()
        assert error < 0.02


def test_interpolation_ends_at_both_people_and_stays_on_the_sphere() -> None:
    # Given two people
    network = make_network()
    a = network.coefficients(*[each[:1] for each in conditions(2)])
    b = network.coefficients(*[each[1:] for each in conditions(2)])
    # Then the ends are the people themselves, and the middle is the normalised sum
    torch.testing.assert_close(interpolate(a, b, 0.0), a)
    torch.testing.assert_close(interpolate(a, b, 1.0), b)
    middle = interpolate(a, b, 0.5)
    torch.testing.assert_close(middle, (a + b) / (a + b).norm(dim=-1, keepdim=True))
    torch.testing.assert_close(mix([(a, 3.0), (b, 3.0)]), middle)
    assert isinstance(network.lora(middle), LoRA)


def test_mix_refuses_nothing_and_strangers() -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        mix([])
    with pytest.raises(InvalidRequest, match="one shape"):
        mix([(torch.ones(1, 2, 3), 1.0), (torch.ones(1, 2, 4), 1.0)])


def test_the_lora_says_where_it_came_from() -> None:
    network = make_network(trigger_words="abc def")
    metadata = network.generate(*conditions(1)).metadata
    assert metadata["hyperlora_fingerprint"] == network.fingerprint
    assert metadata["hyperlora_branch"] == "id"
    assert metadata["hyperlora_trigger_words"] == "abc def"


def test_a_new_network_changes_nothing() -> None:
    # Given a network fresh from its constructor: up bases zero, down bases random
    network = HyperLoRA(HyperLoRAConfig(**SMALL))
    lora = network.generate(*conditions(1))
    assert all(not layer.delta().any() and layer.down.any() for layer in lora.layers.values())
