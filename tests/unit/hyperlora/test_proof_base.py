"""Base-LoRA from disk to picture: "Full" is ID and Base, each with its own weight; "ID" is ID alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference_hyperlora as reference
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_sdxl import SIZE

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Sample
from hyperlora.errors import CheckpointMismatch
from hyperlora.merge import attention_projections

Loras = list[tuple[LoRA, float]]
ID, BASE = 0.8, 0.35


@pytest.fixture
def folder(unet_network: HyperLoRA, tmp_path: Path) -> Path:
    """A checkpoint with both branches for the tiny UNet, in the released layout."""
    unet_network.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def person() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three photos of one person: face embeddings, CLIP tokens of the masked faces, CLIP tokens of the rest."""
    generator = torch.Generator().manual_seed(8)
    return (
        torch.randn(3, 10, generator=generator),
        torch.randn(3, 17, 24, generator=generator),
        torch.randn(3, 17, 24, generator=generator),
    )


def picture(pipeline: PortraitPipeline, loras: Loras) -> Image.Image:
    pipeline.apply(loras)
    return pipeline.draw([Sample("a man in a hat", seed=3)], width=SIZE, height=SIZE, steps=4).images[0]


def distance(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


def test_full_is_the_sum_of_both_branches_with_their_own_weights(
    folder: Path, fresh_pipeline: PortraitPipeline
) -> None:
    # Given a checkpoint read from disk, and a person's photo
    network = HyperLoRA.from_pretrained(folder)
    face, clip, rest = (each[:1] for each in person())
    unet = fresh_pipeline.components.unet
    pristine = {name: layer.weight.clone() for name, layer in attention_projections(unet).items()}
    # When ID-LoRA and Base-LoRA are applied
    full: Loras = [(network.generate(face, clip), ID), (network.generate(None, rest, "base"), BASE)]
    fresh_pipeline.apply(full)
    # Then every weight is W + w_id * 0.5 * up^T down^T + w_base * 0.5 * up^T down^T, by the plain loops over the files
    files = {
        path.stem: {name: tensor.astype(np.float64) for name, tensor in load_file(path).items()}
        for path in folder.glob("*.safetensors")
    }
    id_tokens = reference.project(files["id_projector"], face[0].double().numpy(), 3)
    of_id = reference.unit(reference.resample(files["resampler"], id_tokens, clip[0].double().numpy(), 2, 8))
    of_base = reference.unit(reference.resample(files["base_resampler"], rest[0].double().numpy(), None, 2, 8))
    bank = files["hyper_lora_modules"]
    for index, module in enumerate(network.config.modules):
        for place, projection in enumerate(("to_q", "to_k", "to_v", "to_out_0")):
            name = f"{module.name}_{projection}"
            expected = pristine[name].double().numpy().copy()
            expected += ID * reference.weight_change(bank, of_id, index, place, "id", 0.5)
            expected += BASE * reference.weight_change(bank, of_base, index, place, "base", 0.5)
            np.testing.assert_allclose(attention_projections(unet)[name].weight.numpy(), expected, atol=2e-6)


def test_base_has_half_the_rank_and_says_which_branch_it_is(folder: Path, tmp_path: Path) -> None:
    network = HyperLoRA.from_pretrained(folder)
    faces, clips, rest = person()
    id_lora, base_lora = network.generate(faces, clips), network.generate(None, rest, branch="base")
    assert (id_lora.rank, base_lora.rank) == (4, 2)
    assert {layer.scale for lora in (id_lora, base_lora) for layer in lora.layers.values()} == {0.5}
    base_lora.save(tmp_path / "base.safetensors")
    loaded = LoRA.load(tmp_path / "base.safetensors")
    assert loaded.metadata["hyperlora_branch"] == "base"
    assert id_lora.metadata["hyperlora_branch"] == "id"
    # Face embeddings are not for this branch: given or not, it is the same.
    assert network.generate(faces, rest, branch="base").equals(base_lora)


def test_full_id_and_nobody_are_three_pictures(folder: Path, fresh_pipeline: PortraitPipeline) -> None:
    # Given both LoRAs of a person, strong enough to be seen
    network = HyperLoRA.from_pretrained(folder)
    faces, clips, rest = person()
    id_lora, base_lora = network.generate(faces, clips).scaled(3), network.generate(None, rest, "base").scaled(3)
    # When drawn with nobody, with ID alone, and in full
    nobody = picture(fresh_pipeline, [])
    id_alone = picture(fresh_pipeline, [(id_lora, ID)])
    full = picture(fresh_pipeline, [(id_lora, ID), (base_lora, BASE)])
    # Then these are three pictures
    assert min(distance(nobody, id_alone), distance(id_alone, full), distance(nobody, full)) > 5
    # And Base at weight 0 is ID alone, the order does not matter, and a saved sum of both is the same as both
    assert distance(picture(fresh_pipeline, [(id_lora, ID), (base_lora, 0.0)]), id_alone) == 0
    assert distance(picture(fresh_pipeline, [(base_lora, BASE), (id_lora, ID)]), full) <= 1
    joined = LoRA.from_bytes((id_lora.scaled(ID) + base_lora.scaled(BASE)).to_bytes())
    assert distance(picture(fresh_pipeline, [(joined, 1.0)]), full) <= 1
    assert distance(picture(fresh_pipeline, []), nobody) == 0


def test_the_face_must_not_leak_into_base(folder: Path) -> None:
    # Base reads the pictures with the face blurred away, and nothing else: other surroundings, other LoRA.
    network = HyperLoRA.from_pretrained(folder)
    faces, clips, rest = person()
    here = network.coefficients(None, rest, "base")
    there = network.coefficients(None, rest.flip(1) * 1.5, "base")
    assert (here - there).abs().max() > 1e-3
    assert torch.equal(network.coefficients(faces * 2, rest, "base"), here)
    # And ID does not read them.
    assert (network.coefficients(faces, clips) - here).abs().max() > 1e-3


def test_a_released_checkpoint_has_no_base_and_says_so(folder: Path) -> None:
    # Given the same checkpoint as the releases have it
    (folder / "base_resampler.safetensors").unlink()
    tensors = load_file(folder / "hyper_lora_modules.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if ".base_" not in name},
        folder / "hyper_lora_modules.safetensors",
    )
    network = HyperLoRA.from_pretrained(folder)
    # Then Base is refused by name, and ID is what it was
    with pytest.raises(CheckpointMismatch, match="branch 'base' was asked for, the checkpoint has id"):
        network.generate(None, person()[2], "base")
    assert network.generate(*person()[:2]).rank == 4
