"""Refining: the loss is the one that is written down, the base stays as it was, the result is a LoRA like any other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from tiny_sdxl import tiny_pipeline
from torch.func import functional_call

from hyperlora import LoRA, LoRALayer, PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, LoRAMismatch, NonFiniteWeights, NoUsablePhoto
from hyperlora.faces.types import Face, FloatArray, RGBArray
from hyperlora.merge import attention_projections
from hyperlora.presets import find_preset
from hyperlora.refine import refine
from hyperlora.refine_crops import crops_of, face_crop

TRIGGER = "fcsks fxhks"


@pytest.fixture
def model(tmp_path: Path) -> PortraitPipeline:
    """A tiny base model of its own, with trigger words."""
    return PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)), trigger_words=TRIGGER)


def start(unet: UNet2DConditionModel, seed: int = 1, *, rank: int = 3, only: str = "") -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: LoRALayer(
            torch.randn(rank, layer.in_features, generator=generator) * 0.1,
            torch.randn(layer.out_features, rank, generator=generator) * 0.1,
            alpha=rank / 2,
        )
        for name, layer in attention_projections(unet).items()
        if only in name
    }
    return LoRA(layers, {"made_from": f"seed {seed}"})


def photo(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Blocks of colour: something that a model can learn."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def weights_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Written:
    """The training loss once more, from the description alone: weights are merged, nothing is attached.

    L = mean over the batch and the latents of (UNet(sqrt(abar_t) x + sqrt(1 - abar_t) n, t, text) - target)^2, where
    abar_t is the product of 1 - beta up to t, and the target n, or sqrt(abar_t) n - sqrt(1 - abar_t) x.
    """

    def __init__(self, model: PortraitPipeline, pictures: list[Image.Image], prompt: str, side: int) -> None:
        self.unet = model.components.unet
        config = model.components.scheduler_config
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
        self.abar = torch.cumprod(1 - betas, 0).float()
        vae = model.components.vae
        pixels = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() for picture in pictures])
        with torch.no_grad():
            # The distribution's mean: the first half of the encoder's channels.
            moments = vae.quant_conv(vae.encoder(pixels / 255 * 2 - 1))
        self.latents = moments[:, :4] * vae.config.scaling_factor
        embedding = model.prompts.encode(prompt)
        self.tokens, self.pooled = embedding.tokens_TC.clone()[None], embedding.pooled_P.clone()[None]
        self.ids = torch.tensor([[side, side, 0, 0, side, side]]).float()

    def loss(
        self,
        factors: dict[str, tuple[torch.Tensor, torch.Tensor]],
        scale: float,
        draws: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        prediction: str,
    ) -> torch.Tensor:
        chosen, timesteps, noise = draws
        paths = {layer: path for path, layer in self.unet.named_modules()}
        merged = {
            f"{paths[layer]}.weight": layer.weight + scale * factors[name][1] @ factors[name][0]
            for name, layer in attention_projections(self.unet).items()
            if name in factors
        }
        x, count = self.latents[chosen], len(chosen)
        a = self.abar[timesteps].sqrt().view(-1, 1, 1, 1)
        b = (1 - self.abar[timesteps]).sqrt().view(-1, 1, 1, 1)
        told = {"text_embeds": self.pooled.repeat(count, 1), "time_ids": self.ids.repeat(count, 1)}
        predicted = functional_call(
            self.unet,
            merged,
            (a * x + b * noise, timesteps),
            {"encoder_hidden_states": self.tokens.repeat(count, 1, 1), "added_cond_kwargs": told},
        ).sample
        target = noise if prediction == "epsilon" else a * noise - b * x
        return ((predicted - target) ** 2).mean()


def with_prediction(model: PortraitPipeline, prediction: str) -> None:
    components = model.components
    config = {**components.scheduler_config, "prediction_type": prediction}
    # What diffusers notes as "not named in the file" gives way to other classes' defaults.
    config["_use_default_values"] = [each for each in config["_use_default_values"] if each != "prediction_type"]
    model.components = dataclasses.replace(components, scheduler_config=config)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_first_step_goes_down_the_gradient_of_the_written_loss(model: PortraitPipeline, prediction: str) -> None:
    # Given one photo that is its own crop, and the draws of seed 5: pictures, timesteps, noise, in this order
    with_prediction(model, prediction)
    picture = photo(3, (48, 48))
    lora = start(model.components.unet, rank=2, only="mid_block")
    draws = torch.Generator().manual_seed(5)
    drawn = (
        torch.randint(1, (2,), generator=draws),
        torch.randint(1000, (2,), generator=draws),
        torch.randn((2, 4, 6, 6), generator=draws),
    )
    # When the gradient is taken of the loss as it is written down
    written = Written(model, [picture], f"{TRIGGER}, somebody", side=48)
    factors = {
        name: (layer.down.clone().requires_grad_(), layer.up.clone().requires_grad_())
        for name, layer in lora.layers.items()
    }
    written.loss(factors, 0.5, drawn, prediction).backward()
    # And one step of AdamW is made, whose first step is the rate times g / (|g| + 1e-8)
    refined = refine(
        model, lora, [picture], steps=1, learning_rate=1e-3, batch_size=2, side=48, prompt="somebody", seed=5
    )
    # Then every number went where the gradient says
    for name, (down, up) in factors.items():
        for factor, before, after in (
            (down, lora.layers[name].down, refined.layers[name].down),
            (up, lora.layers[name].up, refined.layers[name].up),
        ):
            assert factor.grad is not None
            # Sums in another order decide the sign of gradients next to nothing.
            clear = factor.grad.abs() > 1e-3 * factor.grad.abs().max()
            assert clear.float().mean() > 0.9
            step = -1e-3 * factor.grad / (factor.grad.abs() + 1e-8)
            torch.testing.assert_close((after - before)[clear], step[clear], rtol=0.02, atol=1e-6)


def test_the_loss_falls_on_the_photos(model: PortraitPipeline) -> None:
    # Given photos and a loss over draws that the training has not seen
    pictures = [photo(seed, (48, 48)) for seed in range(2)]
    lora = start(model.components.unet)
    written = Written(model, pictures, f"{TRIGGER}, portrait of a person", side=48)
    unseen = torch.Generator().manual_seed(99)
    count = 64
    draws = (
        torch.randint(2, (count,), generator=unseen),
        torch.randint(1000, (count,), generator=unseen),
        torch.randn((count, 4, 6, 6), generator=unseen),
    )

    def loss(of: LoRA) -> float:
        factors = {name: (layer.down, layer.up) for name, layer in of.layers.items()}
        with torch.no_grad():
            return float(written.loss(factors, 0.5, draws, "epsilon"))

    # When refined
    refined = refine(model, lora, pictures, steps=40, learning_rate=3e-3, seed=1)
    # Then it is smaller
    assert loss(refined) < 0.98 * loss(lora)


def test_the_result_is_a_lora_like_any_other_and_the_base_is_as_it_was(model: PortraitPipeline, tmp_path: Path) -> None:
    # Given a sum of LoRAs, whose layers have two ranks and two scales, and a picture drawn before
    unet = model.components.unet
    lora = start(unet, only="attn1") + start(unet, 2, rank=2, only="to_q").scaled(0.5)
    assert {layer.rank for layer in lora.layers.values()} == {2, 3, 5}
    before, modules = weights_of(unet), dict(unet.named_modules())
    sample = Sample("a cat", seed=4)
    plain = model.draw([sample], width=64, height=64, steps=2).images[0]
    told: list[tuple[int, int]] = []
    # When refined for three steps
    refined = refine(model, lora, [photo(0)], steps=3, seed=2, on_step=lambda *done: told.append(done))
    # Then layers, ranks, alphas and dtypes are the same, the numbers are not
    assert list(refined.layers) == list(lora.layers)
    for name, layer in refined.layers.items():
        begun = lora.layers[name]
        assert (layer.down.shape, layer.up.shape, layer.alpha) == (begun.down.shape, begun.up.shape, begun.alpha)
        assert (layer.down.dtype, layer.up.dtype) == (begun.down.dtype, begun.up.dtype)
        assert not torch.equal(layer.down, begun.down) and not torch.equal(layer.up, begun.up)
        # Three steps of rate 1e-4 go no further than that.
        assert (layer.down - begun.down).abs().max() < 4e-4
        assert not layer.down.requires_grad
    assert told == [(1, 3), (2, 3), (3, 3)]
    # And the base is the same in every bit and module, and draws the same
    assert same(weights_of(unet), before)
    assert all(modules[path] is module for path, module in unet.named_modules())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert not unet.training and not unet.is_gradient_checkpointing and not hasattr(unet, "peft_config")
    assert model.draw([sample], width=64, height=64, steps=2).images[0].tobytes() == plain.tobytes()
    # And the result is saved, loaded, applied; it says what it was made of
    refined.save(tmp_path / "x.safetensors")
    loaded = LoRA.load(tmp_path / "x.safetensors", fits=model.merger.shapes)
    assert loaded.equals(refined)
    model.apply([(loaded, 0.8)])
    assert model.draw([sample], width=64, height=64, steps=2).images[0].tobytes() != plain.tobytes()
    metadata = loaded.metadata
    assert metadata["refined_from"] == hashlib.sha256(lora.to_bytes()).hexdigest()
    assert metadata["refined_prompt"] == f"{TRIGGER}, portrait of a person"
    assert metadata["refined_settings"] == "steps 3, rate 0.0001, batch 4, side 48, seed 2"
    assert (metadata["refined_photos"], metadata["refined_base"]) == ("1", model.fingerprint)


def test_training_begins_at_the_given_lora_whatever_its_ranks_and_scales(model: PortraitPipeline) -> None:
    # Given a sum of LoRAs, whose layers have ranks 2, 3 and 5 and scales 0.5, 1 and 0.25
    unet = model.components.unet
    lora = start(unet, only="attn1") + start(unet, 2, rank=2, only="attn2_to_v").scaled(0.5)
    lora = lora + start(unet, 3, rank=2, only="attn1_to_q").scaled(4.0)
    assert {(layer.rank, layer.scale) for layer in lora.layers.values()} == {(3, 0.5), (2, 0.25), (5, 1.0)}
    calls: list[tuple[Any, Any, torch.Tensor]] = []
    hook = unet.register_forward_hook(
        lambda _, given, named, answer: calls.append((given, named, answer[0].detach())), with_kwargs=True
    )
    # When the first step of a training looks at its pictures
    refine(model, lora, [photo(0)], steps=1)
    hook.remove()
    # Then the UNet answers as with the LoRA merged
    ((given, named, answer),) = calls
    model.apply([(lora, 1.0)])
    with torch.no_grad():
        merged = unet(*given, **named)[0]
        model.restore()
        plain = unet(*given, **named)[0]
    assert (answer - merged).abs().max() < 1e-5 * merged.abs().max()
    assert (plain - merged).abs().max() > 1e-2 * merged.abs().max()


def test_a_seed_decides_everything(model: PortraitPipeline) -> None:
    lora = start(model.components.unet, only="mid_block")
    pictures = [photo(0), photo(1)]
    first = refine(model, lora, pictures, steps=2, seed=7)
    assert refine(model, lora, pictures, steps=2, seed=7).equals(first)
    assert not refine(model, lora, pictures, steps=2, seed=8).equals(first)
    assert not refine(model, lora, pictures, steps=2, seed=7, trigger_words=False).equals(first)


def test_texts_that_were_encoded_while_drawing_can_be_trained_on(model: PortraitPipeline) -> None:
    # Given a text in the pipeline's cache, made without gradients, and a caller who wants none either
    model.draw([Sample("portrait of a person", seed=1)], width=64, height=64, steps=1)
    with torch.inference_mode():
        refined = refine(model, start(model.components.unet, only="mid_block"), [photo(0)], steps=1)
    assert not next(iter(refined.layers.values())).down.is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision_is_refined_in_full(model: PortraitPipeline, dtype: torch.dtype) -> None:
    # Given a half-precision base and a LoRA of float16
    model.components.unet.to(dtype)
    model = PortraitPipeline(model.components)
    lora = start(model.components.unet, only="mid_block").to(dtype=torch.float16)
    # When refined at a rate that half precision could not add to the factors step by step
    refined = refine(model, lora, [photo(0)], steps=4, learning_rate=1e-4)
    # Then every layer has moved, and has the LoRA's own dtype
    for name, layer in refined.layers.items():
        assert layer.up.dtype == torch.float16
        assert not torch.equal(layer.up, lora.layers[name].up)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_abort_leaves_the_base_as_it_was(model: PortraitPipeline, stop: type[BaseException]) -> None:
    unet = model.components.unet
    before, modules = weights_of(unet), dict(unet.named_modules())

    def abort(done: int, steps: int) -> None:
        raise stop

    with pytest.raises(stop):
        refine(model, start(unet), [photo(0)], steps=5, on_step=abort)
    assert same(weights_of(unet), before)
    assert all(modules[path] is module for path, module in unet.named_modules())
    assert not unet.is_gradient_checkpointing


def overflowing(unet: UNet2DConditionModel) -> LoRA:
    layers = start(unet, only="mid_block").layers.items()
    return LoRA({name: LoRALayer(layer.down * 1e25, layer.up * 1e25, layer.alpha) for name, layer in layers})


def of_another_unet(unet: UNet2DConditionModel) -> LoRA:
    lora = start(unet, only="mid_block")
    return LoRA({f"{name}_x": layer for name, layer in lora.layers.items()})


def with_nan(unet: UNet2DConditionModel) -> LoRA:
    lora = start(unet, only="mid_block")
    next(iter(lora.layers.values())).up[0, 0] = torch.nan
    return lora


@pytest.mark.parametrize(
    ("changes", "make", "error", "message"),
    [
        ({"steps": 0}, start, InvalidRequest, "found steps 0"),
        ({"batch_size": 0}, start, InvalidRequest, "batch_size 0"),
        ({"learning_rate": float("nan")}, start, InvalidRequest, "learning_rate nan"),
        ({"side": 0}, start, InvalidRequest, "positive multiple of 8 pixels, found 0"),
        ({"side": 50}, start, InvalidRequest, "positive multiple of 8 pixels, found 50"),
        ({"photos": []}, start, InvalidRequest, "at least one photo of the person, found none"),
        ({"photos": [Image.new("RGB", (20, 20))]}, start, NoUsablePhoto, "none of the 1 photos.* 20 x 20 pixels"),
        ({}, lambda unet: LoRA({}), LoRAMismatch, "found an empty one"),
        ({}, of_another_unet, LoRAMismatch, "which this UNet lacks"),
        ({}, with_nan, NonFiniteWeights, "holds NaN"),
        ({}, overflowing, NonFiniteWeights, r"the loss of step 1 is (nan|inf); use a base in bfloat16"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    model: PortraitPipeline,
    changes: dict[str, Any],
    make: Callable[[UNet2DConditionModel], LoRA],
    error: type[Exception],
    message: str,
) -> None:
    before = weights_of(model.components.unet)
    pictures = changes.pop("photos", [photo(0)])
    with pytest.raises(error, match=message):
        refine(model, make(model.components.unet), pictures, **{"steps": 1, **changes})
    assert same(weights_of(model.components.unet), before)


def test_a_training_that_ends_in_nan_gives_no_lora(model: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given gradients that overflow while the loss is still a number
    def overflow(parameters: list[torch.nn.Parameter], limit: float) -> None:
        parameters[1].grad = torch.full_like(parameters[1], torch.nan)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflow)
    before = weights_of(model.components.unet)
    with pytest.raises(
        NonFiniteWeights, match=r"refining made layer lora_unet_mid_block.* NaN or infinite; use a base"
    ):
        refine(model, start(model.components.unet, only="mid_block"), [photo(0)], steps=1)
    assert same(weights_of(model.components.unet), before)


def test_a_merged_base_is_refused(model: PortraitPipeline) -> None:
    lora = start(model.components.unet, only="mid_block")
    model.apply([(lora, 0.8)])
    with pytest.raises(InvalidRequest, match="found LoRAs merged into it; call restore"):
        refine(model, lora, [photo(0)], steps=1)
    model.restore()
    assert refine(model, lora, [photo(0)], steps=1)


def test_a_base_that_predicts_pictures_is_refused(model: PortraitPipeline) -> None:
    with_prediction(model, "sample")
    with pytest.raises(InvalidRequest, match="this one predicts 'sample'"):
        refine(model, start(model.components.unet), [photo(0)], steps=1)


def test_a_base_with_a_preset_is_refused(model: PortraitPipeline) -> None:
    model.components = dataclasses.replace(model.components, preset=find_preset("lightning-4"))
    with pytest.raises(InvalidRequest, match="found the few-step preset 'lightning-4' fused into it"):
        refine(model, start(model.components.unet), [photo(0)], steps=1)


def face_at(left: float, top: float, right: float, bottom: float) -> Face:
    box = np.array([left, top, right, bottom], dtype=np.float32)
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    points = [(x - w / 5, y - h / 6), (x + w / 5, y - h / 6), (x, y), (x - w / 6, y + h / 4), (x + w / 6, y + h / 4)]
    return Face(box, 0.99, np.array(points, dtype=np.float32))


@pytest.mark.parametrize(
    ("face", "expected"),
    [
        # The longer side of 40 x 2 = 80, around the middle (100, 60)
        (face_at(85, 40, 115, 80), (60, 20, 140, 100)),
        # At the left and upper edge it is moved inside
        (face_at(0, 0, 30, 40), (0, 0, 80, 80)),
        # A face that fills the photo: the largest square, 120, moved
        (face_at(80, 0, 180, 110), (70, 0, 190, 120)),
    ],
)
def test_a_crop_is_twice_the_face_and_lies_inside_the_photo(face: Face, expected: tuple[int, int, int, int]) -> None:
    # Given a photo with a white rectangle exactly where the crop should be
    picture = Image.new("RGB", (200, 120), "black")
    left, top, right, bottom = expected
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill="white")
    # When cropped at its own size, then all is white; one pixel more, and it is not
    crop = face_crop(picture, face, right - left)
    assert crop.size == (right - left, right - left)
    assert crop.getextrema() == ((255, 255),) * 3


class WhiteFaces:
    """An analyzer that sees a face in the left and in the right half of a photo, wherever that is not black."""

    name, embedding_size = "test-encoder", 4

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        seen = []
        middle = rgb_HW3.shape[1] // 2
        for start, end in ((0, middle), (middle, rgb_HW3.shape[1])):
            rows, columns = np.nonzero(rgb_HW3[:, start:end, 0] > 200)
            if len(rows):
                seen.append(face_at(start + columns.min(), rows.min(), start + columns.max() + 1, rows.max() + 1))
        return seen

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        return np.array([1, 0, 0, 0], dtype=np.float32)


def test_photos_without_a_face_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    # Given a photo with a face, and one without
    black = Image.new("RGB", (400, 160))
    with_face = black.copy()
    ImageDraw.Draw(with_face).rectangle((60, 50, 119, 109), fill="white")
    # When cropped, then the one with a face is there, 60 of 120 pixels across, and the other is named in the log
    (crop,) = crops_of([black, with_face], 60, WhiteFaces())
    seen = np.asarray(crop)[..., 0] > 128
    assert (seen.any(axis=0).sum(), seen.any(axis=1).sum()) == (30, 30)
    assert "not refined on photo 1: no face found" in caplog.text
    with pytest.raises(NoUsablePhoto, match=r"none of the 2 photos can be used: photo 1: no face found.*; photo 2: no"):
        crops_of([black, black], 60, WhiteFaces())


def test_the_face_that_is_meant_is_cropped() -> None:
    # Given a photo with a small face on the left and a large one on the right
    both = Image.new("RGB", (400, 160))
    ImageDraw.Draw(both).rectangle((60, 50, 99, 89), fill="white")
    ImageDraw.Draw(both).rectangle((280, 50, 339, 109), fill="white")
    # When the right one is meant, by its number or its size, then it is in the crop, and the left one otherwise
    right = crops_of([both], 120, WhiteFaces(), [1])[0].tobytes()
    assert crops_of([both], 120, WhiteFaces(), ["largest"])[0].tobytes() == right
    assert crops_of([both], 80, WhiteFaces(), [0])[0].tobytes() == both.crop((40, 30, 120, 110)).tobytes()
    with pytest.raises(InvalidRequest, match="one choice of a face for each photo: found 1 for 2 photos"):
        crops_of([both, both], 80, WhiteFaces(), [0])


def test_photos_lie_as_people_see_them() -> None:
    # Given a photo that a phone stored lying, and no analyzer
    standing = photo(1, (60, 80))
    lying = standing.transpose(Image.Transpose.ROTATE_90)
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    lying.info["exif"] = exif.tobytes()
    # Then its crop is that of the standing photo
    assert crops_of([lying], 48, None)[0].tobytes() == crops_of([standing], 48, None)[0].tobytes()
