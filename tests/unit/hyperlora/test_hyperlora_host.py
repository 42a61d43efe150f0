"""Pristine weights in host memory, and networks that visit the device: the same numbers, and nothing left behind."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from tiny_sdxl import tiny_pipeline, tiny_unet
from torch import nn

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Sample, WeightMerger
from hyperlora.compiler import EngineOptions
from hyperlora.components import SDXLComponents
from hyperlora.host_memory import Visitor, lay_out, make_visitor, present
from hyperlora.merge import attention_projections
from hyperlora.weight_stacks import move_stacked

CPU = torch.device("cpu")


def lora_of(network: HyperLoRA, seed: int = 0) -> LoRA:
    dice = torch.Generator().manual_seed(seed)
    return network.lora(torch.randn(1, network.config.tokens, network.config.bases, generator=dice))


def half_of(lora: LoRA) -> LoRA:
    """Every second layer, so that rows of a stack are not consecutive."""
    return LoRA({name: layer for place, (name, layer) in enumerate(lora.layers.items()) if place % 2})


def weights_of(unet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in attention_projections(unet).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merging_from_host_memory_gives_the_same_bits(unet_network: HyperLoRA, dtype: torch.dtype) -> None:
    # Given two equal UNets, one merger with its pristine copy on the device and one in host memory
    here = tiny_unet().to(dtype)
    there = copy.deepcopy(here)
    before = weights_of(here)
    mergers = (WeightMerger(here), WeightMerger(there, pristine_on_host=True))
    whole, half = lora_of(unet_network), half_of(lora_of(unet_network, 1))
    for stack in ([(whole, 0.8)], [(half, 0.5)], [(whole, 0.8), (half, -0.3)]):
        # When the same is merged into both
        for merger in mergers:
            merger.merge(stack)
        # Then both UNets are equal, bit for bit
        found, expected = weights_of(there), weights_of(here)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    # And restored they are what they came with
    mergers[1].restore()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(there).items())


def test_a_pipeline_takes_its_pristine_copy_from_where_its_components_say(
    unet_network: HyperLoRA, tmp_path: Path
) -> None:
    # Given components that keep the pristine copy in host memory
    components = SDXLComponents.from_diffusers(tiny_pipeline(tmp_path))
    assert not components.pristine_on_host
    told = copy.copy(components)
    object.__setattr__(told, "pristine_on_host", True)
    asked: list[bool] = []
    original = WeightMerger.__init__

    def spied(self: WeightMerger, unet: nn.Module, *, pristine_on_host: bool = False) -> None:
        asked.append(pristine_on_host)
        original(self, unet, pristine_on_host=pristine_on_host)

    # When pipelines are made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightMerger, "__init__", spied)
        PortraitPipeline(components)
        PortraitPipeline(told)
    # Then their mergers are told
    assert asked == [False, True]


def test_a_moved_unet_is_stacked_already_when_its_merger_is_made() -> None:
    # Given a UNet that was moved with its projections stacked
    unet = tiny_unet()
    before = weights_of(unet)
    move_stacked(unet, attention_projections(unet), torch.device("cpu"))
    moved = {name: layer.weight.data_ptr() for name, layer in attention_projections(unet).items()}
    # When a merger is made on it
    WeightMerger(unet)
    # Then the weights stay where they are, and what they were
    assert {name: layer.weight.data_ptr() for name, layer in attention_projections(unet).items()} == moved
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(unet).items())


def visitor(device: torch.device = CPU) -> tuple[nn.Module, Visitor, threading.RLock]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval().requires_grad_(False)
    turn = threading.RLock()
    return network, Visitor(network, device, turn), turn


def places(network: nn.Module) -> list[int]:
    """Where its numbers lie: a visit is a copy, even to a device that is the host."""
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def is_away(network: nn.Module, home: list[int]) -> bool:
    return not set(places(network)) & set(home)


def test_a_visitor_is_on_the_device_only_while_it_is_used() -> None:
    # Given a network that visits
    network, visits, _turn = visitor()
    home, numbers = places(network), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # When it is used, and used again inside
    with visits.visit():
        assert is_away(network, home)
        with visits.visit():
            assert is_away(network, home)
        # Then it stays until the outer use ends
        assert is_away(network, home)
    # And is at home afterwards, unchanged
    assert places(network) == home
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in network.state_dict().items())


def test_a_visitor_goes_home_whatever_happens() -> None:
    # Given a network that visits / When its use ends in an error
    network, visits, _turn = visitor()
    home = places(network)
    with pytest.raises(RuntimeError, match="no memory"), visits.visit():
        raise RuntimeError("no memory")
    # Then it is at home, and can visit again
    assert places(network) == home
    with visits.visit():
        assert is_away(network, home)


def test_a_visitor_that_does_not_fit_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a device on which the second tensor does not fit
    network, visits, _turn = visitor()
    home = places(network)
    moves, original = [], torch.Tensor.to

    def to(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        moves.append(self)
        if len(moves) == 2:
            raise torch.OutOfMemoryError
        return original(self, *args, **kwargs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch.Tensor, "to", to)
    # When it is asked to come
    with pytest.raises(torch.OutOfMemoryError), visits.visit():
        pytest.fail("it did not fit")
    # Then no part of it stays on the device
    assert places(network) == home


def test_a_visitor_waits_for_its_turn() -> None:
    # Given somebody who draws, and a network that is wanted meanwhile by another thread
    network, visits, turn = visitor()
    home = places(network)
    asked, came = threading.Event(), threading.Event()

    def use() -> None:
        asked.set()
        with visits.visit():
            came.set()

    thread = threading.Thread(target=use)
    with turn:
        thread.start()
        asked.wait(10)
        # When the drawing goes on / Then the network has not come
        assert places(network) == home
        assert not came.is_set()
    # And comes when it has ended
    thread.join(10)
    assert came.is_set()


def test_a_visitor_computes_what_it_computes_at_home() -> None:
    # Given a network / When it visits a device that computes
    torch.manual_seed(0)
    network = nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4)
    expected, home = network(x), network.weight.data_ptr()
    make_visitor(network, torch.device("cpu"), threading.RLock())
    with torch.inference_mode(), present(network):
        found, there = network(x), network.weight.data_ptr()
    # Then the numbers are the same, from a copy of the weights
    assert torch.equal(found, expected)
    assert there not in (home, network.weight.data_ptr())


def test_who_does_not_visit_is_always_present() -> None:
    # Given a network that lives on the device / When it is used / Then nothing moves
    network = nn.Linear(4, 3)
    with present(network):
        assert network.weight.data_ptr() == next(network.parameters()).data_ptr()


@pytest.mark.parametrize("part", ["text_encoders", "vae"])
def test_pictures_are_the_same_when_parts_visit(tmp_path: Path, part: str) -> None:
    # Given a pipeline, and one whose text encoders or VAE come only when needed
    plain = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)))
    other = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)))
    networks = getattr(other.components, part)
    turn, used = threading.RLock(), []
    for network in networks if isinstance(networks, tuple) else (networks,):
        make_visitor(network, torch.device("cpu"), turn)
    with pytest.MonkeyPatch.context() as patch:
        original = Visitor._come
        patch.setattr(Visitor, "_come", lambda self: (used.append(self), original(self)))
        # When both draw the same, a given picture and a weighted text among it
        drawn = []
        for pipeline in (plain, other):
            first = pipeline.draw([Sample("a cat", 1)], width=32, height=32, steps=2)
            given = [Sample("a (cat)1.2", 2, weighted=True, image=first.images[0])]
            drawn.append([*first.images, *pipeline.draw(given, width=32, height=32, steps=2, strength=0.6).images])
    # Then the pictures are equal, and the parts did come: encoders for new texts, the VAE also for the given picture
    assert [image.tobytes() for image in drawn[0]] == [image.tobytes() for image in drawn[1]]
    assert len(used) == (4 if part == "text_encoders" else 3)


def test_text_encoders_come_once_for_all_new_prompts_of_a_batch(tmp_path: Path) -> None:
    # Given text encoders that visit
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)))
    turn = threading.RLock()
    for network in pipeline.components.text_encoders:
        make_visitor(network, torch.device("cpu"), turn)
    came: list[Visitor] = []
    original = Visitor._come
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Visitor, "_come", lambda self: (came.append(self), original(self)))
        # When a batch of three new prompts is drawn, and drawn again
        for _ in range(2):
            pipeline.draw([Sample(text, 1) for text in ("a cat", "a dog", "a fox")], width=32, height=32, steps=1)
    # Then each encoder came once: the second time every text was remembered
    assert len(came) == len(set(came)) == 2


def test_the_resamplers_visit_for_each_person(unet_network: HyperLoRA) -> None:
    # Given a network whose resamplers visit, and one whose do not
    network, turn = copy.deepcopy(unet_network), threading.RLock()
    config = network.config
    dice = torch.Generator().manual_seed(4)
    faces = torch.randn(2, config.face_width, generator=dice)
    clip = torch.randn(2, 5, config.clip_width, generator=dice)
    for part in network.resamplers:
        make_visitor(part, torch.device("cpu"), turn)
    before = network.fingerprint
    # When both read a person, with both branches
    for branch in ("id", "base"):
        found = network.coefficients(faces, clip, branch)
        # Then the coefficients are the same, and so is the checkpoint
        assert torch.equal(found, unet_network.coefficients(faces, clip, branch))
    assert network.fingerprint == before == unet_network.fingerprint


def test_a_vae_whose_channels_were_put_last_keeps_them_there_on_every_visit(tmp_path: Path) -> None:
    # Given a pipeline that puts channels last, whose VAE was made a visitor before, as a plan does
    components = SDXLComponents.from_diffusers(tiny_pipeline(tmp_path))
    make_visitor(components.vae, CPU, threading.RLock())
    weight = components.vae.decoder.conv_in.weight
    PortraitPipeline(components, engine=EngineOptions(channels_last=True))
    # When it comes, goes home and comes again
    places = []
    for _ in range(2):
        with present(components.vae):
            places.append((weight.data_ptr(), weight.is_contiguous(memory_format=torch.channels_last)))
        places.append((weight.data_ptr(), weight.is_contiguous(memory_format=torch.channels_last)))
    # Then it lies so wherever it is
    assert not weight.is_contiguous()
    assert [laid_out for _, laid_out in places] == [True] * 4
    assert places[0][0] != places[1][0] == places[3][0]


def test_a_network_that_is_laid_out_during_a_visit_has_its_own_numbers_at_home() -> None:
    # Given a visitor on its device
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    make_visitor(network, CPU, threading.RLock())
    with present(network):
        there = network[0].weight.data_ptr()
        # When it is laid out in another order / Then it is left alone until it goes
        lay_out(network, torch.channels_last)
        assert network[0].weight.data_ptr() == there
    # And has the order and the same numbers at home
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
