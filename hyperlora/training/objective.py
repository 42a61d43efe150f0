"""The loss of one pass: noise, teacher, student, compared per sample.

Shapes: B samples, S settings, latents (B, C, H, W), face conditions as in `branches`.

The student predicts with each sample's own LoRAs on activations. What it should predict is the true noise (or velocity,
where the base model predicts that), or what a teacher predicts with other LoRAs on. Teachers run without gradient, and
only on the samples that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hyperlora.errors import InvalidRequest
from hyperlora.grouped import Factors, Scale, chosen, grouped, joined
from hyperlora.merge import attention_projections
from hyperlora.training.branches import BaseBranch, IdBranch
from hyperlora.training.stages import Setting, Switches

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Conditions:
    """What the branches read, on the training's device; None where the stage does not read it."""

    face_embeddings_BE: torch.Tensor | None
    clip_tokens_BTC: torch.Tensor | None
    base_tokens_BTC: torch.Tensor | None


@dataclass(frozen=True)
class Noised:
    """The samples of a pass as the UNet sees them, on its device."""

    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    tokens_BTC: torch.Tensor
    pooled_BP: torch.Tensor


@dataclass(frozen=True)
class Frozen:
    """Branches that speak but do not learn."""

    id: IdBranch | None = None
    base: BaseBranch | None = None


class Objective:
    """Everything that stays the same between passes."""

    def __init__(
        self,
        unet: Any,
        schedule: Any,
        settings: Sequence[Setting],
        *,
        scale: float,
        side: int,
        frozen: Frozen,
        min_snr_gamma: float | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """`scale` is alpha / rank, `side` the pictures' pixels, `schedule` a diffusers DDPMScheduler.

        Raises `InvalidRequest` for a base model that predicts neither noise nor velocity.
        """
        self.prediction = schedule.config.prediction_type
        if self.prediction not in PREDICTIONS:
            raise InvalidRequest(
                f"base models that predict {' or '.join(PREDICTIONS)} are trained, this one predicts "
                f"{self.prediction!r}"
            )
        self.unet, self.schedule, self.settings = unet, schedule, tuple(settings)
        self.frozen, self._autocast, self._gamma = frozen, autocast, min_snr_gamma
        # Asked once: diffusers walks over all parameters for an answer.
        self._dtype, self._device = unet.dtype, unet.device
        self._projections = attention_projections(unet)
        self._student_S2 = _table([each.student for each in settings], scale)
        self._teacher_S2 = _table([each.teacher or Switches(0, 0) for each in settings], scale)
        self._taught_S = torch.tensor([each.teacher is not None for each in settings])
        self._weight_S = torch.tensor([each.weight for each in settings])
        self._time_ids_6 = torch.tensor([side, side, 0, 0, side, side], device=self._device, dtype=self._dtype)
        # Sums of betas are a float32 matter, whatever the UNet's dtype.
        self._cumulative = schedule.alphas_cumprod.to(self._device)

    def losses(
        self,
        student: nn.Module,
        conditions: Conditions,
        noised: Noised,
        settings_B: torch.Tensor,
        backward: Callable[[torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """The loss of each sample, (B,) float32, before its setting's weight; `backward` gets the pass's whole loss.

        `student` is the trained branch (as accelerate wrapped it), `settings_B` the samples' places in the settings, on
        the CPU. Gradient checkpointing needs the LoRAs in place until gradients are there, so `backward` is called
        here.
        """
        # 1. One LoRA per sample, of each branch.
        trained, base, teacher_id = self._factors(student, conditions)
        # 2. What is to be predicted.
        noisy_BCHW = self.schedule.add_noise(noised.latents_BCHW, noised.noise_BCHW, noised.timesteps_B)
        target_BCHW = self._targets(noised, noisy_BCHW, settings_B, base, teacher_id)
        # 3. What is predicted.
        parts = self._switched(trained, base, self._student_S2[settings_B])
        with grouped(self.unet, joined(parts), projections=self._projections):
            predicted_BCHW = self._predict(noisy_BCHW, noised)
            # 4. The difference.
            losses_B = (predicted_BCHW - target_BCHW).square().mean(dim=(1, 2, 3))
            if self._gamma is not None:
                losses_B = losses_B * self._snr_weight(noised.timesteps_B)
            if backward is not None:
                backward((losses_B * self._weight_S[settings_B].to(losses_B.device)).mean())
        return losses_B.detach()

    def _factors(
        self, student: nn.Module, conditions: Conditions
    ) -> tuple[Factors | None, Factors | None, Factors | None]:
        """ID factors of the student, Base factors, ID factors of the teacher: None where there are none."""
        reads_base = conditions.base_tokens_BTC is not None and self.frozen.base is None
        with self._autocast():
            if reads_base:
                return None, student(conditions.base_tokens_BTC), None
            trained = student(conditions.face_embeddings_BE, conditions.clip_tokens_BTC)
            with torch.no_grad():
                base = None if self.frozen.base is None else self.frozen.base(conditions.base_tokens_BTC)
                teacher_id = (
                    None
                    if self.frozen.id is None
                    else self.frozen.id(conditions.face_embeddings_BE, conditions.clip_tokens_BTC)
                )
        return trained, base, teacher_id

    @torch.no_grad()
    def _targets(
        self,
        noised: Noised,
        noisy_BCHW: torch.Tensor,
        settings_B: torch.Tensor,
        base: Factors | None,
        teacher_id: Factors | None,
    ) -> torch.Tensor:
        if self.prediction == "v_prediction":
            target_BCHW = self.schedule.get_velocity(noised.latents_BCHW, noised.noise_BCHW, noised.timesteps_B)
        else:
            target_BCHW = noised.noise_BCHW
        rows = torch.nonzero(self._taught_S[settings_B])[:, 0]
        if not len(rows):
            return target_BCHW  # type: ignore[no-any-return]
        switches_B2 = self._teacher_S2[settings_B[rows]]
        rows = rows.to(noisy_BCHW.device)
        parts = self._switched(
            None if teacher_id is None else chosen(teacher_id, rows),
            None if base is None else chosen(base, rows),
            switches_B2,
        )
        some = Noised(
            noised.latents_BCHW[rows],
            noised.noise_BCHW[rows],
            noised.timesteps_B[rows],
            noised.tokens_BTC[rows],
            noised.pooled_BP[rows],
        )
        on = grouped(self.unet, joined(parts), projections=self._projections) if parts else nullcontext()
        with on:
            taught = self._predict(noisy_BCHW[rows], some)
        return target_BCHW.index_copy(0, rows, taught)  # type: ignore[no-any-return]

    def _switched(
        self, id_factors: Factors | None, base: Factors | None, switches_B2: torch.Tensor
    ) -> list[tuple[Factors, Scale]]:
        switches_B2 = switches_B2.to(self._device)
        given = ((id_factors, switches_B2[:, 0]), (base, switches_B2[:, 1]))
        return [(factors, scale_B) for factors, scale_B in given if factors is not None]

    def _predict(self, noisy_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        dtype = self._dtype
        with self._autocast():
            predicted: torch.Tensor = self.unet(
                noisy_BCHW.to(dtype),
                noised.timesteps_B,
                encoder_hidden_states=noised.tokens_BTC.to(dtype),
                added_cond_kwargs={
                    "text_embeds": noised.pooled_BP.to(dtype),
                    "time_ids": self._time_ids_6.expand(len(noisy_BCHW), -1),
                },
                return_dict=False,
            )[0]
        return predicted.float()

    def _snr_weight(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """min(snr, gamma) / snr, over snr + 1 for velocities: Hang et al. 2023, https://arxiv.org/abs/2303.09556."""
        cumulative_B: torch.Tensor = self._cumulative[timesteps_B]
        snr_B = cumulative_B / (1 - cumulative_B)
        capped_B = snr_B.clamp(max=self._gamma)
        return capped_B / (snr_B + 1 if self.prediction == "v_prediction" else snr_B)


def _table(rows: Sequence[Switches], scale: float) -> torch.Tensor:
    return scale * torch.tensor([[row.id, row.base] for row in rows], dtype=torch.float32)
