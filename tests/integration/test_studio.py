"""Everything a manifest can ask of the real renderer, on the mini pack: one worker process, no server."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image, ImageOps
from safetensors.torch import save_file
from sqlalchemy import select
from transformers import CLIPConfig, CLIPImageProcessorPil

from hyperlora import ClipVision, HyperLoRA, PortraitPipeline, Region, Sample
from hyperlora.faces import load_analyzer
from hyperlora.identity import prepare_identity
from hyperlora.mini import build_untrained_pack
from jobs import enqueue, results
from jobs.database import Database
from jobs.models import Unit, WeightSet
from jobs.profiles import Profile, find_profile
from jobs.reports import outputs
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.process import WorkerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = EXAMPLES / "photos"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained_pack(tmp_path_factory.mktemp("home") / "packs" / "mini-untrained")


def opened(home: Path, **more: Any) -> Settings:
    """Settings with a migrated SQLite database in `home`."""
    settings = Settings(home=home, **more)
    Database.from_settings(settings).upgrade()
    return settings


def drawn(settings: Settings, profile: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Draw all that waits, in this process; every render by person and prompt."""
    process = WorkerProcess(settings)
    try:
        process.run_shift(first_unit(settings), profile)
    finally:
        process.close()
    return {(row["external_id"], row["prompt_name"]): row for row in results(settings=settings)}


def first_unit(settings: Settings) -> uuid.UUID:
    with Database.from_settings(settings).reading() as tx:
        return tx.execute(select(Unit.id).order_by(Unit.sort_key).limit(1)).scalar_one()


def picture(settings: Settings, row: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = open_storage(settings.storage_url, settings).get(row["storage_key"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def test_the_studio_example_is_drawn_as_the_library_draws_it(tmp_path: Path) -> None:
    # Given the example that uses most of the manifest
    settings = opened(tmp_path)
    job = enqueue(EXAMPLES / "studio.yaml", settings=settings)

    # When it is drawn
    rows = drawn(settings, "mini")

    # Then every picture is there, made with weight sets of every kind, each generated once
    assert {row["state"] for row in rows.values()} == {"done"}
    assert job.renders == 27
    with Database.from_settings(settings).reading() as tx:
        kinds = list(tx.execute(select(WeightSet.kind, WeightSet.branch, WeightSet.generations)))
    assert {tuple(kind) for kind in kinds} == {
        ("photos", "id", 1), ("photos", "base", 1), ("mix", "id", 1), ("mix", "base", 1), ("slider", "id", 1),
    }  # fmt: skip
    # ... of a given picture only the white part of the mask was redrawn
    mask = np.asarray(ImageOps.fit(Image.open(EXAMPLES / "pictures/around-the-person.png").convert("L"), (64, 64)))
    given = np.asarray(ImageOps.fit(Image.open(PHOTOS / "ada-2.jpg").convert("RGB"), (64, 64), Image.LANCZOS), int)
    found = picture(settings, rows["ada", "new-background"])
    assert (found[mask == 0] == given[mask == 0]).all()
    assert np.abs(found[mask == 255] - given[mask == 255]).mean() > 20
    # ... every picture has its avatar
    avatars = list(outputs(settings=settings))
    assert len(avatars) == 27
    assert {(one["name"], one["width"], one["height"]) for one in avatars} == {("avatar", 48, 48)}
    # ... and two people side by side are what the library draws alone
    row = rows["two-of-them", "full"]
    alone = together(find_profile(settings, "mini"), row)
    assert np.abs(picture(settings, row) - np.asarray(alone, dtype=int)).max() <= 1


def together(profile: Profile, row: dict[str, Any]) -> Image.Image:
    """Ada on the left and Linus on the right, drawn by the library."""
    network = HyperLoRA.from_pretrained(profile.hyperlora)
    clip = ClipVision.from_pretrained(profile.clip_vision)
    analyzer = load_analyzer(profile.faces)
    pipeline = PortraitPipeline.from_pretrained(profile.base, trigger_words=network.config.trigger_words)
    people = {
        "ada": ([PHOTOS / "ada-1.jpg", PHOTOS / "ada-3.jpg"], None),
        "linus": ([EXAMPLES / "pictures/linus-and-hedy.jpg"], [0]),
    }
    regions = []
    for name, left, words in (("ada", 0, "a woman in a red dress"), ("linus", 32, "a man in a navy suit")):
        photos, faces = people[name]
        found = prepare_identity(analyzer, clip, [Image.open(photo) for photo in photos], faces=faces)
        stack = (
            (network.generate(found.face_embeddings, found.clip_tokens), 0.8),
            (network.generate(None, found.base_tokens, branch="base"), 0.4),
        )
        mask = Image.new("L", (64, 64))
        mask.paste(255, (left, 0, left + 32, 64))
        regions.append(Region(stack, mask, words))
    sample = Sample(row["prompt"], row["seed"], row["negative_prompt"], row["guidance"])
    settings = {name: row[name] for name in ("width", "height", "steps", "scheduler")}
    return pipeline.draw([sample], regions=regions, **settings).images[0]


@pytest.fixture(scope="module")
def parts(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ControlNet, safety checker, upscaler and few-step LoRA that fit the mini pack."""
    from hyperlora import upscale

    upscale._spandrel()
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    place = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(pack / "sdxl" / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    for zero in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(zero.weight, std=0.2)
    net.save_pretrained(place / "controlnet")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        text_config={"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "bos_token_id": 1, "eos_token_id": 2},
        projection_dim=16,
    )
    checker = StableDiffusionSafetyChecker(config)
    for limits in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        limits.data.fill_(1.5)
    checker.save_pretrained(place / "checker")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        place / "checker"
    )
    compact = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    save_file({name: tensor.clone() for name, tensor in compact.state_dict().items()}, place / "x2.safetensors")
    few = {}
    for name, module in (("conv_in", unet.conv_in), ("time_embedding_linear_1", unet.time_embedding.linear_1)):
        flat = module.weight.flatten(1)
        tail = module.weight.shape[2:]
        few[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, *module.weight.shape[1:]) * 0.1
        few[f"lora_unet_{name}.lora_up.weight"] = torch.randn(flat.shape[0], 2, *(1 for _ in tail)) * 0.1
        few[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    save_file(few, place / "few.safetensors")
    return place


def profiles_file(pack: Path, parts: Path, file: Path) -> Path:
    """Two profiles of the mini pack: with every part, and without."""
    common = f"""
base = "{pack}/sdxl"
hyperlora = "{pack}/hyperlora"
clip_vision = "{pack}/clip_vision"
dtype = "float32"
"""
    file.write_text(
        f"""
[profiles.studio]{common}
safety = "{parts}/checker"
preset = "lcm-4"
preset_weights = "{parts}/few.safetensors"
defaults = {{ size = 128 }}
controlnets = {{ any = "{parts}/controlnet" }}
upscalers = {{ x2 = "{parts}/x2.safetensors" }}

[profiles.bare]{common}
safety = "none"
defaults = {{ size = 128, steps = 4 }}
"""
    )
    return file


def asked(**more: Any) -> dict[str, Any]:
    """One person, one prompt for each thing that needs a part of the profile."""
    text = "portrait photo of a woman"
    return {
        "prompts": [
            {"name": "plain", "text": text},
            {"name": "posed", "text": text, "control": [{"net": "any", "image": "pictures/pose.png", "end": 0.7}]},
            {"name": "points", "text": text, "control": [{"net": "any", "keypoints": "photo", "scale": 0.6}]},
            {"name": "large", "text": text, "outputs": [{"format": "webp", "upscale": "x2", "crop": "face"}]},
            {"name": "gated", "text": text, "min_id_similarity": 0.9, "attempts": 2},
        ],
        "identities": [{"id": "ada", "photos": ["photos/ada-1.jpg"]}],
        "defaults": {"seeds": [7]},
        **more,
    }


def test_parts_of_a_profile(pack: Path, parts: Path, tmp_path: Path) -> None:
    # Given a profile with a few-step preset, a ControlNet, a checker and an upscaler
    settings = opened(tmp_path, profiles_file=profiles_file(pack, parts, tmp_path / "profiles.toml"))
    enqueue(asked(profile="studio"), base=EXAMPLES, settings=settings)

    # When a job that uses all of them is drawn
    rows = drawn(settings, "studio")

    # Then the preset decided steps, sampler and guidance
    assert {(row["state"], row["error"]) for row in rows.values()} == {("done", None)}
    assert {(row["steps"], row["scheduler"], row["guidance"]) for row in rows.values()} == {(4, "lcm", 0.0)}
    # ... the ControlNet changed the picture, and a pose otherwise than key points
    plain, posed, points = (picture(settings, rows["ada", name]) for name in ("plain", "posed", "points"))
    assert np.abs(plain - posed).max() > 8
    assert np.abs(posed - points).max() > 8
    # ... and the upscaler enlarged it; no face was found, so the gate tried both seeds
    assert (rows["ada", "large"]["output_width"], rows["ada", "large"]["media_type"]) == (256, "image/webp")
    assert rows["ada", "gated"]["draws"] == 2


def test_what_a_profile_lacks_fails_alone_and_says_so(pack: Path, parts: Path, tmp_path: Path) -> None:
    # Given a profile without any of these parts
    settings = opened(tmp_path, profiles_file=profiles_file(pack, parts, tmp_path / "profiles.toml"))
    enqueue(asked(profile="bare"), base=EXAMPLES, settings=settings)

    # When the same job is drawn
    rows = drawn(settings, "bare")

    # Then what needs no part is there, and the rest names what is missing and where to add it
    assert {name for (_, name), row in rows.items() if row["state"] == "done"} == {"plain", "gated"}
    for name, what in (("posed", "controlnets"), ("points", "controlnets"), ("large", "upscalers")):
        assert rows["ada", name]["error_code"] == "not_in_profile"
        assert f"[profiles.bare.{what}]" in rows["ada", name]["error"]


def test_the_preset_is_part_of_the_models_fingerprint(pack: Path, parts: Path) -> None:
    # Given the same base model with and without few-step weights
    plain = PortraitPipeline.from_pretrained(pack / "sdxl")
    few = PortraitPipeline.from_pretrained(pack / "sdxl", preset="lcm-4", preset_weights=parts / "few.safetensors")

    # When both are looked at, then rows can tell them apart, and restoring keeps the fused weights
    before = few.components.unet.conv_in.weight.clone()
    few.restore()
    assert plain.fingerprint != few.fingerprint
    assert torch.equal(before, few.components.unet.conv_in.weight)
    assert not torch.equal(before, plain.components.unet.conv_in.weight)
