"""One run in memory: its models, its data, its optimizer, and what one step does.

Shapes: B samples of a pass, S settings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hyperlora.components import SDXLComponents
from hyperlora.errors import NonFiniteLoss, TrainingMismatch
from hyperlora.network import HyperLoRA
from hyperlora.prompts import with_trigger_words
from hyperlora.training.branches import make_branch
from hyperlora.training.captions import Captions
from hyperlora.training.config import TrainingConfig
from hyperlora.training.draws import Dice, Draws, Order, Others
from hyperlora.training.feed import Feed
from hyperlora.training.objective import Conditions, Frozen, Noised, Objective
from hyperlora.training.optimizer import make_optimizer, rate_at
from hyperlora.training.pictures import latents_of
from hyperlora.training.shards import own_part, reshard
from hyperlora.training.stages import branch_of, freeze, settings_of
from hyperlora.training.start import check_data, needs_of, start_network

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hyperlora.dataset import PortraitBatch, Portraits

_WEIGHT_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Parameters
    ----------
    step, steps
        How many are done, of how many.
    loss
        The mean that was trained on, with the settings' weights.
    losses
        Setting -> mean loss of its samples, without weight; only settings that occurred.
    counts
        Setting -> number of its samples.
    learning_rate, gradient_norm
        Of the step; the norm before clipping.
    """

    step: int
    steps: int
    loss: float
    losses: dict[str, float]
    counts: dict[str, int]
    learning_rate: float
    gradient_norm: float


class Trainer:
    """A run of one stage, ready for its steps."""

    def __init__(
        self, config: TrainingConfig, accelerator: Accelerator, components: SDXLComponents, dataset: Portraits
    ) -> None:
        """Put models and data together; raises what `start_network` and `check_data` raise."""
        self.config, self.accelerator, self.components, self.dataset = config, accelerator, components, dataset
        self.network: HyperLoRA = start_network(config, components.unet, dataset.info)
        vae = components.vae
        check_data(config, self.network, dataset.info, latent_channels=int(vae.config.latent_channels))
        self.start_fingerprint = self.network.fingerprint
        self.needs = needs_of(self.network, config.stage)
        self.settings = settings_of(config)
        self._place_models()
        # The frozen branches are copies in the UNet's dtype, so that the network's own tensors stay as they came.
        frozen = self._frozen()
        freeze(self.network, config.stage)
        student = make_branch(self.network, branch_of(config.stage))
        optimizer = make_optimizer(config, _trained(student).values(), accelerator.device)
        self.student, self.optimizer = accelerator.prepare(student, optimizer)
        self.trained = _trained(accelerator.unwrap_model(self.student))
        self.ema = self._make_ema()
        self.captions = Captions(components, config.text_cache)
        self.objective = self._make_objective(frozen)
        self.feed = self._make_feed()
        self._step_weights_S = torch.tensor([each.weight for each in self.settings])

    @property
    def samples_per_step(self) -> int:
        """Over all processes and passes."""
        return self.config.batch_size * self.config.accumulation * int(self.accelerator.num_processes)

    def step(self, step: int) -> StepReport:
        """Do one step, counted from 0; raises `NonFiniteLoss` before the weights are changed."""
        rate = rate_at(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums_2S = torch.zeros((2, len(self.settings)), device=self.accelerator.device)
        for draws, batch in self.feed.passes(step):
            with self.accelerator.accumulate(self.student):
                settings_B = torch.from_numpy(draws.settings)
                losses_B = self._losses(draws, batch, settings_B)
                places_B = settings_B.to(losses_B.device)
                sums_2S[0].index_add_(0, places_B, losses_B)
                sums_2S[1].index_add_(0, places_B, torch.ones_like(losses_B))
                if self.accelerator.sync_gradients:
                    report = self._update(step, rate, sums_2S)
        if self.ema is not None:
            self.ema.step(self.trained.values())
        return report

    def conditions(self, batch: PortraitBatch) -> Conditions:
        """What the stage's branches read of a batch, on the device; raises `TrainingMismatch` where it is not there."""
        needs, device = self.needs, self.accelerator.device
        return Conditions(
            _moved(batch.face_embeddings_BE, device) if needs.face_embeddings else None,
            _moved(batch.clip_tokens_BTC, device) if needs.clip_tokens else None,
            _moved(batch.base_tokens_BTC, device) if needs.base_tokens else None,
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one picture's latents."""
        info = self.dataset.info
        if info.latents is not None:
            return info.latents
        config = self.components.vae.config
        side = (info.image_size or 0) // 2 ** (len(config.block_out_channels) - 1)
        return int(config.latent_channels), side, side

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones; without EMA nothing changes."""
        # A forward pass may have left whole weights in place of the parts, which would be read instead of them.
        reshard(self.student)
        if self.ema is None:
            yield
            reshard(self.student)
            return
        places = [own_part(parameter) for parameter in self.trained.values()]
        kept = [place.to("cpu", copy=True) for place in places]
        for place, shadow in zip(places, self.ema.shadow_params, strict=True):
            place.copy_(own_part(shadow))
        try:
            yield
        finally:
            reshard(self.student)
            for place, before in zip(places, kept, strict=True):
                place.copy_(before)

    def close(self) -> None:
        """End what runs beside."""
        self.feed.close()

    def _update(self, step: int, rate: float, sums_2S: torch.Tensor) -> StepReport:
        """Report, refuse NaN, then let the optimizer go."""
        norm: Any = self.accelerator.clip_grad_norm_(self.trained.values(), self.config.gradient_limit)
        if self.accelerator.num_processes > 1:
            sums_2S = self.accelerator.reduce(sums_2S, "sum")
        totals_S, counts_S = sums_2S.cpu()
        loss = float((totals_S * self._step_weights_S).sum() / counts_S.sum())
        if not np.isfinite(loss):
            means = {each.name: float(total) for each, total in zip(self.settings, totals_S, strict=True)}
            raise NonFiniteLoss(
                f"step {step + 1}: the losses of the settings are {means}; lower the learning rate, or train in "
                "bfloat16 or float32"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        seen = [(each.name, float(t), int(c)) for each, t, c in zip(self.settings, totals_S, counts_S, strict=True)]
        return StepReport(
            step=step + 1,
            steps=self.config.steps,
            loss=loss,
            losses={name: total / count for name, total, count in seen if count},
            counts={name: count for name, _, count in seen if count},
            learning_rate=rate,
            gradient_norm=float(norm),
        )

    def _losses(self, draws: Draws, batch: PortraitBatch, settings_B: torch.Tensor) -> torch.Tensor:
        device = self.accelerator.device
        tokens_BTC, pooled_BP = self.captions.encode(self._texts(draws, batch.captions))
        noised = Noised(
            self._latents(batch),
            draws.noise_BCHW.to(device),
            draws.timesteps_B.to(device),
            tokens_BTC,
            pooled_BP,
        )
        conditions = self.conditions(batch)
        return self.objective.losses(self.student, conditions, noised, settings_B, self.accelerator.backward)

    def _texts(self, draws: Draws, captions: list[str]) -> list[str]:
        """What each sample is said to show: nothing where the caption is dropped, trigger words by its setting."""
        words = self.network.config.trigger_words
        told = ["" if dropped else caption for caption, dropped in zip(captions, draws.dropped, strict=True)]
        return [
            with_trigger_words(text, words) if self.settings[setting].trigger_words else text
            for text, setting in zip(told, draws.settings, strict=True)
        ]

    def _latents(self, batch: PortraitBatch) -> torch.Tensor:
        if batch.latents_BCHW is not None:
            return batch.latents_BCHW.to(self.accelerator.device, torch.float32)
        assert batch.pixels_B3HW is not None
        return latents_of(self.components.vae, batch.pixels_B3HW).to(self.accelerator.device)

    def _place_models(self) -> None:
        parts = self.components
        for model in (parts.unet, parts.vae, *parts.text_encoders):
            model.to(self.accelerator.device).eval().requires_grad_(False)
        parts.unet.to(memory_format=torch.channels_last)
        if self.config.gradient_checkpointing:
            parts.unet.enable_gradient_checkpointing()

    def _frozen(self) -> Frozen:
        def speaking(branch: Any) -> Any:
            made = copy.deepcopy(make_branch(self.network, branch)).requires_grad_(False)
            return made.to(self.accelerator.device, self.components.unet.dtype)

        if self.config.stage == "base":
            return Frozen()
        base = speaking("base") if self.network.base_resampler is not None else None
        return Frozen(id=speaking("id") if self.config.stage == "distill" else None, base=base)

    def _make_ema(self) -> Any:
        if self.config.ema_decay is None:
            return None
        from diffusers.training_utils import EMAModel

        return EMAModel(self.trained.values(), decay=self.config.ema_decay)

    def _make_objective(self, frozen: Frozen) -> Objective:
        import diffusers

        maker: Any = diffusers.DDPMScheduler
        size = self.dataset.info.image_size
        assert size is not None
        return Objective(
            self.components.unet,
            maker.from_config(self.components.scheduler_config),
            self.settings,
            scale=self.network.config.alpha_over_rank,
            side=size,
            frozen=frozen,
            min_snr_gamma=self.config.min_snr_gamma,
            autocast=self.accelerator.autocast,
        )

    def _timesteps(self) -> range:
        known = range(int(self.objective.schedule.config.num_train_timesteps))
        first, end = self.config.timesteps or (known.start, known.stop)
        if end > known.stop:
            raise TrainingMismatch(f"the base model has {known.stop} timesteps, the config trains up to {end}")
        return range(first, end)

    def _make_feed(self) -> Feed:
        config = self.config
        others = None
        if config.reference == "other":
            persons = self.dataset.persons
            if persons is None:
                raise TrainingMismatch("reference: other needs a dataset that says who is who, this one does not")
            others = Others(persons)
        dice = Dice(
            self.settings,
            Order(len(self.dataset), config.seed),
            seed=config.seed,
            samples=self.samples_per_step,
            timesteps=self._timesteps(),
            latents=self.latent_shape,
            caption_dropout=config.caption_dropout,
            others=others,
        )
        return Feed(
            self.dataset,
            dice,
            batch_size=config.batch_size,
            passes=config.accumulation,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )


def weight_dtype(config: TrainingConfig) -> torch.dtype:
    """What the frozen models are loaded in."""
    return _WEIGHT_DTYPES[config.precision]


def _trained(branch: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in branch.named_parameters() if parameter.requires_grad}


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    if tensor is None:
        raise TrainingMismatch("the dataset's batches lack a tensor that its description names")
    # A tensor that was made for inference alone, as a live CLIP tower's, passes no gradient: hence the copy.
    return tensor.to(device, torch.float32, copy=tensor.is_inference())
