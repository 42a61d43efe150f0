"""`portraits lora generate`, `mix`, `slide` and `strip` with the mini pack."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_world import CliWorld
from PIL import Image

from hyperlora.lora import LoRA
from jobs.digital_source import source_of
from jobs.profiles import find_profile
from worker.cli import extras
from worker.lora_tools.maker import LoRAMaker, Person, Place
from worker.lora_tools.photos import read_photos

PHOTOS = Path(__file__).resolve().parents[3] / "examples" / "photos"
ADA, ALAN = [PHOTOS / f"ada-{number}.jpg" for number in (1, 2)], PHOTOS / "alan-1.jpg"


pytestmark = pytest.mark.usefixtures("pack")


@pytest.fixture
def maker(cli: CliWorld, pack: Path) -> LoRAMaker:
    """The mini pack's network, to compute what is expected."""
    return LoRAMaker.load(Place.of(find_profile(cli.settings, "mini-untrained"), cli.settings))


def person(cli: CliWorld, maker: LoRAMaker, *photos: Path) -> Person:
    """What the network is shown of these photos."""
    return maker.read(read_photos(photos, cli.settings), ["clearest"] * len(photos))


def coefficients(maker: LoRAMaker, one: Person) -> torch.Tensor:
    return maker.network.coefficients(one.conditions.face_embeddings, one.conditions.clip_tokens)


def assert_same_effect(found: LoRA, wanted: LoRA) -> None:
    assert found.layers.keys() == wanted.layers.keys()
    for name, layer in wanted.layers.items():
        torch.testing.assert_close(found.layers[name].delta(), layer.delta(), rtol=1e-4, atol=1e-6)


def test_generate_writes_the_weight_set_of_a_job(cli: CliWorld, maker: LoRAMaker) -> None:
    # When a LoRA is made from two photos
    answer = cli.json("lora", "generate", *ADA, "--out", "ada.safetensors")

    # Then it holds the numbers that a worker would store
    from worker.sdxl import PREPROCESSING

    lora = LoRA.load("ada.safetensors")
    one = person(cli, maker, *ADA)
    assert_same_effect(lora, maker.network.generate(one.conditions.face_embeddings, one.conditions.clip_tokens))

    # And the file says how it was made: photos by hash, nobody by name
    sources = [
        {"photos": [hashlib.sha256(file.read_bytes()).hexdigest() for file in ADA], "role": "person", "weight": 1.0}
    ]
    assert json.loads(lora.metadata["hyperlora_sources"]) == sources
    assert lora.metadata["hyperlora_kind"] == "photos" and lora.metadata["hyperlora_branch"] == "id"
    assert lora.metadata["hyperlora_fingerprint"] == maker.network.fingerprint
    assert lora.metadata["hyperlora_face_encoder"] == maker.analyzer.name
    assert lora.metadata["hyperlora_preprocessing"] == PREPROCESSING
    assert lora.metadata["software"] == "hyperlora-portraits" and lora.metadata["software_version"]
    assert not any("ada" in entry for entry in lora.metadata.values())

    # And the answer tells file, photos and trigger words
    assert answer["sha256"] == hashlib.sha256(Path("ada.safetensors").read_bytes()).hexdigest()
    assert answer["trigger_words"] == maker.network.config.trigger_words
    (told,) = answer["people"]
    assert [photo["photo"] for photo in told["photos"]] == [str(file) for file in ADA]
    assert 0 < told["likeness"] <= 1


def test_generate_takes_a_folder_a_pattern_and_a_list(cli: CliWorld) -> None:
    # Given a folder of two photos and a file that is none
    folder = cli.folder / "ada"
    folder.mkdir()
    for file in ADA:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "notes.txt").write_text("nothing", encoding="utf-8")

    # When it is named in three ways, then the same comes out
    for number, name in enumerate((folder, folder / "*.jpg", f"{folder}/ada-1.jpg, {folder}/ada-2.jpg")):
        cli.run("lora", "generate", name, "--out", f"{number}.safetensors")
    assert len({Path(f"{number}.safetensors").read_bytes() for number in range(3)}) == 1


def test_the_base_branch_is_another_lora(cli: CliWorld, maker: LoRAMaker) -> None:
    cli.run("lora", "generate", *ADA, "--out", "base.safetensors", "--branch", "base", "--format", "kohya")
    lora = LoRA.load("base.safetensors")
    tokens = person(cli, maker, *ADA).conditions.base_tokens
    assert_same_effect(lora, maker.network.generate(None, tokens, "base"))
    assert lora.rank == maker.network.config.base_rank and lora.metadata["hyperlora_branch"] == "base"


def test_a_face_may_be_chosen(cli: CliWorld) -> None:
    # Given two people beside each other
    both = Image.new("RGB", (1024, 512))
    for number, file in enumerate((ADA[0], ALAN)):
        both.paste(Image.open(file), (512 * number, 0))
    both.save(cli.folder / "both.png")

    # When each face is asked for
    for face in ("0", "1"):
        cli.run("lora", "generate", "both.png", "--face", face, "--out", f"{face}.safetensors")

    # Then two different people come out
    left, right = (LoRA.load(f"{face}.safetensors") for face in ("0", "1"))
    assert not left.equals(right)
    assert (
        "0 to 9"
        in cli.run("lora", "generate", "both.png", "--face", "tallest", "-o", "c.safetensors", exit_code=2).stderr
    )
    many = ("--face", 0, "--face", 1, "--face", 0)
    assert "found 3" in cli.run("lora", "generate", *ADA, *many, "-o", "d.safetensors", exit_code=2).stderr


def test_a_photo_without_a_face_is_told(cli: CliWorld) -> None:
    # Given a wall
    Image.new("RGB", (300, 300), "teal").save(cli.folder / "wall.png")

    # When it is alone, then nothing is written; beside a good photo it is left out, with the reason
    told = cli.json("lora", "generate", "wall.png", "--out", "a.safetensors", exit_code=2)
    assert told["error"]["code"] == "no_usable_photo" and not Path("a.safetensors").exists()
    answer = cli.json("lora", "generate", "wall.png", ADA[0], "--out", "a.safetensors")
    (one,) = answer["people"]
    assert next(photo["verdict"] for photo in one["photos"]) == "refused"
    assert one["photos"][0]["code"] == "no_face" and one["photos"][0]["reason"]
    assert len(json.loads(LoRA.load("a.safetensors").metadata["hyperlora_sources"])[0]["photos"]) == 1
    assert "refused  wall.png" in cli.run("lora", "generate", "wall.png", ADA[0], "--out", "b.safetensors").stdout


def test_mix_blends_coefficients(cli: CliWorld, maker: LoRAMaker) -> None:
    # When two people are mixed
    answer = cli.json("lora", "mix", f"{ADA[0]},{ADA[1]}=0.6", f"{ALAN}=0.4", "--out", "both.safetensors")

    # Then their coefficients are blended by hand to the same, on the unit sphere, and not their LoRAs
    people = [person(cli, maker, *ADA), person(cli, maker, ALAN)]
    ada, alan = (coefficients(maker, one) for one in people)
    blend = 0.6 * ada + 0.4 * alan
    wanted = maker.network.lora(blend / blend.norm(dim=-1, keepdim=True))
    lora = LoRA.load("both.safetensors")
    assert_same_effect(lora, wanted)
    assert lora.rank == maker.network.config.rank
    assert [one["weight"] for one in json.loads(lora.metadata["hyperlora_sources"])] == [0.6, 0.4]
    assert lora.metadata["hyperlora_kind"] == "mix"
    assert [one["role"] for one in answer["people"]] == ["person 1, weight 0.6", "person 2, weight 0.4"]


def test_only_the_proportion_of_the_weights_counts(cli: CliWorld) -> None:
    for name, weights in (("a", (3, 2)), ("b", (0.6, 0.4))):
        cli.run("lora", "mix", f"{ADA[0]}={weights[0]}", f"{ALAN}={weights[1]}", "--out", f"{name}.safetensors")
    assert_same_effect(LoRA.load("a.safetensors"), LoRA.load("b.safetensors"))


@pytest.mark.parametrize(
    ("people", "told"),
    [
        (("ada.jpg=1",), "found 1"),
        (tuple(f"p{number}.jpg=1" for number in range(9)), "found 9"),
        (("ada.jpg", "alan.jpg=1"), "found 'ada.jpg'"),
        (("ada.jpg=0", "alan.jpg=1"), "found 'ada.jpg=0'"),
        (("ada.jpg=nan", "alan.jpg=1"), "found 'ada.jpg=nan'"),
        (("=1", "alan.jpg=1"), "found '=1'"),
    ],
)
def test_what_cannot_be_mixed_is_said(cli: CliWorld, people: tuple[str, ...], told: str) -> None:
    answer = cli.json("lora", "mix", *people, "--out", "a.safetensors", exit_code=2)
    assert answer["error"]["code"] == "usage" and told in answer["error"]["message"]


def test_slide_is_the_difference(cli: CliWorld, maker: LoRAMaker) -> None:
    # When a slider is made
    cli.run("lora", "slide", "--edited", ADA[1], "--original", ADA[0], "--out", "slider.safetensors")

    # Then it is one LoRA minus the other, layer by layer
    edited, original = (maker.network.lora(coefficients(maker, person(cli, maker, file))) for file in (ADA[1], ADA[0]))
    lora = LoRA.load("slider.safetensors")
    for name, layer in lora.layers.items():
        wanted = edited.layers[name].delta() - original.layers[name].delta()
        torch.testing.assert_close(layer.delta(), wanted, rtol=1e-4, atol=1e-6)
    assert lora.rank == 2 * maker.network.config.rank
    sources = json.loads(lora.metadata["hyperlora_sources"])
    assert [(one["role"], one["weight"]) for one in sources] == [("edited", 1.0), ("original", -1.0)]


def test_strip_draws_each_file_at_each_weight(cli: CliWorld, maker: LoRAMaker) -> None:
    # Given a LoRA
    cli.run("lora", "generate", *ADA, "--out", "ada.safetensors")

    # When it is drawn at three weights
    drawing = ("--weights", "0,0.8,1.2", "--steps", 2)
    answer = cli.json("lora", "strip", "ada.safetensors", "--out", "strip.png", *drawing)

    # Then there is a picture with three tiles, and it says that the pack is untrained
    assert answer["weights"] == [0.0, 0.8, 1.2] and "untrained" in answer["notice"]
    with Image.open("strip.png") as page:
        assert page.format == "PNG" and page.width > 3 * 168
        assert source_of(page) == "compositeSynthetic"
    assert cli.json("inspect", "strip.png")[0]["provenance"]["state"] == "valid"
    for text in ("", "a,b", "nan", ",".join(["1"] * 13)):
        cli.run("lora", "strip", "ada.safetensors", "--out", "b.png", "--weights", text, exit_code=2)


def test_profiles_without_weights_are_refused(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    command: tuple[Any, ...] = ("lora", "generate", *ADA, "--out", "a.safetensors")
    assert "no HyperLoRA checkpoint" in cli.run(*command, "--profile", "fake", exit_code=2).stderr
    assert cli.json(*command, "--profile", "none", exit_code=3)["error"]["code"] == "profile_unknown"
    assert "there is no photo x.jpg" in cli.run("lora", "generate", "x.jpg", "-o", "a.safetensors", exit_code=2).stderr
    monkeypatch.setattr(extras, "_found", lambda name: name != "torch")
    assert "pip install 'hyperlora-portraits[worker]'" in cli.run(*command, exit_code=3).stderr


def test_a_photo_that_is_no_regular_file_is_not_opened(cli: CliWorld) -> None:
    # Given a pipe that nobody writes to, alone and in a folder beside a photo
    folder = cli.folder / "ada"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(ADA[0].read_bytes())
    os.mkfifo(folder / "2.jpg")

    # When it is named, then it is refused; in a folder or a pattern it is left out
    told = cli.json("lora", "generate", folder / "2.jpg", "--out", "a.safetensors", exit_code=2)
    assert told["error"]["code"] == "photo_refused" and "is no regular file" in told["error"]["message"]
    for name in (folder, folder / "*.jpg"):
        answer = cli.json("lora", "generate", name, "--out", "a.safetensors", "--force")
        assert len(answer["people"][0]["photos"]) == 1


def test_the_same_photos_twice_are_refused(cli: CliWorld) -> None:
    # Given a copy of a photo under another name
    (cli.folder / "copy.jpg").write_bytes(ADA[0].read_bytes())

    # When a slider has the same photos on both sides, or a mix has one person twice, then it is refused
    told = cli.json(
        "lora", "slide", "--edited", ADA[0], "--original", "copy.jpg", "--out", "a.safetensors", exit_code=2
    )
    assert "same photos twice" in told["error"]["message"] and "copy.jpg" in told["error"]["message"]
    people = (f"{ADA[0]}=0.5", f"{ALAN}=0.2", "copy.jpg=0.3")
    told = cli.json("lora", "mix", *people, "--out", "a.safetensors", exit_code=2)
    assert "same photos twice" in told["error"]["message"] and not Path("a.safetensors").exists()


@pytest.mark.parametrize("size", [1_000_000, 0, -8])
def test_a_strips_size_is_within_the_settings(cli: CliWorld, size: int) -> None:
    # Given a LoRA file that is not even opened
    (cli.folder / "any.safetensors").write_bytes(b"")
    # When a strip of such pictures is asked for, then it is refused, with what is wanted
    told = cli.json("lora", "strip", "any.safetensors", "--size", size, "--out", "a.png", exit_code=2)
    assert f"wanted 1 to {cli.settings.max_side} pixels" in told["error"]["message"]


def test_a_device_is_measured_and_remembered(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the untrained pack, two pictures at once
    monkeypatch.setenv("PORTRAITS_BATCH_SIZE", "2")

    # When this machine is measured
    answer = cli.json("calibrate", "--size", 64, "--repeat", 1)

    # Then there are costs, kept in this home for this model on this device
    assert answer["each"] >= 0 and answer["batch_size"] == 2 and answer["pixels"] == 64 * 64
    kept = json.loads((cli.home / "calibration.json").read_text())
    ((name, costs),) = kept.items()
    assert name.startswith("cpu ") and costs["base"] == answer["base"]


def test_a_profile_without_a_model_cannot_be_measured(cli: CliWorld) -> None:
    assert "calibration_impossible" in cli.run("calibrate", "--profile", "fake", exit_code=3).stderr
