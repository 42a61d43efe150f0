"""Linear layers in 8 bits: the arithmetic, copies of what is merged, and all that must not be touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sdxl_pictures import distance, draw, person
from tiny_sdxl import SIZE, tiny_pipeline, tiny_unet
from torch import nn

from hyperlora import HyperLoRA, PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.engine import EngineOptions
from hyperlora.errors import InvalidRequest, LossyMismatch, NonFiniteWeights
from hyperlora.lossy import LossyOptions, fp8, int8
from hyperlora.lossy.choice import large_linears
from hyperlora.lossy.kinds import KINDS, QuantisedLinear
from hyperlora.lossy.linears import QuantisedLinears
from hyperlora.lossy.stack import stack_layers

SAMPLE = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0)
INT8, FP8 = LossyOptions("int8"), LossyOptions("fp8-emulated")
BOTH = pytest.mark.parametrize("options", [INT8, FP8], ids=["int8", "fp8-emulated"])


def quantised(kind: str, weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight in 8 bits and its scales."""
    into, scales = torch.empty_like(weight_OI, dtype=KINDS[kind].dtype), torch.empty(len(weight_OI))
    KINDS[kind].quantise(weight_OI[None], into[None], scales[None])
    return into, scales


@pytest.mark.parametrize("features", [8, 1040, 2056, 5120])
def test_integers_are_multiplied_exactly(features: int) -> None:
    # Given the largest integers, whose sums float32 alone could not hold beyond 1040 features, and random ones
    largest = torch.full((1, features), 127, dtype=torch.int8)
    dice = torch.Generator().manual_seed(1)
    some = torch.randint(-127, 128, (5, features), dtype=torch.int8, generator=dice)
    # Odd sums need every bit
    odd = largest.clone()
    odd[0, 0] = 126

    # When they are multiplied
    found = int8.product(torch.cat([largest, some]), torch.cat([largest, odd, some]))

    # Then not one is off: torch's own product of integers gives the same
    assert found.long().equal(torch._int_mm(torch.cat([largest, some]), torch.cat([largest, odd, some]).t()).long())
    assert found[0, :2].tolist() == [127 * 127 * features, 127 * 127 * features - 127]


def test_int8_rounds_to_the_nearest_by_token_and_by_channel() -> None:
    # Given tokens and channels of very different sizes; 1.27 has a scale of 0.01
    weight_OI = torch.tensor([[1.27, -0.634], [127.0, 1.4]])
    x = torch.tensor([[[1.27, 0.023], [0.00127, -0.0008]]])

    # When weights are quantised, and multiplied by
    weight_q, scale_O = quantised("int8", weight_OI)
    y = int8.linear(x, weight_q, scale_O, torch.tensor([0.0, 10.0]))

    # Then each row has its own scale: 127 and -63, 127 and 1; 127 and 2, 127 and -80
    assert weight_q.tolist() == [[127, -63], [127, 1]]
    sums = torch.tensor([[127 * 127 - 2 * 63, 127 * 127 + 2], [127 * 127 + 80 * 63, 127 * 127 - 80]])
    expected = sums * torch.tensor([[0.01], [0.00001]]) * torch.tensor([0.01, 1.0]) + torch.tensor([0.0, 10.0])
    torch.testing.assert_close(y[0], expected)


def test_fp8_is_emulated_as_torch_multiplies_it() -> None:
    # Given weights and tokens whose sizes span a thousand
    dice = torch.Generator().manual_seed(2)
    weight_OI = torch.randn(48, 64, generator=dice) * torch.logspace(-2, 1, 48)[:, None]
    x = torch.randn(2, 20, 64, generator=dice) * torch.logspace(-2, 1, 20)[None, :, None]
    weight_q, scale_O = quantised("fp8", weight_OI)

    # When torch multiplies 8-bit floats, and when they are emulated
    own = fp8.linear(x, weight_q, scale_O, torch.ones(48))
    ours = fp8.emulated(x, weight_q, scale_O, torch.ones(48))

    # Then both are the same but for the last bit of bfloat16, 1/128 of a number before the bias is added
    size = (ours - 1).abs()
    assert bool(((own - ours).abs() <= size / 128 + 1e-6).all())
    # And near the exact product: each factor is off by up to 1/16, as four bits tell
    exact = nn.functional.linear(x, weight_OI, torch.ones(48))
    assert 0.01 < float((ours - exact).norm() / (exact - 1).norm()) < 0.05


@pytest.mark.parametrize("kind", ["int8", "fp8-emulated"])
def test_zeros_stay_zeros_and_nan_is_told(kind: str) -> None:
    # Given a layer with a channel of zeros, a token of zeros, and one that is not a number
    layer = nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        layer.weight[3] = 0.0
    (stack,) = stack_layers({"layer": layer}, KINDS[kind])
    stack.refresh()
    x = torch.ones(1, 3, 16)
    x[0, 1], x[0, 2, 5] = 0.0, float("nan")

    # When they are multiplied
    with torch.no_grad():
        y = layer(x)

    # Then zeros are exact, and NaN is not rounded away: a black picture would not be noticed
    assert y[0, 1].eq(0).all() and y[0, 0, 3] == 0 and torch.isfinite(y[0, 0]).all()
    assert y[0, 2, :3].isnan().all()


@BOTH
def test_what_is_multiplied_by_is_what_is_merged(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA, options: LossyOptions
) -> None:
    # Given 8-bit layers
    unet = fresh_pipeline.components.unet
    fresh_pipeline.use(options)
    layers = large_linears_of(unet)
    kind, addresses = str(options.linears), [module.quantised_OI.data_ptr() for module in layers.values()]
    pristine = {name: module.quantised_OI.float() for name, module in layers.items()}

    # When one person after another is merged, and nobody
    for loras in ([(person(unet_network, 1), 1.0)], [(person(unet_network, 2), 0.7)], []):
        fresh_pipeline.apply(loras)
        # Then every copy is that of the weights as they are now, in the same place
        for module in layers.values():
            expected_q, expected_scale = quantised(kind, module.weight)
            assert module.quantised_OI.float().equal(expected_q.float()) and module.scale_O.equal(expected_scale)
        changed = {name for name, module in layers.items() if not module.quantised_OI.float().equal(pristine[name])}
        assert changed == ({name for name in layers if "attn" in name} if loras else set())
    assert [module.quantised_OI.data_ptr() for module in layers.values()] == addresses


def large_linears_of(unet: nn.Module) -> dict[str, QuantisedLinear]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, QuantisedLinear)}


def test_after_a_failed_merge_the_copies_are_pristine(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA
) -> None:
    # Given somebody who is merged and quantised
    fresh_pipeline.use(INT8)
    (plain,) = draw(fresh_pipeline, SAMPLE).images
    fresh_pipeline.apply([(person(unet_network, 1), 1.0)])
    # When the next merge fails
    with pytest.raises(NonFiniteWeights):
        fresh_pipeline.apply([(person(unet_network, 2), float("inf"))])
    # Then nobody is left in the copies
    assert distance(draw(fresh_pipeline, SAMPLE).images[0], plain) == 0


@BOTH
def test_pictures_change_a_little_and_not_at_all_when_it_is_off(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA, options: LossyOptions
) -> None:
    # Given a person's exact picture, and another's
    ada, alan = person(unet_network, 1), person(unet_network, 2)
    pipeline, before = fresh_pipeline, dict(fresh_pipeline.components.unet.state_dict())
    pipeline.apply([(alan, 4.0)])
    (other,) = draw(pipeline, SAMPLE).images
    pipeline.apply([(ada, 4.0)])
    (exact,) = draw(pipeline, SAMPLE).images

    # When layers are quantised while the person is merged
    pipeline.use(options)
    (lossy,) = draw(pipeline, SAMPLE).images

    # Then the picture is another, but nearer to the exact one than to the other person's; names are the same
    assert 0 < distance(lossy, exact) < distance(lossy, other)
    assert pipeline.components.unet.state_dict().keys() == before.keys()

    # And when it is off, it is exact
    pipeline.use(None)
    assert distance(draw(pipeline, SAMPLE).images[0], exact) == 0
    assert not large_linears_of(pipeline.components.unet) and pipeline.lossy.buffer_bytes == 0


def test_loras_of_each_samples_own_are_not_rounded(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given 8-bit layers and two people in one batch
    fresh_pipeline.use(INT8)
    samples = [SAMPLE, Sample("a garden", seed=3, guidance=2.0)]
    stacks = [[(person(unet_network, 1), 1.0)], [(person(unet_network, 2), 0.7)]]
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = fresh_pipeline.components.unet.get_submodule(name)
    handle = layer.register_forward_hook(lambda module, given, out: seen.update(last=(given[0], out)))

    # When they are drawn together and apart
    together = fresh_pipeline.draw(samples, width=SIZE, height=SIZE, steps=2, stacks=stacks).images
    handle.remove()
    for sample, stack, picture in zip(samples, stacks, together, strict=True):
        (alone,) = fresh_pipeline.draw([sample], width=SIZE, height=SIZE, steps=2, stacks=[stack]).images
        # Then a picture does not depend on its neighbours
        assert distance(alone, picture) <= 1
    # And what the layer itself gives is nobody's, in 8 bits: the LoRAs are beside it
    x, out = seen["last"]
    weight_q, scale_O = quantised("int8", layer.weight)
    assert fresh_pipeline.merger.is_pristine and out.equal(int8.linear(x, weight_q, scale_O, None))


@BOTH
def test_a_change_of_person_compiles_nothing(tmp_path: Path, unet_network: HyperLoRA, options: LossyOptions) -> None:
    # Given a UNet whose blocks are traced, each in one graph, with 8-bit layers, and the same one run eager
    torch._dynamo.reset()
    engine = EngineOptions(compile="blocks", backend="eager")
    eager, traced = (
        PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)), engine=each) for each in (None, engine)
    )
    for pipeline in (eager, traced):
        pipeline.use(options)
    traced.engine.warm(SIZE, SIZE, 1)
    before = traced.engine.compilations
    assert before > 0

    # When people come and go
    for seed in (1, 2):
        pictures = []
        for pipeline in (eager, traced):
            pipeline.apply([(person(unet_network, seed), 1.0)])
            pictures += pipeline.draw([SAMPLE], width=SIZE, height=SIZE, steps=2).images
        # Then compiled code draws them by their own weights, without being compiled again
        assert distance(*pictures) <= 1
    assert traced.engine.compilations == before and not traced.engine.wanted


def test_number_types_are_chosen_before_warming(tmp_path: Path) -> None:
    engine = EngineOptions(compile="blocks", backend="eager")
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)), engine=engine)
    pipeline.engine.warmed.update(["a shape"])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="before the engine is warmed"):
        pipeline.use(INT8)


def test_fused_projections_are_single_ones_again(tmp_path: Path) -> None:
    # Given an engine that makes queries, keys and values by one product of the weights as they are
    pipes = [tiny_pipeline(tmp_path) for _ in range(2)]
    fused, plain = (
        PortraitPipeline(SDXLComponents.from_diffusers(pipe), engine=EngineOptions(fuse_qkv=fuse))
        for pipe, fuse in zip(pipes, (True, False), strict=True)
    )
    # When both are quantised, then their pictures are equal: the product of 8 bits is not gone around
    for pipeline in (fused, plain):
        pipeline.use(INT8)
    assert distance(draw(fused, SAMPLE).images[0], draw(plain, SAMPLE).images[0]) == 0


def test_what_is_quantised_is_what_the_pictures_tokens_go_through() -> None:
    names = large_linears(tiny_unet(), 8)
    assert len(names) == 12 * 8  # transformer blocks, layers of each
    endings = {name.split("_transformer_blocks_")[1].split("_", 1)[1] for name in names}
    attention = {"attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0", "attn2_to_q", "attn2_to_out_0"}
    assert endings == attention | {"ff_net_0_proj", "ff_net_2"}


def test_layers_of_other_sides_stay_exact() -> None:
    # Given a model with one layer that no product of 8 bits takes
    unet = tiny_unet()
    unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2] = nn.Linear(250, 64)
    # Then it is left out, and a model without any other is refused
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2" not in large_linears(unet, 8)
    assert len(large_linears(unet, 8)) == 12 * 8 - 1
    with pytest.raises(LossyMismatch, match="multiples of 512; found 96 of other sides"):
        large_linears(unet, 512)


def test_stacks_are_read_where_weights_lie_in_line(fresh_pipeline: PortraitPipeline) -> None:
    # Given attention weights that the merger has stacked, and feed-forward ones that lie anywhere
    unet = fresh_pipeline.components.unet
    expected = {name: module.weight.clone() for name, module in large_linears(unet, 8).items()}
    linears = QuantisedLinears(unet, "int8")
    # Then each copy is that of its own weight
    for name, module in large_linears_of(unet).items():
        weight_q, _ = quantised("int8", expected[f"lora_unet_{name.replace('.', '_')}"])
        assert module.quantised_OI.equal(weight_q)
    # And a copy takes a byte for each weight, and four for each channel's scale
    sizes = [weight.numel() + 4 * len(weight) for weight in expected.values()]
    assert linears.buffer_bytes == sum(sizes)


def test_fp8_is_refused_where_no_gpu_has_it(fresh_pipeline: PortraitPipeline) -> None:
    with pytest.raises(LossyMismatch, match=r"compute capability 8\.9.*found cpu; use `int8`"):
        fresh_pipeline.use(LossyOptions("fp8"))
    assert fresh_pipeline.lossy.options.told == {} and not large_linears_of(fresh_pipeline.components.unet)


@pytest.mark.parametrize(("kind", "capability"), [("fp8", (8, 6)), ("int8", (7, 0))])
def test_older_gpus_are_refused(kind: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(LossyMismatch, match=rf"found {capability[0]}\.{capability[1]}"):
        KINDS[kind].require_device(torch.device("cuda"))


def test_adapters_are_refused_by_name() -> None:
    unet = tiny_unet()
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn1.to_q = nn.Identity()
    with pytest.raises(LossyMismatch, match=r"mid_block.*attn1\.to_q is a Identity"):
        large_linears(unet, 8)


def test_a_moved_unet_is_told(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given 8-bit layers whose buffers are replaced by moving
    fresh_pipeline.use(INT8)
    layer = next(iter(large_linears_of(fresh_pipeline.components.unet).values()))
    layer.quantised_OI = layer.quantised_OI.clone()
    # When somebody is merged, then it is not silently drawn with the old copies
    with pytest.raises(InvalidRequest, match="moved or cast after its layers were quantised"):
        fresh_pipeline.apply([(person(unet_network, 1), 1.0)])


def test_training_through_rounded_layers_is_refused(fresh_pipeline: PortraitPipeline) -> None:
    fresh_pipeline.use(INT8)
    layer = next(iter(large_linears_of(fresh_pipeline.components.unet).values()))
    with pytest.raises(InvalidRequest, match="rounding has no gradient"):
        layer(torch.ones(1, layer.in_features, requires_grad=True))
