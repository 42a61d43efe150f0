"""Several people through CLIP and the hypernetwork at once, and what tells one network from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_hyperlora_network import SMALL, make_network
from transformers import CLIPImageProcessorPil

from hyperlora import ClipVision
from hyperlora.clip_pixels import ClipPixels
from hyperlora.config import Branch
from hyperlora.errors import InvalidRequest

People = list[tuple[torch.Tensor, torch.Tensor]]


def people_of(*counts: int) -> People:
    """So many photos of each person."""
    dice = torch.Generator().manual_seed(3)
    return [
        (torch.randn(count, SMALL["face_width"], generator=dice), torch.randn(count, 4, 10, generator=dice))
        for count in counts
    ]


@pytest.mark.parametrize("branch", ["id", "base"])
@pytest.mark.parametrize("streams", [("face", "clip"), ("clip",), ("face",)])
def test_everybodys_coefficients_are_those_of_the_own_photos(branch: Branch, streams: tuple[Any, ...]) -> None:
    # Given people with one to five photos, and passes of four photos, which cut through people
    network, people = make_network(streams=streams, base_rank=2), people_of(1, 5, 2, 3)
    network.most_photos = 4

    # When all are read together
    together_PQK = network.coefficients_many(people, branch)

    # Then each row is what the person's photos give alone, but for rounding, and people stay apart
    alone_PQK = torch.cat([network.coefficients(*person, branch) for person in people])
    torch.testing.assert_close(together_PQK, alone_PQK, atol=1e-6, rtol=1e-5)
    assert (together_PQK[0] - together_PQK[1]).abs().max() > 0.1
    # And everybody's LoRA is the one of those coefficients
    for lora, row_QK in zip(network.loras(together_PQK, branch), together_PQK, strict=True):
        alone = network.lora(row_QK, branch)
        assert lora.layers.keys() == alone.layers.keys()
        for name, layer in lora.layers.items():
            torch.testing.assert_close(layer.delta(), alone.layers[name].delta(), atol=1e-6, rtol=1e-5)


def test_one_bad_person_is_refused_before_anything_is_read() -> None:
    network = make_network()
    with pytest.raises(InvalidRequest, match="found nobody"):
        network.coefficients_many([])
    faces, clips = people_of(2)[0]
    with pytest.raises(InvalidRequest, match=r"found \[1, 2\] photos"):
        network.coefficients_many([(faces, clips), (faces, clips[:1])])


def test_the_fingerprint_follows_every_way_to_change_a_network() -> None:
    # Given a network whose fingerprint is known
    network = make_network()
    seen = [network.fingerprint]
    assert network.fingerprint == seen[0]
    projection = network.resampler.layers[1].ff.net[2]
    # When a number is changed in place, a parameter is replaced, its data are, and a whole part is
    with torch.no_grad():
        projection.weight[0, 0] += 1
    seen.append(network.fingerprint)
    projection.weight = torch.nn.Parameter(projection.weight.detach() + 1)
    seen.append(network.fingerprint)
    projection.weight.data = projection.weight.data + 1
    seen.append(network.fingerprint)
    network.resampler.layers[1].ff.net[2] = torch.nn.Linear(20, 12)
    seen.append(network.fingerprint)
    # Then the fingerprint is another one each time
    assert len(set(seen)) == 5


SIZES = ((90, 60), (60, 90), (56, 56), (400, 300), (31, 200), (1000, 33))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 56, "width": 56}},  # smaller than the crop
        {"size": {"height": 48, "width": 56}, "do_center_crop": False},
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "image_mean": [0.1, 0.5, 0.9]},
    ],
)
def test_pixels_are_the_processors_to_the_last_bit(settings: dict[str, Any]) -> None:
    # Given pictures of many shapes, and what transformers' own processor makes of them
    processor = CLIPImageProcessorPil(**settings)
    dice = np.random.default_rng(1)
    images = [Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    # When they are cut on threads and normalised by the table
    pixels = ClipPixels(processor).on(torch.device("cpu"), images)
    # Then every number is equal
    assert pixels.dtype == torch.float32 and torch.equal(pixels, expected)


def test_the_tower_reads_a_bounded_number_of_pictures_at_a_time(clip_folder: Path) -> None:
    # Given a tower that may read two pictures in a pass
    clip = ClipVision.from_pretrained(clip_folder)
    dice = np.random.default_rng(2)
    images = [Image.fromarray(dice.integers(0, 256, (60, 60, 3), dtype=np.uint8)) for _ in range(5)]
    whole = clip.tokens(images)
    clip.most_images = 2
    passes: list[int] = []
    clip.model.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    # When it reads five
    tokens = clip.tokens(images)
    # Then it takes three passes, and says the same
    assert passes == [2, 2, 1]
    torch.testing.assert_close(tokens, whole, atol=1e-5, rtol=1e-5)
