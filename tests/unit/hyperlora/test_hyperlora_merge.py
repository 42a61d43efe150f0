"""Merging: one rounding, never a drift, bit-exact restore."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_sdxl import tiny_unet

from hyperlora import LoRA, LoRALayer, WeightMerger, merge
from hyperlora.errors import LoRAMismatch, NonFiniteWeights
from hyperlora.merge import attention_projections

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def template() -> UNet2DConditionModel:
    torch.manual_seed(1)
    return tiny_unet()


def unet_of(template: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    return copy.deepcopy(template).to(dtype)


def weights_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def random_lora(unet: UNet2DConditionModel, seed: int, *, rank: int = 4, only: str = "") -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    return LoRA(
        {
            name: LoRALayer(
                torch.randn(rank, layer.in_features, generator=generator) * 0.1,
                torch.randn(layer.out_features, rank, generator=generator) * 0.1,
                alpha=rank / 2,
            )
            for name, layer in attention_projections(unet).items()
            if only in name
        }
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_merge_is_the_formula_with_one_rounding(template: UNet2DConditionModel, dtype: torch.dtype) -> None:
    # Given a UNet in some dtype and two LoRAs, one of them for a part of the layers
    unet = unet_of(template, dtype)
    before = weights_of(unet)
    a, b = random_lora(unet, 1), random_lora(unet, 2, only="attn2")
    merger = WeightMerger(unet)
    # When merged
    merger.merge([(a, 0.8), (b, -0.3)])
    # Then each weight is W + sum w * alpha/rank * up @ down, computed in float64 here, rounded once to the dtype
    after = weights_of(unet)
    changed = set()
    for name, layer in attention_projections(unet).items():
        key = next(key for key, module in unet.named_modules() if module is layer) + ".weight"
        exact = before[key].double()
        for lora, weight in ((a, 0.8), (b, -0.3)):
            if name in lora.layers:
                part = lora.layers[name]
                exact += weight * part.alpha / part.down.shape[0] * (part.up.double() @ part.down.double())
        error = (after[key].double() - exact).abs()
        half_step = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-7  # float32 sums before the rounding
        assert (error <= half_step * 1.001).all(), name
        changed.add(key)
    # And nothing else was touched
    assert len(changed) == len(merger.layers) == 96
    assert all(torch.equal(after[key], before[key]) for key in before.keys() - changed)
    assert all(not torch.equal(after[key], before[key]) for key in changed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swaps_never_drift(template: UNet2DConditionModel, dtype: torch.dtype) -> None:
    # Given two people
    unet = unet_of(template, dtype)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    a, b = random_lora(unet, 1), random_lora(unet, 2, only="attn1")
    merger.merge([(a, 0.8)])
    person_a = weights_of(unet)
    # When swapped a hundred times, A-B-A-B...
    for _ in range(50):
        merger.merge([(b, 0.8)])
        merger.merge([(a, 0.8)])
    # Then A is A, bit for bit, and so is the pristine UNet
    assert same(weights_of(unet), person_a)
    merger.restore()
    assert same(weights_of(unet), pristine)
    assert merger.merges == 101


def test_a_smaller_lora_leaves_nothing_of_the_larger_one(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float32)
    merger = WeightMerger(unet)
    small = random_lora(unet, 2, only="attn1_to_q")
    merger.merge([(small, 1.0)])
    alone = weights_of(unet)
    merger.merge([(random_lora(unet, 1), 1.0)])
    merger.merge([(small, 1.0)])
    assert same(weights_of(unet), alone)


def test_merging_nothing_is_pristine(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float16)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    merger.merge([(random_lora(unet, 1), 1.0)])
    merger.merge([])
    assert same(weights_of(unet), pristine)


def poisoned(unet: UNet2DConditionModel, value: float) -> LoRA:
    lora = random_lora(unet, 3)
    name = list(lora.layers)[-1]
    layer = lora.layers[name]
    down = layer.down.clone()
    down[0, 0] = value
    return LoRA({**lora.layers, name: LoRALayer(down, layer.up, layer.alpha)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_broken_weights_cannot_poison_the_next_person(template: UNet2DConditionModel, value: float) -> None:
    # Given a half-precision UNet with person A merged, and a LoRA with NaN, infinity, or a number beyond the dtype
    unet = unet_of(template, torch.float16)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    a = random_lora(unet, 1)
    merger.merge([(a, 0.8)])
    person_a = weights_of(unet)
    # When it is merged, then it is refused by name and the UNet is pristine
    with pytest.raises(NonFiniteWeights, match=r"lora_unet_.*(NaN|range)"):
        merger.merge([(poisoned(unet, value), 1.0)])
    assert same(weights_of(unet), pristine)
    # And the next person is right
    merger.merge([(a, 0.8)])
    assert same(weights_of(unet), person_a)
    assert merger.merges == 2


def test_an_interrupt_in_the_middle_of_a_merge_leaves_the_unet_pristine(
    template: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a merge in pieces of 32 layers (factors of 4 * (64 + 64) float32 each), that Ctrl-C ends in the second of 3
    unet = unet_of(template, torch.float32)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    monkeypatch.setitem(merge.SCRATCH_BYTES, "cpu", 32 * 4 * (64 + 64) * 4)
    real, calls, changed = torch.aminmax, 0, 0

    def interrupted(tensor: torch.Tensor) -> object:
        nonlocal calls, changed
        calls += 1
        if calls > 1:
            changed = sum(not torch.equal(now, pristine[name]) for name, now in unet.state_dict().items())
            raise KeyboardInterrupt
        return real(tensor)

    monkeypatch.setattr(torch, "aminmax", interrupted)
    # When it ends, then nothing of it is left
    with pytest.raises(KeyboardInterrupt):
        merger.merge([(random_lora(unet, 1), 1.0)])
    assert (calls, changed) == (2, 64)
    assert merger.is_pristine
    assert same(weights_of(unet), pristine)


def test_the_merger_tells_whether_the_unet_is_pristine(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float32)
    merger = WeightMerger(unet)
    assert merger.is_pristine
    merger.merge([(random_lora(unet, 1), 1.0)])
    assert not merger.is_pristine
    merger.restore()
    assert merger.is_pristine


def test_a_weight_must_be_a_number(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float32)
    with pytest.raises(NonFiniteWeights, match="found nan"):
        WeightMerger(unet).merge([(random_lora(unet, 1), float("nan"))])


def test_a_lora_for_another_unet_is_refused_by_name(template: UNet2DConditionModel) -> None:
    unet = unet_of(template, torch.float32)
    pristine = weights_of(unet)
    merger = WeightMerger(unet)
    name = "lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn1_to_q"
    unknown = LoRA({**random_lora(unet, 1).layers, name: LoRALayer(torch.ones(2, 8), torch.ones(8, 2), 1.0)})
    with pytest.raises(LoRAMismatch, match=f"layer {name}, which this UNet lacks"):
        merger.merge([(unknown, 1.0)])
    known = merger.layers[0]
    wrong = LoRA({known: LoRALayer(torch.ones(2, 8), torch.ones(8, 2), 1.0)})
    with pytest.raises(LoRAMismatch, match=rf"layer {known} .*\(out, in\) \(8, 8\), this UNet's are \(64, 64\)"):
        merger.merge([(wrong, 1.0)])
    assert same(weights_of(unet), pristine)


def test_a_module_without_attention_is_refused() -> None:
    with pytest.raises(LoRAMismatch, match="no attention projections"):
        WeightMerger(torch.nn.Linear(2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_merges_as_the_cpu_does(template: UNet2DConditionModel, dtype: torch.dtype) -> None:
    # Given one UNet on the CPU and one on the GPU
    cpu, gpu = unet_of(template, dtype), unet_of(template, dtype).cuda()
    pristine = weights_of(gpu)
    merger = WeightMerger(gpu)
    # When the same LoRA is merged into both
    WeightMerger(cpu).merge([(random_lora(cpu, 1), 0.8)])
    merger.merge([(random_lora(gpu, 1), 0.8)])
    # Then they differ by at most one rounding, and restore is exact
    for name, tensor in weights_of(cpu).items():
        torch.testing.assert_close(gpu.state_dict()[name].cpu(), tensor, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    merger.restore()
    assert same(weights_of(gpu), pristine)
