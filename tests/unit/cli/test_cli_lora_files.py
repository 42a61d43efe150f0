"""`portraits lora convert` and `inspect`: files that are there already."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_world import CliWorld
from safetensors.torch import load_file, save_file

from hyperlora.config import HyperLoRAConfig
from hyperlora.lora import LoRA, LoRALayer
from hyperlora.mini.models import UNET_CONFIG
from jobs.profiles import MINI, built_in_profiles
from worker.cli import extras
from worker.lora_tools.look import look_into

Made = Callable[..., Path]


def lora_for(config: HyperLoRAConfig, rank: int = 2, alpha: float = 1.0) -> LoRA:
    """A small random LoRA on every projection of a base model."""
    dice = torch.Generator().manual_seed(5)
    layers = {
        one.layer: LoRALayer(
            torch.randn(rank, one.in_features, generator=dice),
            torch.randn(one.out_features, rank, generator=dice),
            alpha,
        )
        for one in config.projections
    }
    metadata = {
        "hyperlora_kind": "photos",
        "hyperlora_sources": json.dumps([{"role": "person", "photos": ["ab" * 32]}]),
    }
    return LoRA(layers, metadata)


@pytest.fixture
def mini_file(cli: CliWorld) -> Path:
    """A LoRA file for the mini pack's UNet, with diffusers' names."""
    file = cli.folder / "mini.safetensors"
    lora_for(HyperLoRAConfig.from_unet(UNET_CONFIG)).save(file)
    return file


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya", "peft"])
def test_every_format_leads_back(cli: CliWorld, mini_file: Path, form: str) -> None:
    # When a file is converted to a format and back
    answer = cli.json("lora", "convert", mini_file, "there.safetensors", "--format", form)
    cli.run("lora", "convert", "there.safetensors", "back.safetensors", "--format", "diffusers")

    # Then what it does is the same, and so is what it says about itself
    assert answer["format"] == form and answer["layers"] == 88
    before, after = LoRA.load(mini_file), LoRA.load("back.safetensors")
    assert before.layers.keys() == after.layers.keys()
    for name, layer in before.layers.items():
        torch.testing.assert_close(after.layers[name].delta(), layer.delta(), rtol=1e-6, atol=1e-6)
    assert dict(after.metadata) == dict(before.metadata)


def test_a_kohya_file_has_kohyas_names(cli: CliWorld, mini_file: Path) -> None:
    cli.run("lora", "convert", mini_file, "kohya.safetensors", "--format", "kohya")
    names = load_file("kohya.safetensors")
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in names


def test_a_peft_files_factor_counts_once(cli: CliWorld) -> None:
    # Given a file of diffusers, which keeps alpha / rank = 0.5 beside the tensors
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}
    settings = json.dumps({"unet.r": 2, "unet.lora_alpha": 1.0})
    save_file(tensors, cli.folder / "peft.safetensors", metadata={"lora_adapter_metadata": settings})

    # When it is converted to its own format, then it does what it did: 0.5 * (ones @ ones)
    cli.run("lora", "convert", "peft.safetensors", "again.safetensors", "--format", "peft")
    (layer,) = LoRA.load("again.safetensors").layers.values()
    assert torch.equal(layer.delta(), torch.ones(4, 4))


def test_numbers_may_be_halved(cli: CliWorld, mini_file: Path) -> None:
    answer = cli.json("lora", "convert", mini_file, "half.safetensors", "--format", "diffusers", "--dtype", "float16")
    assert answer["size_bytes"] < 0.7 * mini_file.stat().st_size
    assert cli.json("lora", "inspect", "half.safetensors")["dtypes"] == {"float16": 88}


def test_a_file_is_not_replaced_unless_forced(cli: CliWorld, mini_file: Path) -> None:
    # Given a file that is there
    there = cli.folder / "there.safetensors"
    there.write_bytes(b"mine")

    # When something is written to its name, then it stays, unless --force is given
    told = cli.run("lora", "convert", mini_file, there, "--format", "kohya", exit_code=2).stderr
    assert "--force" in told and there.read_bytes() == b"mine"
    cli.run("lora", "convert", mini_file, there, "--format", "kohya", "--force")
    assert LoRA.load(there).rank == 2
    assert [file.name for file in cli.folder.glob("*.part")] == []


def test_what_cannot_be_read_is_said(cli: CliWorld, mini_file: Path) -> None:
    (cli.folder / "text.safetensors").write_text("no tensors here", encoding="utf-8")
    save_file({"conv.weight": torch.zeros(2)}, cli.folder / "model.safetensors")
    convert = ("lora", "convert")
    told = cli.json(*convert, "text.safetensors", "a.safetensors", "--format", "peft", exit_code=2)
    assert told["error"]["code"] == "lora_mismatch" and "text.safetensors" in told["error"]["message"]
    told = cli.json("lora", "inspect", "model.safetensors", exit_code=2)
    assert "conv.weight" in told["error"]["message"]
    assert "must end with .safetensors" in cli.run(*convert, mini_file, "a.bin", "--format", "peft", exit_code=2).stderr


def test_inspect_says_what_a_file_is(cli: CliWorld, mini_file: Path) -> None:
    # When a file is looked into
    found = cli.json("lora", "inspect", mini_file)

    # Then ranks, numbers, fit and provenance are as it was made
    lora = LoRA.load(mini_file)
    assert found["sound"] is True
    assert (found["format"], found["layers"], found["ranks"], found["scales"]) == (
        "diffusers",
        88,
        {"2": 88},
        {"0.5": 88},
    )
    assert found["dtypes"] == {"float32": 88}
    norms = {name: float(layer.delta().norm()) for name, layer in lora.layers.items()}
    assert found["norm"] == pytest.approx(sum(norm**2 for norm in norms.values()) ** 0.5, rel=1e-5)
    assert found["largest"][0] == [
        max(norms, key=lambda name: norms[name]),
        pytest.approx(max(norms.values()), rel=1e-5),
    ]
    fits = {fit["base"]: fit["fits"] for fit in found["fits"]}
    assert fits == {"the untrained mini pack": True, "SDXL": False, "the mini pack": False}
    assert found["metadata"]["hyperlora_sources"] == [{"role": "person", "photos": ["ab" * 32]}]
    told = cli.run("lora", "inspect", mini_file).stdout
    assert "88 of 88" in told and "abababababab..." in told


def test_a_file_for_the_pack_that_a_checkout_draws_with_fits_it(cli: CliWorld) -> None:
    # Given a LoRA for the UNet of the profile `mini`
    unet = Path(built_in_profiles()[MINI].base) / "unet" / "config.json"
    lora_for(HyperLoRAConfig.from_unet(json.loads(unet.read_text()))).save(cli.folder / "ada.safetensors")

    # When it is inspected, then it fits, and nothing is to be warned of
    found = cli.json("lora", "inspect", "ada.safetensors")
    assert (found["fits"][0]["base"], found["fits"][0]["fits"]) == ("the mini pack", True)


def test_the_scale_counts_in_the_norm(tmp_path: Path) -> None:
    config = HyperLoRAConfig.from_unet(UNET_CONFIG)
    one, three = tmp_path / "one.safetensors", tmp_path / "three.safetensors"
    lora_for(config, alpha=1.0).save(one)
    lora_for(config, alpha=3.0).save(three, "peft")
    first, second = look_into(one).norm, look_into(three).norm
    assert first is not None and second == pytest.approx(3 * first, rel=1e-5)


def test_inspect_finds_what_cannot_be_used(cli: CliWorld, mini_file: Path) -> None:
    # Given a file with a NaN, and one whose layers no base model here has
    tensors = load_file(mini_file)
    name = next(name for name in tensors if name.endswith("to_q.lora_up.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, cli.folder / "broken.safetensors")
    down, up = torch.ones(2, 7), torch.ones(9, 2)  # up @ down is 9 x 7 twos
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, cli.folder / "other.safetensors")

    # When they are looked into, then the answer and the exit code say so
    broken = cli.json("lora", "inspect", "broken.safetensors", exit_code=1)
    assert broken["non_finite"] == [name.removesuffix(".lora_up.weight")] and broken["norm"] is None
    other = cli.json("lora", "inspect", "other.safetensors", exit_code=1)
    assert not other["sound"] and other["norm"] == pytest.approx((4 * 63) ** 0.5)
    assert "is (in 7, out 9), wanted (640, 640)" in cli.run("lora", "inspect", "other.safetensors", exit_code=1).stderr


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_only_regular_files_are_opened(cli: CliWorld, mini_file: Path, kind: str) -> None:
    # Given a name that stands for no regular file: opening a pipe waits for ever, and a device never ends
    name = cli.folder / "odd.safetensors"
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "device":
        name.symlink_to("/dev/zero")
    elif kind == "folder":
        name.mkdir()

    # When it is named as a LoRA, then every command refuses it as bad input
    word = "there is no LoRA file" if kind == "nothing" else "is no regular file"
    photo = Path(__file__).resolve().parents[3] / "examples" / "photos" / "ada-1.jpg"
    for command in (
        ("inspect", name),
        ("convert", name, "out.safetensors", "--format", "peft"),
        ("refine", name, photo, "--out", "out.safetensors"),
        ("strip", mini_file, name, "--out", "out.png"),
    ):
        told = cli.json("lora", *command, exit_code=2)["error"]["message"]
        assert word in told and "odd.safetensors" in told


def test_integers_are_not_sound(cli: CliWorld, mini_file: Path) -> None:
    # Given a layer of integers, which no program loads as a LoRA
    tensors = load_file(mini_file)
    name = next(name for name in tensors if name.endswith("to_q.lora_up.weight"))
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, cli.folder / "integers.safetensors")

    # When it is looked into, then it is not sound, and that layer is named
    found = cli.json("lora", "inspect", "integers.safetensors", exit_code=1)
    assert not found["sound"] and found["not_floating"] == [name.removesuffix(".lora_up.weight")]
    assert found["non_finite"] == []
    assert "no floating-point numbers in 1 layer" in cli.run("lora", "inspect", found["file"], exit_code=1).stderr


@pytest.mark.parametrize("alpha", [1.0, 1e-30])
def test_a_change_beyond_float32_is_not_sound(cli: CliWorld, mini_file: Path, alpha: float) -> None:
    # Given finite factors whose product is beyond float32, also where a tiny alpha would bring it back
    tensors = load_file(mini_file)
    layer = next(name for name in tensors if name.endswith("to_q.lora_up.weight")).removesuffix(".lora_up.weight")
    for part in ("up", "down"):
        tensors[f"{layer}.lora_{part}.weight"] = torch.full_like(tensors[f"{layer}.lora_{part}.weight"], 1e25)
    tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, cli.folder / "huge.safetensors")

    # When it is looked into, then it is not sound
    found = cli.json("lora", "inspect", "huge.safetensors", exit_code=1)
    assert not found["sound"] and found["non_finite"] == [layer] and found["norm"] is None


def test_a_lora_with_nan_is_bad_input(cli: CliWorld, mini_file: Path) -> None:
    tensors = load_file(mini_file)
    tensors[next(name for name in tensors if name.endswith("lora_up.weight"))][0, 0] = float("nan")
    save_file(tensors, cli.folder / "nan.safetensors")
    told = cli.json("lora", "convert", "nan.safetensors", "out.safetensors", "--format", "peft", exit_code=2)
    assert told["error"]["code"] == "non_finite_weights"


def test_without_torch_the_commands_say_what_to_install(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_found", lambda name: name != "torch")
    commands = [("inspect", "a.safetensors"), ("convert", "a.safetensors", "b.safetensors", "--format", "peft")]
    for command in commands:
        assert "pip install 'hyperlora-portraits[worker]'" in cli.run("lora", *command, exit_code=3).stderr
