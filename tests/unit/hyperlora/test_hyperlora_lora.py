"""LoRA as a value: exact arithmetic, stable bytes, formats, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from hyperlora import LoRA, LoRALayer
from hyperlora.errors import LoRAMismatch, NonFiniteWeights, WeightsMissing

Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_mid_block_attentions_0_transformer_blocks_3_attn2_to_out_0"
V = "lora_unet_up_blocks_0_attentions_2_transformer_blocks_1_attn2_to_v"

KOHYA_Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
FACTORS = {f"{Q}.lora_down.weight": torch.ones(4, 6), f"{Q}.lora_up.weight": torch.ones(5, 4)}


def make_lora(seed: int, *, rank: int = 4, alpha: float = 2.0, layers: tuple[str, ...] = (Q, OUT, V)) -> LoRA:
    """Small integers as factors: their products and sums are exact in float32."""
    generator = torch.Generator().manual_seed(seed)

    def whole(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(-8, 9, (rows, columns), generator=generator).float()

    made = {name: LoRALayer(whole(rank, 6), whole(5, rank), alpha) for name in layers}
    return LoRA(made, {"made_from": f"seed {seed}"})


def deltas(lora: LoRA) -> dict[str, torch.Tensor]:
    """(alpha / rank) * up @ down in float64, independent of the package."""
    return {
        name: (layer.alpha / layer.down.shape[0]) * (layer.up.double() @ layer.down.double())
        for name, layer in lora.layers.items()
    }


def test_delta_is_alpha_over_rank_times_up_down() -> None:
    layer = LoRALayer(down=torch.tensor([[1.0, 2.0], [0.0, 1.0]]), up=torch.tensor([[3.0, 4.0]]), alpha=1.0)
    # alpha / rank = 1/2;  [3 4] @ [[1 2] [0 1]] = [3 10]
    assert layer.delta().tolist() == [[1.5, 5.0]]
    assert (layer.rank, layer.scale) == (2, 0.5)


@pytest.mark.parametrize(("rank_b", "alpha_b"), [(4, 2.0), (2, 1.0), (8, 8.0), (1, 3.0)])
def test_sum_is_exact(rank_b: int, alpha_b: float) -> None:
    # Given two LoRAs of different ranks and factors, one with a layer fewer
    a, b = make_lora(1), make_lora(2, rank=rank_b, alpha=alpha_b, layers=(Q, V))
    # When added and subtracted
    total, difference = a + b, a - b
    # Then every delta is the sum of the deltas, without any rounding
    for name, delta in deltas(a).items():
        other = deltas(b).get(name, torch.zeros_like(delta))
        assert torch.equal(deltas(total)[name], delta + other)
        assert torch.equal(deltas(difference)[name], delta - other)
    # And ranks are concatenated where both have a layer
    assert {name: layer.rank for name, layer in total.layers.items()} == {Q: 4 + rank_b, V: 4 + rank_b, OUT: 4}
    assert total.rank == 4 + rank_b


def test_sum_in_half_precision_loses_nothing() -> None:
    # Given factors of half precision and scales 0.5 and 1/3, which half precision cannot hold
    generator = torch.Generator().manual_seed(0)
    a, b = (
        LoRA({Q: LoRALayer(torch.randn(3, 6, generator=generator).half(), torch.randn(5, 3).half(), alpha)})
        for alpha in (1.5, 1.0)
    )
    total = deltas(a + b)[Q]
    torch.testing.assert_close(total, deltas(a)[Q] + deltas(b)[Q], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [0.75, -1.5, 1.0, 0.0])
def test_scaled_scales_the_delta_and_keeps_alpha_positive(weight: float) -> None:
    lora = make_lora(3)
    scaled = lora.scaled(weight)
    for name, delta in deltas(lora).items():
        assert torch.equal(deltas(scaled)[name], weight * delta)
        assert scaled.layers[name].alpha > 0
    # The original is untouched.
    assert lora.equals(make_lora(3))


def test_a_slider_is_edited_minus_original() -> None:
    # Given a slider between two people, when it is added to the first, then the second is there
    a, b = make_lora(1), make_lora(2)
    there = a + (b - a)
    for name, delta in deltas(b).items():
        assert torch.equal(deltas(there)[name], delta)


def test_metadata_of_a_sum_lists_both_sources() -> None:
    total = make_lora(1) + make_lora(2)
    assert json.loads(total.metadata["sources"]) == [{"made_from": "seed 1"}, {"made_from": "seed 2"}]
    assert (make_lora(1) + make_lora(1)).metadata == {"made_from": "seed 1"}


def test_a_lora_cannot_be_changed() -> None:
    lora = make_lora(1)
    with pytest.raises(TypeError):
        lora.layers[Q] = lora.layers[V]  # type: ignore[index]
    with pytest.raises(AttributeError):
        lora.metadata = {}  # type: ignore[misc]
    with pytest.raises(AttributeError):
        lora.layers[Q].alpha = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya"])
def test_a_round_trip_keeps_everything(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    # Given a LoRA whose alpha float32 cannot hold
    lora = make_lora(4, alpha=3.2).to(dtype=dtype)
    lora.save(tmp_path / "x.safetensors", format=form)  # type: ignore[arg-type]
    loaded = LoRA.load(tmp_path / "x.safetensors")
    assert loaded.equals(lora)
    assert loaded.metadata == lora.metadata
    assert loaded.layers[Q].down.dtype == dtype
    assert repr(loaded) == f"LoRA(3 layers, rank 4, {str(dtype).removeprefix('torch.')})"


def test_names_and_shapes_in_the_file(tmp_path: Path) -> None:
    lora = make_lora(4)
    parts = ("alpha", "lora_down.weight", "lora_up.weight")
    for form, names in {
        "diffusers": (Q, OUT, V),
        "comfyui": (Q, OUT, V),
        "kohya": (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "lora_unet_middle_block_1_transformer_blocks_3_attn2_to_out_0",
            "lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_v",
        ),
    }.items():
        lora.save(tmp_path / form, format=form)  # type: ignore[arg-type]
        tensors = load_file(tmp_path / form)
        assert set(tensors) == {f"{name}.{part}" for name in names for part in parts}
        assert [tuple(tensors[f"{names[0]}.{part}"].shape) for part in parts] == [(), (4, 6), (5, 4)]
        assert tensors[f"{names[0]}.alpha"].item() == 2.0
    with safe_open(tmp_path / "diffusers", framework="pt") as opened:
        assert opened.metadata() == {"made_from": "seed 4"}


def test_peft_format_folds_the_factor(tmp_path: Path) -> None:
    lora = make_lora(4)
    lora.save(tmp_path / "x", format="peft")
    tensors = load_file(tmp_path / "x")
    prefix = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.equal(tensors[f"{prefix}.lora_B.weight"], 0.5 * lora.layers[Q].up)
    assert "unet.mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0.lora_A.weight" in tensors
    for name, delta in deltas(LoRA.load(tmp_path / "x")).items():
        assert torch.equal(delta, deltas(lora)[name])


def test_peft_settings_in_the_metadata_are_obeyed() -> None:
    # Given a file as diffusers writes it, with alpha 8 at rank 4
    prefix = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(4, 6), f"{prefix}.lora_B.weight": torch.ones(5, 4)}
    settings = {"unet.r": 4, "unet.lora_alpha": 8}
    lora = LoRA.from_bytes(save(tensors, {"lora_adapter_metadata": json.dumps(settings)}))
    assert lora.layers[Q].alpha == 8.0
    # ... and once only, however often it is written and read again
    again = LoRA.from_bytes(LoRA.from_bytes(lora.to_bytes("peft")).to_bytes("peft"))
    assert torch.equal(again.layers[Q].delta(), lora.layers[Q].delta())
    for wrong, message in [
        ({**settings, "unet.use_rslora": True}, "found use_rslora"),
        ({"unet.r": 0, "unet.lora_alpha": 8}, "needs a positive unet.r, found r 0.0"),
        ({"unet.r": 4, "unet.lora_alpha": "many"}, "needs unet.r and unet.lora_alpha, found ValueError"),
        ([4, 8], "needs unet.r and unet.lora_alpha, found TypeError"),
    ]:
        with pytest.raises(LoRAMismatch, match=message):
            LoRA.from_bytes(save(tensors, {"lora_adapter_metadata": json.dumps(wrong)}))


def test_a_file_without_alpha_means_a_factor_of_one() -> None:
    data = save({f"{Q}.lora_down.weight": torch.ones(4, 6), f"{Q}.lora_up.weight": torch.ones(5, 4)})
    assert LoRA.from_bytes(data).layers[Q].scale == 1.0


def test_equal_loras_have_equal_bytes_in_every_process() -> None:
    # Given the same LoRA, made twice, its layers and metadata in another order
    lora = make_lora(5)
    many = {f"key {i}": str(i) for i in range(30)}
    a = LoRA(lora.layers, many)
    b = LoRA(dict(reversed(lora.layers.items())), dict(reversed(many.items())))
    assert a.to_bytes() == b.to_bytes() == LoRA.from_bytes(a.to_bytes()).to_bytes()
    # And in another interpreter, with another hash seed
    code = (
        "import sys, hashlib; from hyperlora import LoRA; "
        "print(hashlib.sha256(LoRA.from_bytes(sys.stdin.buffer.read()).to_bytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], input=a.to_bytes(), capture_output=True, check=True)
    import hashlib

    assert run.stdout.decode().strip() == hashlib.sha256(a.to_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "found none"),
        ({"model.weight": torch.ones(1)}, r"no known LoRA format \(readable: diffusers, .*first 'model.weight'"),
        ({f"{Q}.lora_down.weight": torch.ones(4, 6)}, "missing: lora_up.weight"),
        ({f"{Q}.lora_down.weight": torch.ones(4, 6), f"{Q}.lora_up.weight": torch.ones(5, 3)}, f"{Q}: .*needs down"),
        ({f"{Q}.dora_scale": torch.ones(1)}, "dora_scale' has no place"),
        ({f"{Q}.alpha": torch.ones(()), "lora_te1_x.alpha": torch.ones(())}, "LoRAs for text encoders are not read"),
        ({"lora_unet_input_blocks_1_1_x.alpha": torch.ones(())}, "'input_blocks_1_1', which has no attention"),
        ({"text_encoder.x.lora_A.weight": torch.ones(4, 6)}, "LoRAs for text encoders are not read"),
        ({**FACTORS, f"{Q}.alpha": torch.ones(2)},
         rf"{Q} needs one number as alpha, found shape \(2,\)"),
        ({f"{Q}.alpha": torch.ones(()), f"{KOHYA_Q}.alpha": torch.ones(())},
         rf"is there twice, once under another name: both are {Q}.alpha"),
        (
            {f"{Q}.lora_down.weight": torch.ones(4, 6).int(), f"{Q}.lora_up.weight": torch.ones(5, 4)},
            "floating-point factors, found lora_down.weight of torch.int32",
        ),
    ],
)  # fmt: skip
def test_what_is_no_lora_for_the_unet_is_refused(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(LoRAMismatch, match=message):
        LoRA.from_bytes(save(tensors))


def test_garbage_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(WeightsMissing, match="no LoRA file at"):
        LoRA.load(path)
    for data in (b"", b"garbage", (1 << 60).to_bytes(8, "little") + b"{}", make_lora(1).to_bytes()[:-5]):
        path.write_bytes(data)
        with pytest.raises(LoRAMismatch, match=r"x\.safetensors: a LoRA is a safetensors file"):
            LoRA.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_neither_written_nor_read(value: float, tmp_path: Path) -> None:
    up = torch.ones(5, 4)
    up[2, 1] = value
    lora = LoRA({**make_lora(1).layers, V: LoRALayer(torch.ones(4, 6), up, 2.0)})
    with pytest.raises(NonFiniteWeights, match=V):
        lora.to_bytes()
    path = tmp_path / "x"
    save_file({f"{V}.lora_down.weight": torch.ones(4, 6), f"{V}.lora_up.weight": up}, path)
    with pytest.raises(NonFiniteWeights, match=V):
        LoRA.load(path)
    with pytest.raises(NonFiniteWeights):
        LoRA({Q: LoRALayer(torch.ones(4, 6), torch.ones(5, 4), value)}).require_finite()


def test_layers_of_other_shapes_cannot_be_added() -> None:
    other = LoRA({V: LoRALayer(torch.ones(2, 7), torch.ones(5, 2), 1.0)})
    with pytest.raises(LoRAMismatch, match=rf"layer {V}: .*\(in 6, out 5\) and \(in 7, out 5\)"):
        make_lora(1) + other


def test_formats_that_cannot_name_a_layer_say_so() -> None:
    strange = LoRA({"lora_unet_up_blocks_7_x_to_q": LoRALayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)})
    with pytest.raises(LoRAMismatch, match="kohya format has names for"):
        strange.to_bytes("kohya")
    with pytest.raises(LoRAMismatch, match="peft format needs"):
        strange.to_bytes("peft")
    with pytest.raises(LoRAMismatch, match="unknown LoRA format 'ckpt', known: diffusers"):
        strange.to_bytes("ckpt")  # type: ignore[arg-type]


CROSS_K = "lora_unet_mid_block_attentions_0_transformer_blocks_3_attn2_to_k"


def cross_lora(width: int, rank: int = 2) -> LoRA:
    """A LoRA whose one cross-attention layer reads texts of this width."""
    layer = LoRALayer(torch.ones(rank, width), torch.ones(8, rank), 1.0)
    return LoRA({CROSS_K: layer, **make_lora(1, layers=(Q,)).layers})


@pytest.mark.parametrize(
    ("width", "form", "said"),
    [
        (2048, "kohya", "kohya names, 2 layers, rank 2 and 4, float32, for SDXL"),
        (768, "peft", "peft names, 2 layers, rank 2 and 4, float32, for Stable Diffusion 1"),
        (1024, "diffusers", "diffusers names, 2 layers, rank 2 and 4, float32, for Stable Diffusion 2"),
        (99, "comfyui", "diffusers names, 2 layers, rank 2 and 4, float32, for a model with texts 99 wide"),
    ],
)
def test_loading_says_what_it_found(width: int, form: str, said: str, tmp_path: Path) -> None:
    # Given a file of some program for some base model
    cross_lora(width).save(tmp_path / "x", format=form)  # type: ignore[arg-type]
    # When it is loaded, then the LoRA says what the file held
    loaded = LoRA.load(tmp_path / "x")
    assert str(loaded.found) == said
    # And a LoRA that was computed, not read, says nothing
    assert loaded.scaled(0.5).found is None
    assert cross_lora(width).found is None


def test_a_file_without_cross_attention_speaks_of_no_base_model() -> None:
    found = LoRA.from_bytes(make_lora(1, layers=(Q,)).to(dtype=torch.float16).to_bytes()).found
    assert str(found) == "diffusers names, 1 layers, rank 4, float16"


def test_loading_refuses_what_does_not_fit_the_unet(tmp_path: Path) -> None:
    # Given a UNet of SDXL's text width with two projections, and files for it and for others
    unet = {Q: (5, 6), CROSS_K: (8, 2048)}
    path = tmp_path / "x.safetensors"
    ff = "lora_unet_mid_block_attentions_0_transformer_blocks_3_ff_net_2"
    for lora, message in [
        (cross_lora(768), rf"{CROSS_K} .*\(8, 768\).*\(8, 2048\); the LoRA is for Stable Diffusion 1, .* of SDXL"),
        (make_lora(1, layers=(Q, OUT)), f"layer {OUT}, which this UNet lacks; it is for another base model"),
        (LoRA({ff: make_lora(1).layers[Q]}), f"layer {ff}.*lacks.*beyond the attention projections is fused"),
    ]:
        lora.save(path)
        # When loaded for that UNet, then it is refused by layer, with the likely reason
        with pytest.raises(LoRAMismatch, match=message):
            LoRA.load(path, fits=unet)
        assert LoRA.load(path).layers.keys() == lora.layers.keys()
    # And what fits is read
    cross_lora(2048).save(path)
    assert LoRA.load(path, fits=unet).equals(cross_lora(2048))


def test_equality_looks_at_numbers_dtype_and_device_but_not_at_metadata() -> None:
    lora = make_lora(1)
    assert LoRA(make_lora(1).layers, {"other": "metadata"}).equals(lora)
    assert not lora.to(dtype=torch.float16).equals(lora)
    assert not lora.to("meta").equals(lora)
    assert not lora.scaled(0.5).equals(lora)
    assert not make_lora(1, layers=(Q, V)).equals(lora)


def test_an_empty_lora_is_a_value_too() -> None:
    empty = LoRA({})
    assert empty.rank == 0
    assert (empty + make_lora(1)).equals(make_lora(1))
    empty.require_finite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_found_in_every_type(dtype: torch.dtype, bad: float) -> None:
    # Given two layers of the largest and smallest numbers that the type has, and zeros of both signs
    info = torch.finfo(dtype)
    extremes = torch.tensor([[info.max, info.min, info.tiny, -info.tiny, 0.0, -0.0]], dtype=dtype)
    up = torch.ones(4, 1, dtype=dtype)
    good = {name: LoRALayer(extremes.clone(), up.clone(), 1.0) for name in ("lora_unet_a", "lora_unet_b")}
    assert LoRA(good).non_finite_layer is None
    # When one number of the second layer is none
    good["lora_unet_b"].up[2, 0] = bad
    # Then that layer is named, and moving the LoRA does not make it whole
    broken = LoRA(good)
    assert broken.non_finite_layer == "lora_unet_b"
    assert broken.to("cpu").non_finite_layer == "lora_unet_b"
    # And a narrower type is looked at anew
    if dtype is torch.float64:
        assert LoRA({"lora_unet_a": good["lora_unet_a"]}).to(dtype=torch.float16).non_finite_layer == "lora_unet_a"
