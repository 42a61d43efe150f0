"""Stacked weights and stacked LoRAs: few products, the numbers of single ones, modules that notice nothing."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_sdxl import tiny_unet
from torch.utils._python_dispatch import TorchDispatchMode

from hyperlora import HyperLoRA, HyperLoRAConfig, LoRA, LoRALayer, WeightMerger, merge
from hyperlora.errors import InvalidRequest, LoRAMismatch, NonFiniteWeights
from hyperlora.lora_layer import FactorStack, StackedLayers
from hyperlora.merge import attention_projections

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
Loras = list[tuple[LoRA, float]]


def two_shapes() -> UNet2DConditionModel:
    """Texts 48 wide, so that K and V of the cross-attention have a shape of their own: 96 projections, 2 shapes."""
    torch.manual_seed(1)
    return UNet2DConditionModel(**{**tiny_unet().config, "cross_attention_dim": 48})


@pytest.fixture(scope="module")
def template() -> UNet2DConditionModel:
    return two_shapes()


@pytest.fixture(scope="module")
def network(template: UNet2DConditionModel) -> HyperLoRA:
    """For the same UNet; its LoRAs are stacked from the beginning."""
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"rank": 8, "bases": 4, "width": 16, "depth": 1, "dim_head": 8, "inner": 16}
    config = HyperLoRAConfig.from_unet(template.config, feed_forward=16, face_width=8, id_tokens=2, **sizes)
    made = HyperLoRA(config)
    for parameter in made.id_bases.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def unet_of(template: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    return copy.deepcopy(template).to(dtype)


def weights_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in attention_projections(unet).items()}


def bits(unet: UNet2DConditionModel) -> dict[str, bytes]:
    return {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in unet.state_dict().items()}


def addresses(unet: UNet2DConditionModel) -> dict[str, int]:
    return {name: layer.weight.data_ptr() for name, layer in attention_projections(unet).items()}


def lora_of(
    unet: UNet2DConditionModel,
    seed: int,
    *,
    only: str = "",
    rank: Callable[[int], int] = lambda place: 4,
    alpha: Callable[[int], float] = lambda place: 2.0,
    dtype: torch.dtype = torch.float32,
) -> LoRA:
    """Single layers; rank and alpha by the layer's place."""
    dice = torch.Generator().manual_seed(seed)
    layers = {}
    for place, (name, layer) in enumerate(attention_projections(unet).items()):
        if only in name:
            down = torch.randn(rank(place), layer.in_features, generator=dice) * 0.1
            up = torch.randn(layer.out_features, rank(place), generator=dice) * 0.1
            layers[name] = LoRALayer(down.to(dtype), up.to(dtype), alpha(place))
    return LoRA(layers)


def turned(lora: LoRA) -> LoRA:
    return LoRA(dict(reversed(lora.layers.items())))


def generated(network: HyperLoRA, seed: int) -> LoRA:
    dice = torch.Generator().manual_seed(seed)
    return network.lora(torch.randn(1, network.config.tokens, network.config.bases, generator=dice))


def one_by_one(pristine: Mapping[str, torch.Tensor], loras: Loras) -> dict[str, torch.Tensor]:
    """What separate products per layer give: ranks side by side, float32, one rounding."""
    merged = {}
    for name, weight in pristine.items():
        parts = [(share * lora.layers[name].scale, lora.layers[name]) for lora, share in loras if name in lora.layers]
        merged[name] = weight
        if parts:
            up = torch.cat([factor * layer.up.float() for factor, layer in parts], dim=1)
            down = torch.cat([layer.down.float() for _, layer in parts], dim=0)
            merged[name] = weight.float().addmm(up, down).to(weight.dtype)
    return merged


def positive(loras: Loras) -> Loras:
    """The same sizes without signs, so that nothing cancels."""
    return [
        (
            LoRA({n: LoRALayer(each.down.abs(), each.up.abs(), each.alpha) for n, each in lora.layers.items()}),
            abs(share),
        )
        for lora, share in loras
    ]


def steps_apart(a: torch.Tensor, b: torch.Tensor) -> int:
    """The most units in the last place between two tensors of one floating-point dtype."""
    whole = {2: torch.int16, 4: torch.int32}[a.element_size()]

    def ordered(tensor: torch.Tensor) -> torch.Tensor:
        number = tensor.contiguous().view(whole).long()
        return torch.where(number < 0, torch.iinfo(whole).min - number, number)

    return int((ordered(a) - ordered(b)).abs().max())


CASES: dict[str, Callable[[UNet2DConditionModel, HyperLoRA], Loras]] = {
    "all layers": lambda unet, network: [(lora_of(unet, 1), 0.8)],
    "generated": lambda unet, network: [(generated(network, 1), 0.8)],
    "in another order": lambda unet, network: [(turned(lora_of(unet, 1)), -0.8)],
    "some layers": lambda unet, network: [(lora_of(unet, 1, only="attn2"), 0.8)],
    "layers far apart": lambda unet, network: [(lora_of(unet, 1, only="to_v"), 0.8)],
    "one layer": lambda unet, network: [(lora_of(unet, 1, only="up_blocks_0_attentions_1_transformer_blocks_1_"), 1.0)],
    "ranks from layer to layer": lambda unet, network: [(lora_of(unet, 1, rank=lambda place: 1 + place % 5), 0.8)],
    "alphas from layer to layer": lambda unet, network: [
        (turned(lora_of(unet, 1, alpha=lambda place: 0.5 + place % 3)), 0.8)
    ],
    "half precision": lambda unet, network: [(lora_of(unet, 1, dtype=torch.float16), 0.8)],
    "three, with gaps": lambda unet, network: [
        (generated(network, 1), 0.7),
        (turned(lora_of(unet, 2, only="attn1", rank=lambda place: 1 + place % 3)), -0.4),
        (lora_of(unet, 3, only="to_out", dtype=torch.bfloat16, alpha=lambda place: 1.0 + place % 2), 0.5),
    ],
    "the same twice": lambda unet, network: [(lora_of(unet, 1), 0.5)] * 2,
    "with weight zero": lambda unet, network: [(lora_of(unet, 1), 0.0)],
}


@pytest.mark.parametrize("room", [None, 1, 50_000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_batched_product_gives_what_single_products_give(
    template: UNet2DConditionModel,
    network: HyperLoRA,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    dtype: torch.dtype,
    room: int | None,
) -> None:
    # Given somebody merged before, and room for all rows, for one or for some at a time
    unet = unet_of(template, dtype)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    merger.merge([(lora_of(unet, 9), 1.0)])
    if room is not None:
        monkeypatch.setitem(merge.SCRATCH_BYTES, "cpu", room)
    # When LoRAs are merged
    loras = CASES[case](unet, network)
    merger.merge(loras)
    # Then every weight is that of separate products, to one unit in the last place, and untouched ones to the bit
    expected = one_by_one(pristine, loras)
    largest = one_by_one({name: weight.abs() for name, weight in pristine.items()}, positive(loras))
    for name, weight in weights_of(unet).items():
        if dtype == torch.float32:
            # Where terms cancel, that is a unit of the terms and not of what is left: products of rank 1 round alike,
            # but not at the same moment. Other ranks agree to the bit.
            assert ((weight - expected[name]).abs() <= torch.finfo(dtype).eps * largest[name]).all(), name
        else:
            assert steps_apart(weight, expected[name]) <= 1, name
        if all(name not in lora.layers for lora, _ in loras):
            assert torch.equal(weight, pristine[name]), name


def test_projections_of_several_dtypes_are_merged_each_in_its_own(template: UNet2DConditionModel) -> None:
    # Given a UNet whose middle stays in float32
    unet = unet_of(template, torch.float16)
    unet.mid_block.float()
    pristine = weights_of(unet)
    assert {weight.dtype for weight in pristine.values()} == {torch.float16, torch.float32}
    # When merged, then each weight is in its own dtype what a single product makes of it
    loras: Loras = [(lora_of(unet, 1), 0.8), (lora_of(unet, 2, only="attn2"), 0.8)]
    merger = WeightMerger(unet)
    merger.merge(loras)
    expected = one_by_one(pristine, loras)
    for name, weight in weights_of(unet).items():
        assert weight.dtype == pristine[name].dtype
        assert steps_apart(weight, expected[name]) <= 1
    merger.restore()
    assert all(torch.equal(weight, pristine[name]) for name, weight in weights_of(unet).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_thousand_swaps_move_no_weight_and_leave_nothing(
    template: UNet2DConditionModel, network: HyperLoRA, dtype: torch.dtype
) -> None:
    # Given a UNet with a negative zero in it (adding a zero would lose the sign), and six people
    unet = unet_of(template, dtype)
    with torch.no_grad():
        for layer in attention_projections(unet).values():
            layer.weight[0, 0] = -0.0
    nobody = bits(unet)
    merger = WeightMerger(unet)
    assert bits(unet) == nobody
    where, ids = addresses(unet), [id(layer.weight) for layer in attention_projections(unet).values()]
    people = [CASES[case](unet, network) for case in ("generated", "some layers", "three, with gaps", "one layer")]
    people += [[(generated(network, 2), 0.8)], []]
    firsts = []
    for person in people:
        merger.merge(person)
        firsts.append(bits(unet))
    # When they are swapped a thousand times, each after each
    for swap in range(1000):
        merger.merge(people[(swap * swap + swap // 7) % 6])
        if swap % 100 == 0:
            assert bits(unet) == firsts[(swap * swap + swap // 7) % 6]
    # Then every weight lies where it lay, and restored it has the bits that it had
    merger.restore()
    assert bits(unet) == nobody
    assert addresses(unet) == where
    assert [id(layer.weight) for layer in attention_projections(unet).values()] == ids


class Counted(TorchDispatchMode):
    """Counts the operations that are run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_generated_lora_is_merged_in_one_product_per_shape(
    template: UNet2DConditionModel, network: HyperLoRA, dtype: torch.dtype
) -> None:
    # Given 96 projections of two shapes and the coefficients of somebody
    unet = unet_of(template, dtype)
    merger = WeightMerger(unet)
    assert len(merger.layers) == 96
    assert len(set(merger.shapes.values())) == 2
    merger.merge([(generated(network, 1), 0.8)])
    # When a new LoRA is made of them and merged over another, and when it is restored
    with Counted() as changing:
        merger.merge([(generated(network, 2), 0.8)])
    with Counted() as restoring:
        merger.restore()
    # Then nothing was done layer by layer, one number was fetched for all, and nothing was restored in between
    products = changing.calls["baddbmm"] + changing.calls["baddbmm_"]
    assert products == 2, changing.calls
    assert changing.calls["bmm"] == 4  # mixing: down and up of both shapes
    assert sum(changing.calls.values()) < 96, changing.calls
    assert restoring.calls["copy_"] == 2
    assert sum(restoring.calls.values()) == 2


def test_a_lora_of_single_layers_is_stacked_once(template: UNet2DConditionModel) -> None:
    # Given a LoRA from a file, of two shapes and two ranks
    read = LoRA.from_bytes(lora_of(template, 1, rank=lambda place: 2 + place % 2).to_bytes())
    # When its stacks are asked for
    stacks = read.stacks
    # Then each holds layers that are alike, the layers are views of them, and the next time nothing is made
    assert len(stacks) == 4
    assert read.stacks is stacks
    for stack in stacks:
        for row, name in enumerate(stack.names):
            assert read.layers[name].down.data_ptr() == stack.down_LRI[row].data_ptr()
            assert read.layers[name].up.data_ptr() == stack.up_LOR[row].data_ptr()
            assert (read.layers[name].rank, read.layers[name].alpha) == (stack.rank, 2.0)
    # And it is the same LoRA in the same order
    fresh = lora_of(template, 1, rank=lambda place: 2 + place % 2)
    assert read.equals(fresh)
    assert list(read.layers) == sorted(fresh.layers)
    assert read.to_bytes() == LoRA(dict(sorted(fresh.layers.items()))).to_bytes()


def test_a_lora_stays_stacked_when_it_is_moved_cast_or_told_another_origin(network: HyperLoRA) -> None:
    lora = generated(network, 1)
    for same in (lora.to(dtype=torch.float64).to(dtype=torch.float32), LoRA(lora.layers, {"made": "here"})):
        assert [stack.names for stack in same.stacks] == [stack.names for stack in lora.stacks]
        assert list(same.layers) == list(lora.layers)
        assert same.equals(lora)
    assert list(lora.layers) == [each.layer for each in network.config.projections]
    assert not lora.equals(lora.scaled(0.5))


def test_a_stack_that_does_not_add_up_is_refused() -> None:
    down, up = torch.ones(2, 4, 6), torch.ones(2, 5, 4)
    stack = FactorStack(("a", "b"), down, up, (1.0, 2.0))
    assert stack.shape == (5, 6)
    assert stack.scales == (0.25, 0.5)
    for names, alphas, made in (
        (("a",), (1.0, 1.0), up),
        (("a", "b"), (1.0,), up),
        (("a", "b"), (1.0, 1.0), up[..., 1:]),
    ):
        with pytest.raises(LoRAMismatch, match=r"a stack of \d LoRA layers needs"):
            FactorStack(names, down, made, alphas)
    with pytest.raises(LoRAMismatch, match="a name in two places"):
        StackedLayers([stack, stack])
    with pytest.raises(LoRAMismatch, match="the order names 1 of 2 layers"):
        StackedLayers([stack], ["a"])


def test_a_stacked_lora_names_the_first_broken_layer(network: HyperLoRA) -> None:
    # Given layers of both shapes that are broken, the later one by its alpha
    lora = generated(network, 1)
    names = list(lora.layers)
    lora.layers[names[41]].up[3, 1] = torch.nan
    layers = {**lora.layers, names[50]: LoRALayer(lora.layers[names[50]].down, lora.layers[names[50]].up, torch.inf)}
    # When looked at, then the first in the LoRA's order is named
    assert LoRA(layers).non_finite_layer == names[41]
    with pytest.raises(NonFiniteWeights, match=names[41]):
        lora.require_finite()
    del layers[names[41]]
    assert LoRA(layers).non_finite_layer == names[50]


def test_a_result_beyond_the_dtype_is_named_by_its_layer(template: UNet2DConditionModel) -> None:
    # Given a LoRA whose product for one layer in the middle exceeds half precision
    unet = unet_of(template, torch.float16)
    lora = lora_of(unet, 1)
    name = list(lora.layers)[50]
    lora.layers[name].up.mul_(1e7)
    with pytest.raises(NonFiniteWeights, match=f"the merged weights of {name} leave"):
        WeightMerger(unet).merge([(lora, 1.0)])


def test_a_stacked_unet_is_saved_and_copied_like_any_other(template: UNet2DConditionModel, tmp_path: Path) -> None:
    # Given a UNet before and after its weights are stacked, and somebody merged
    plain, unet = unet_of(template, torch.float16), unet_of(template, torch.float16)
    merger = WeightMerger(unet)
    merger.merge([(lora_of(unet, 1), 0.8)])
    merged = bits(unet)
    # When saved by diffusers and by safetensors, and copied
    unet.save_pretrained(tmp_path / "diffusers")
    save_file(unet.state_dict(), tmp_path / "own.safetensors")
    twin = copy.deepcopy(unet)
    # Then all hold the merged weights under the usual names, in files as large as ever
    read = UNet2DConditionModel.from_pretrained(tmp_path / "diffusers", dtype=torch.float16)
    loaded = unet_of(template, torch.float16)
    for tensors in (read.state_dict(), load_file(tmp_path / "own.safetensors")):
        loaded.load_state_dict(tensors)
        assert bits(loaded) == merged
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    assert (tmp_path / "own.safetensors").stat().st_size == (tmp_path / "plain.safetensors").stat().st_size
    # And the copy is on its own: restoring one leaves the other
    merger.restore()
    assert bits(unet) == bits(plain)
    assert bits(twin) == merged


def test_weights_loaded_in_place_reach_the_stack(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float32)
    where = addresses(unet)
    WeightMerger(unet)
    stacked = addresses(unet)
    assert where != stacked
    other = {name: tensor + 1 for name, tensor in unet.state_dict().items()}
    unet.load_state_dict(other)
    assert addresses(unet) == stacked
    assert all(torch.equal(tensor, other[name]) for name, tensor in unet.state_dict().items())


def test_two_mergers_of_one_unet_share_its_weights(template: UNet2DConditionModel) -> None:
    # Given a second merger, made while the first has nobody merged
    unet = unet_of(template, torch.float16)
    first = WeightMerger(unet)
    where, nobody = addresses(unet), bits(unet)
    second = WeightMerger(unet)
    assert addresses(unet) == where
    # When either merges or restores, then the UNet has it
    second.merge([(lora_of(unet, 1), 0.8)])
    one = bits(unet)
    second.restore()
    assert bits(unet) == nobody
    first.merge([(lora_of(unet, 1), 0.8)])
    assert bits(unet) == one
    first.restore()
    assert bits(unet) == nobody


@pytest.mark.parametrize("change", ["cast", "assigned"])
def test_weights_that_left_the_stack_are_told_of(template: UNet2DConditionModel, change: str) -> None:
    # Given a UNet whose layout alone was changed after merging: its weights stay where they are
    unet = unet_of(template, torch.float32)
    merger = WeightMerger(unet)
    unet.to("cpu", memory_format=torch.channels_last).float().requires_grad_(False).eval()
    merger.merge([(lora_of(unet, 1), 0.8)])
    # When they are given others
    if change == "cast":
        unet.to(torch.float16)
    else:
        unet.load_state_dict({name: tensor.clone() for name, tensor in unet.state_dict().items()}, assign=True)
    before = bits(unet)
    # Then nothing is merged into the void
    name = merger.layers[0]
    for what in (lambda: merger.merge([(lora_of(unet, 2), 0.8)]), merger.restore):
        with pytest.raises(InvalidRequest, match=f"the weight of {name} was moved, cast or replaced"):
            what()
    assert bits(unet) == before
    # And a new merger takes them as they are
    WeightMerger(unet).merge([(lora_of(unet, 2), 0.8)])
    assert bits(unet) != before


def test_what_inference_mode_made_works_outside_of_it(template: UNet2DConditionModel, network: HyperLoRA) -> None:
    # Given a merger, a file's LoRA and its stacks made in inference mode
    unet = unet_of(template, torch.float32)
    read = lora_of(unet, 1)
    with torch.inference_mode():
        merger = WeightMerger(unet)
        merger.merge([(read, 0.8), (generated(network, 1), 0.8)])
    nobody = bits(template)
    # When merged and restored outside, and when gradients are taken through the UNet
    merger.merge([(read, 0.5), (generated(network, 2), 0.8)])
    merger.restore()
    assert bits(unet) == nobody
    layer = next(iter(attention_projections(unet).values()))
    layer(torch.ones(1, layer.in_features)).sum().backward()
    # Then there are some
    assert layer.weight.grad is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_what_single_products_give(
    template: UNet2DConditionModel, network: HyperLoRA, case: str, dtype: torch.dtype
) -> None:
    # Given LoRAs in the UNet's own dtype on the GPU, where half precision needs no sums beside
    unet = unet_of(template, dtype)
    loras = [(lora.to(dtype=dtype), weight) for lora, weight in CASES[case](unet, network)]
    expected = one_by_one(weights_of(unet), loras)
    nobody, unet = bits(unet), unet.cuda()
    # When merged
    merger = WeightMerger(unet)
    merger.merge([(lora.to("cuda"), weight) for lora, weight in loras])
    # Then a half-precision weight differs by one rounding at most, a float32 one by the order of its sum
    for name, weight in weights_of(unet).items():
        if dtype == torch.float32:
            torch.testing.assert_close(weight.cpu(), expected[name], rtol=1e-6, atol=1e-7)
        else:
            assert steps_apart(weight.cpu(), expected[name]) <= 1, name
    merger.restore()
    assert bits(unet.cpu()) == nobody
