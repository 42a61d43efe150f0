"""Bases that stay in host memory and are mixed through two small buffers; several people mixed at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from hyperlora import HyperLoRA, LoRA
from hyperlora.basis_stream import HostStream
from hyperlora.coefficients import normalise
from hyperlora.errors import CheckpointMismatch, InvalidRequest
from hyperlora.lora_layer import StackedLayers

CPU = torch.device("cpu")


def people_of(network: HyperLoRA, count: int) -> torch.Tensor:
    shape = (count, network.config.tokens, network.config.bases)
    return normalise(torch.randn(shape, generator=torch.Generator().manual_seed(3)))


def assert_same(found: StackedLayers, expected: StackedLayers, **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, layer in expected.items():
        torch.testing.assert_close(found[name].down, layer.down, **tolerance)
        torch.testing.assert_close(found[name].up, layer.up, **tolerance)
        assert found[name].alpha == layer.alpha


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("buffer_bytes", [1, 3000, 64 << 20], ids=["row by row", "some rows", "all at once"])
def test_streamed_bases_give_the_resident_ones_lora(
    unet_network: HyperLoRA, dtype: torch.dtype, buffer_bytes: int
) -> None:
    # Given bases on the device, and the same ones that are streamed through buffers of a given size
    resident = copy.deepcopy(unet_network.id_bases).to(dtype)
    streamed = copy.deepcopy(resident)
    streamed.stream("cpu", buffer_bytes=buffer_bytes)
    (coefficients_QK,) = people_of(unet_network, 1)
    # When both are mixed
    expected, found = resident.mix(coefficients_QK), streamed.mix(coefficients_QK)
    # Then the LoRA is the same, bit for bit: the products are those of the resident bases, row by row
    assert streamed.streamed
    assert_same(found, expected, rtol=0, atol=0)


def test_streaming_holds_two_buffers_of_the_device_and_no_more() -> None:
    # Given three stacks of rows that are larger than the buffers
    tensors = [torch.randn(7, 40), torch.randn(2, 100), torch.randn(5, 8)]
    stream = HostStream(CPU, buffer_bytes=3 * 40 * 4)
    # When they are read piece by piece
    places, rebuilt = set(), [torch.empty_like(each) for each in tensors]
    for piece in stream.pieces(tensors):
        places.add(piece.data_LX.untyped_storage().data_ptr())
        assert piece.data_LX.numel() * 4 <= stream.buffer_bytes
        rebuilt[piece.tensor][piece.rows] = piece.data_LX
    # Then every row was there once, in order, and never in more than two places
    assert all(torch.equal(a, b) for a, b in zip(rebuilt, tensors, strict=True))
    assert len(places) == 2


def test_a_row_larger_than_the_buffer_is_copied_whole() -> None:
    # Given a buffer smaller than a row / When the tensor is read / Then each piece is one row
    rows = [piece.rows for piece in HostStream(CPU, buffer_bytes=4).pieces([torch.zeros(3, 10)])]
    assert rows == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize("streams", [False, True], ids=["resident", "streamed"])
def test_several_people_mixed_at_once_are_each_their_own(unet_network: HyperLoRA, streams: bool) -> None:
    # Given three people
    network = copy.deepcopy(unet_network)
    if streams:
        network.id_bases.stream("cpu", buffer_bytes=4000)
    people_BQK = people_of(network, 3)
    # When they are mixed together, and one by one
    together = network.loras(people_BQK)
    alone = [network.lora(each) for each in people_BQK]
    # Then each has the LoRA that he would have alone, but for rounding, and nobody else's
    for place, lora in enumerate(together):
        assert_same(layers_of(lora), layers_of(alone[place]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(next(iter(lora.layers.values())).up, next(iter(alone[place - 1].layers.values())).up)


def layers_of(lora: LoRA) -> StackedLayers:
    assert isinstance(lora.layers, StackedLayers)
    return lora.layers


@pytest.mark.parametrize("cut", [lambda c: c[0], lambda c: c[:, :-1], lambda c: c[..., :-1]])
def test_coefficients_of_another_shape_are_refused(
    unet_network: HyperLoRA, cut: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    # Given coefficients without people, tokens or bases / When they are mixed / Then the shapes are told
    with pytest.raises(InvalidRequest, match="several people are"):
        unet_network.loras(cut(people_of(unet_network, 2)))


def test_a_branch_that_is_not_there_is_refused_for_many(unet_network: HyperLoRA) -> None:
    # Given a branch that no network has / When it is asked for / Then it is named
    with pytest.raises(CheckpointMismatch, match="branch"):
        unet_network.loras(people_of(unet_network, 2), "none")  # type: ignore[arg-type]
