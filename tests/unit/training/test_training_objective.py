"""What a sample is compared with in each setting, and who is asked for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_training import CHANNELS, CLIP, FACE, SIDE, SIZES, TOKENS, tiny_components, tiny_config

from hyperlora import HyperLoRA, HyperLoRAConfig
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest
from hyperlora.prompts import PromptEncoder
from hyperlora.training.branches import BaseBranch, IdBranch
from hyperlora.training.captions import Captions
from hyperlora.training.objective import Conditions, Frozen, Noised, Objective
from hyperlora.training.pictures import latents_of
from hyperlora.training.stages import settings_of

B = 4


@pytest.fixture(scope="module")
def network(components: SDXLComponents) -> HyperLoRA:
    torch.manual_seed(13)
    config = HyperLoRAConfig.from_unet(components.unet.config, face_width=FACE, clip_width=CLIP, **SIZES)
    made = HyperLoRA(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    torch.manual_seed(14)
    return Conditions(torch.randn(B, FACE), torch.randn(B, TOKENS, CLIP), torch.randn(B, TOKENS, CLIP))


@pytest.fixture(scope="module")
def noised() -> Noised:
    torch.manual_seed(15)
    shape = (B, CHANNELS, SIDE // 4, SIDE // 4)
    return Noised(
        torch.randn(shape),
        torch.randn(shape),
        torch.tensor([5, 300, 700, 999]),
        torch.randn(B, 77, 32),
        torch.randn(B, 16),
    )


class Counting:
    """A UNet that notes how many samples it is asked about, with gradient and without."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.asked = unet, []
        self.dtype, self.device = unet.dtype, unet.device

    def __call__(self, sample: torch.Tensor, *args: Any, **named: Any) -> Any:
        self.asked.append((len(sample), torch.is_grad_enabled()))
        return self.unet(sample, *args, **named)

    def named_modules(self) -> Any:
        return self.unet.named_modules()


def make(components: SDXLComponents, network: HyperLoRA, stage: str, **more: Any) -> tuple[Objective, Any]:
    frozen = Frozen(
        id=copy.deepcopy(IdBranch(network)) if stage == "distill" else None,
        base=None if stage == "base" else BaseBranch(network),
    )
    schedule = diffusers.DDPMScheduler.from_config(components.scheduler_config)
    settings = settings_of(tiny_config(stage, Path("run")))
    unet = more.pop("unet", components.unet)
    made = Objective(unet, schedule, settings, scale=0.5, side=SIDE, frozen=frozen, **more)
    return made, BaseBranch(network) if stage == "base" else IdBranch(network)


def predict(components: SDXLComponents, noised: Noised, loras: Any, row: int) -> torch.Tensor:
    """What the UNet with merged LoRAs predicts for one sample."""
    from hyperlora.merge import WeightMerger

    unet = copy.deepcopy(components.unet)
    WeightMerger(unet).merge(loras)
    part = slice(row, row + 1)
    schedule = diffusers.DDPMScheduler.from_config(components.scheduler_config)
    noisy = schedule.add_noise(noised.latents_BCHW[part], noised.noise_BCHW[part], noised.timesteps_B[part])
    ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], dtype=torch.float32)
    with torch.no_grad():
        answer: torch.Tensor = unet(
            noisy,
            noised.timesteps_B[part],
            encoder_hidden_states=noised.tokens_BTC[part],
            added_cond_kwargs={"text_embeds": noised.pooled_BP[part], "time_ids": ids},
            return_dict=False,
        )[0]
    return answer


@pytest.mark.parametrize("stage", ["base", "id-face", "distill"])
def test_each_setting_compares_what_the_method_says(
    stage: str, components: SDXLComponents, network: HyperLoRA, conditions: Conditions, noised: Noised
) -> None:
    # Given a batch with every setting of the stage in it
    count = 1 if stage == "base" else 3
    settings_B = torch.arange(B) % count
    objective, student = make(components, network, stage)
    if stage == "base":
        conditions = Conditions(None, None, conditions.base_tokens_BTC)

    # When the losses are taken
    with torch.no_grad():
        losses_B = objective.losses(student, conditions, noised, settings_B)

    # Then each is the distance of two predictions with merged LoRAs, or to the noise
    for row in range(B):
        one = slice(row, row + 1)
        base_lora = network.generate(None, conditions.base_tokens_BTC[one], "base")  # type: ignore[index]
        setting = objective.settings[int(settings_B[row])]
        id_lora = base_lora
        if stage != "base":
            assert conditions.face_embeddings_BE is not None and conditions.clip_tokens_BTC is not None
            id_lora = network.generate(conditions.face_embeddings_BE[one], conditions.clip_tokens_BTC[one])
        loras = [(id_lora, setting.student.id), (base_lora, setting.student.base)]
        student_says = predict(components, noised, loras, row)
        target = noised.noise_BCHW[one]
        if setting.teacher is not None:
            loras = [(id_lora, setting.teacher.id), (base_lora, setting.teacher.base)]
            target = predict(components, noised, loras, row)
        expected = (student_says - target).square().mean()
        torch.testing.assert_close(losses_B[row], expected, rtol=1e-4, atol=1e-6)


def test_a_teacher_is_asked_only_about_samples_that_need_one(
    components: SDXLComponents, network: HyperLoRA, conditions: Conditions, noised: Noised
) -> None:
    counting = Counting(components.unet)
    objective, student = make(components, network, "id-face", unet=counting)

    # When nobody needs a teacher, then the UNet runs once, with gradient
    objective.losses(student, conditions, noised, torch.zeros(B, dtype=torch.int64), lambda loss: loss.backward())
    assert counting.asked == [(B, True)]

    # When two do, then it is asked about these two, without gradient, before
    counting.asked.clear()
    objective.losses(student, conditions, noised, torch.tensor([0, 1, 0, 2]), lambda loss: loss.backward())
    assert counting.asked == [(2, False), (B, True)]


def test_weights_count_in_the_gradient_and_not_in_the_log(
    components: SDXLComponents, network: HyperLoRA, conditions: Conditions, noised: Noised
) -> None:
    objective, student = make(components, network, "id-face")
    objective._weight_S = torch.tensor([1.0, 4.0, 1.0])
    seen: list[float] = []
    losses_B = objective.losses(
        student, conditions, noised, torch.tensor([0, 1, 0, 0]), lambda loss: seen.append(loss.item())
    )
    whole = (losses_B.sum() + 3 * losses_B[1]) / B
    assert seen == pytest.approx([whole.item()], rel=1e-5)


def test_a_velocity_model_is_trained_on_velocities(tmp_path: Path, network: HyperLoRA, conditions: Conditions) -> None:
    # Given a base model that predicts velocities, and LoRAs that change nothing
    components = tiny_components(tmp_path, "v_prediction")
    quiet = copy.deepcopy(network)
    torch.nn.init.zeros_(next(iter(quiet.id_bases.up.values())))
    objective, student = make(components, quiet, "id-face")
    torch.manual_seed(1)
    latents, noise = torch.randn(2, B, CHANNELS, SIDE // 4, SIDE // 4)
    noised = Noised(latents, noise, torch.full((B,), 999), torch.randn(B, 77, 32), torch.randn(B, 16))

    # Then the target is alpha * noise - sigma * latents
    asked: list[torch.Tensor] = []
    objective._targets = (  # type: ignore[method-assign]
        lambda *given, real=objective._targets: asked.append(real(*given)) or asked[-1]  # type: ignore[func-returns-value]
    )
    with torch.no_grad():
        objective.losses(student, conditions, noised, torch.zeros(B, dtype=torch.int64))
    cumulative = diffusers.DDPMScheduler.from_config(components.scheduler_config).alphas_cumprod[999]
    expected = cumulative.sqrt() * noise - (1 - cumulative).sqrt() * latents
    torch.testing.assert_close(asked[0], expected)


def test_other_predictions_are_refused(tmp_path: Path, network: HyperLoRA) -> None:
    with pytest.raises(InvalidRequest, match="predicts 'sample'"):
        make(tiny_components(tmp_path, "sample"), network, "id-face")


def test_min_snr_weighs_easy_timesteps_down(
    components: SDXLComponents, network: HyperLoRA, conditions: Conditions, noised: Noised
) -> None:
    # Given the same batch with and without the weighting
    plain, student = make(components, network, "id-face")
    weighed, _ = make(components, network, "id-face", min_snr_gamma=5.0)
    zeros = torch.zeros(B, dtype=torch.int64)
    with torch.no_grad():
        ratio_B = weighed.losses(student, conditions, noised, zeros) / plain.losses(student, conditions, noised, zeros)

    # Then the ratio is min(snr, 5) / snr
    cumulative = diffusers.DDPMScheduler.from_config(components.scheduler_config).alphas_cumprod[noised.timesteps_B]
    snr = cumulative / (1 - cumulative)
    torch.testing.assert_close(ratio_B, snr.clamp(max=5) / snr, rtol=1e-4, atol=1e-6)
    assert ratio_B[0] < 0.1 and ratio_B[3] == pytest.approx(1.0)


def test_captions_are_what_the_pipeline_reads(components: SDXLComponents) -> None:
    # Given captions of our encoder and of the pipeline's
    encoder = PromptEncoder(components.tokenizers, components.text_encoders)
    texts = ["a red hat", "", "a blue coat", "a red hat"]
    for capacity in (0, 2):
        captions = Captions(components, capacity)
        for _ in range(2):
            tokens_BTC, pooled_BP = captions.encode(texts)

            # Then they are the same, and the empty text is zeros, as the model's folder says
            assert components.force_zeros_for_empty_prompt
            for row, text in enumerate(texts):
                known = encoder.encode(text)
                expected = known if text else known.zeros()
                torch.testing.assert_close(tokens_BTC[row], expected.tokens_TC, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(pooled_BP[row], expected.pooled_P, rtol=1e-5, atol=1e-5)
        assert len(captions._remembered) == capacity
    # And a long text is cut, not refused
    assert captions.encode(["word " * 200])[0].shape == (1, 77, 32)


def test_pixels_become_the_latents_that_the_pipeline_makes(components: SDXLComponents) -> None:
    from PIL import Image

    from hyperlora.sampling import encode

    torch.manual_seed(2)
    bytes_HW3 = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8)
    pixels_13HW = bytes_HW3.permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = encode(components.vae, [Image.fromarray(bytes_HW3.numpy())], at_once=1)
    torch.testing.assert_close(latents_of(components.vae, pixels_13HW), expected)
