"""The parts of a run: pace of the host, choice of an attention kernel, calls filled up, weights side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sdxl import tiny_pipeline, tiny_unet
from torch.nn.attention import SDPBackend

from hyperlora import HyperLoRA, LoRA, attention_kernels
from hyperlora.attention_kernels import attention_size, fastest_first, measured_kernels
from hyperlora.merge import WeightMerger
from hyperlora.pace import Pace
from hyperlora.unet_call import UNetCall

CPU = torch.device("cpu")


def test_the_host_waits_for_the_step_that_lies_two_back() -> None:
    # Given a device whose steps are told when they are waited for
    asked, waited = iter(range(100)), []

    class Mark:
        def __init__(self) -> None:
            self.number = next(asked)

        def synchronize(self) -> None:
            waited.append(self.number)

    pace = Pace(CPU, ahead=2, mark=Mark)

    # When five steps are asked for
    seen = []
    for _ in range(5):
        pace.step()
        seen.append(list(waited))

    # Then at most two of them are under way at any time
    assert seen == [[], [], [0], [0, 1], [0, 1, 2]]


def test_pace_is_kept_with_the_device_that_draws_whichever_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a second GPU that draws, while the first is the thread's current one
    recorded = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking

        def record(self, stream: str = "of the current device") -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    # When a step is asked for / Then it is the drawing device's that is noted
    Pace(torch.device("cuda:1")).step()
    assert recorded == ["of cuda:1"]


def test_attention_kernels_are_timed_on_the_device_that_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a second GPU that draws, and a clock that belongs to the current device
    current = ["cuda:0"]

    @contextmanager
    def made_current(device: torch.device) -> Iterator[None]:
        current.append(str(device))
        yield
        current.pop()

    def seen(_measure: object) -> tuple[SDPBackend, ...]:
        assert current[-1] == "cuda:1"
        return (SDPBackend.MATH,)

    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
    monkeypatch.setattr(attention_kernels, "fastest_first", seen)
    # When kernels are timed for it / Then it is the current one meanwhile
    size = {"rows": 1, "heads": 1, "tokens": 4, "width": 8}
    assert measured_kernels(torch.device("cuda:1"), torch.float16, **size) == (SDPBackend.MATH,)
    assert current == ["cuda:0"]


def test_a_cpu_needs_no_pace() -> None:
    # Given a device whose calls return when their work is done
    pace = Pace(CPU, ahead=0)

    # When a step is asked for, then there is nothing to wait for
    pace.step()
    assert not pace._marks


def test_attention_kernels_are_ordered_by_their_time_and_what_fails_is_left_out() -> None:
    # Given one kernel that is slow, one that is fast, and one that the card does not have
    seconds = {SDPBackend.CUDNN_ATTENTION: 3.0, SDPBackend.EFFICIENT_ATTENTION: 1.0}

    def measure(kernel: SDPBackend) -> float:
        if kernel not in seconds:
            raise RuntimeError("No available kernel. Aborting execution.")
        return seconds[kernel]

    # Then the fast one comes first
    assert fastest_first(measure) == (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)


def test_a_lack_of_memory_is_not_taken_for_a_missing_kernel() -> None:
    def measure(_kernel: SDPBackend) -> float:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fastest_first(measure)


def test_on_a_cpu_there_is_nothing_to_choose() -> None:
    assert measured_kernels(CPU, torch.float32, **attention_size(tiny_unet())) == ()


def test_every_argument_of_the_unet_is_filled_up_and_the_added_rows_are_cut_off() -> None:
    # Given a UNet that tells what it is given
    unet = tiny_unet()
    given: list[dict[str, Any]] = []

    class Recording:
        dtype, conv_in = unet.dtype, unet.conv_in

        def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **others: Any) -> tuple[torch.Tensor]:
            given.append({"sample": sample, "timestep": timestep, **others})
            return (sample * 2,)

    call = UNetCall(Recording(), 2, nullcontext)
    texts, residual = torch.randn(3, 77, 64), torch.randn(3, 32, 4, 4)
    added = {"text_embeds": torch.randn(3, 32), "time_ids": torch.ones(1, 6).expand(3, -1)}
    sample = torch.randn(3, 4, 8, 8)

    # When it is called twice, with a ControlNet's residuals
    for step in (999, 500):
        (noise,) = call(
            sample,
            torch.tensor(step),
            encoder_hidden_states=texts,
            added_cond_kwargs=added,
            down_block_additional_residuals=(residual, residual),
            return_dict=False,
        )

    # Then five rows went in, the last two copies of the third, and three came out
    assert torch.equal(noise, sample * 2)
    for seen in given:
        tensors = [seen["sample"], seen["encoder_hidden_states"], *seen["added_cond_kwargs"].values()]
        tensors += seen["down_block_additional_residuals"]
        for tensor in tensors:
            assert len(tensor) == 5 and torch.equal(tensor[3], tensor[2]) and torch.equal(tensor[4], tensor[2])
            assert tensor.is_contiguous()
        assert seen["return_dict"] is False

    # And what did not change was not copied again
    assert given[0]["encoder_hidden_states"] is given[1]["encoder_hidden_states"]


def test_weights_that_lie_side_by_side_are_one_matrix_which_shows_what_is_merged(
    tmp_path: Path, unet_network: HyperLoRA
) -> None:
    # Given queries, keys and values of one self-attention
    unet = tiny_pipeline(tmp_path).unet
    merger = WeightMerger(unet)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1"
    layers = [f"{name}_to_{each}" for each in "qkv"]
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    matrix = merger.adjacent(layers)
    assert matrix is not None
    before = matrix.clone()

    # When somebody is merged
    merger.merge([(_person(unet_network), 1.0)])

    # Then the matrix is made of the merged weights
    weights = [attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]
    assert torch.equal(matrix, torch.cat(weights))
    assert not torch.equal(matrix, before)


def test_weights_in_another_order_or_of_another_shape_are_no_matrix(tmp_path: Path) -> None:
    merger = WeightMerger(tiny_pipeline(tmp_path).unet)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn"
    assert merger.adjacent([f"{name}1_to_k", f"{name}1_to_q"]) is None
    assert (
        merger.adjacent([f"{name}1_to_q", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k"])
        is None
    )
    assert merger.adjacent([f"{name}1_to_q", f"{name}1_to_nowhere"]) is None


def _person(network: HyperLoRA) -> LoRA:
    dice = torch.Generator().manual_seed(1)
    shape = (1, len(network.resampler.latents[0]), network.config.bases)
    return network.lora(torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1))
