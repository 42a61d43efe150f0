"""Prompts and LoRAs into portraits, a batch at a time, on diffusers' own SDXL components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperlora.batches import decoded_at_once, draw_all, paired
from hyperlora.components import SDXLComponents
from hyperlora.control import Control, ControlInput, at_work, make_inputs
from hyperlora.detail import DetailPass
from hyperlora.detail_draw import redraw_faces
from hyperlora.engine import Engine, EngineOptions
from hyperlora.errors import InvalidRequest
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.grouped import Stack
from hyperlora.lora import LoRA
from hyperlora.lossy import EXACT, LossyOptions
from hyperlora.merged_model import MergedModel
from hyperlora.prompts import PromptEncoder, with_trigger_words
from hyperlora.regional import Region, check_regions, regional_attention
from hyperlora.regional_text import RegionText, region_text
from hyperlora.sample import Drawing, Sample, check_chunks, check_samples, check_setting
from hyperlora.sampling import (
    Conditioning,
    StepCallback,
    decode,
    denoise,
    draw_noise,
    make_conditioning,
    make_generators,
)
from hyperlora.schedulers import DEFAULT_SCHEDULER, make_scheduler, set_timesteps
from hyperlora.start import Start, lay_over, make_start
from hyperlora.texts import SampleTexts, TextPair, with_region_words
from hyperlora.unet_call import UNetCall

__all__ = ["Drawing", "PortraitPipeline", "Sample"]

DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 5.0


class PortraitPipeline(MergedModel):
    """An SDXL model that LoRAs are merged into and that draws batches of samples.

    `trigger_words` are put in front of every prompt that lacks them (see `final_prompt`); "" adds none.
    """

    def __init__(
        self,
        components: SDXLComponents,
        *,
        trigger_words: str = "",
        decode_at_once: int = 4,
        engine: EngineOptions | None = None,
    ) -> None:
        super().__init__(components)
        self.trigger_words = trigger_words
        self.decode_at_once = decode_at_once
        self.engine = self._engine(engine or EngineOptions())
        self.prompts = PromptEncoder(components.tokenizers, components.text_encoders)
        self._texts = SampleTexts(self.prompts, zeros_for_empty=components.force_zeros_for_empty_prompt)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id_or_file: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        trigger_words: str = "",
        revision: str | None = None,
        variant: str | None = None,
        preset: str | None = None,
        preset_weights: str | Path | None = None,
        engine: EngineOptions | None = None,
    ) -> PortraitPipeline:
        """Load a diffusers SDXL folder, a hub id, or a single .safetensors file; `WeightsMissing` where it is not.

        `preset` names a few-step model and `preset_weights` its LoRA or UNet: see `SDXLComponents.load`. `engine` says
        how the UNet is run, eager by default.
        """
        components = SDXLComponents.load(
            folder_or_hub_id_or_file,
            device=device,
            dtype=dtype,
            revision=revision,
            variant=variant,
            preset=preset,
            preset_weights=preset_weights,
        )
        return cls(components, trigger_words=trigger_words, engine=engine)

    def run_with(self, options: EngineOptions) -> None:
        """Run the networks in another way from now on; what was compiled is lost.

        Raises `LossyMismatch` where lossy options that are on do not go with it; then they are off.
        """
        self.engine.release()
        self.engine = self._engine(options)
        self.use(self.lossy.options)

    def _engine(self, options: EngineOptions) -> Engine:
        return Engine(
            self.components.unet,
            self.components.vae,
            self.merger,
            options,
            size_step=self.size_step,
            decoded_at_once=self._decoded_at_once,
        )

    def use(self, options: LossyOptions | None) -> None:
        """Switch lossy speed-ups on, or all off with None: see `hyperlora.lossy`. What is applied stays applied.

        Raises `LossyMismatch` for what this model, device or engine cannot; then all are off. Raises `InvalidRequest`
        where compiled code would be lost: choose number types before warming.
        """
        options = options or EXACT
        if self.engine.warmed and options.linears != self.lossy.options.linears:
            raise InvalidRequest(
                "linear layers change their number type only before the engine is warmed; found it warm"
            )
        if options.linears is not None:
            self.engine.unfuse()
        self.lossy.use(options, whole=self.engine.options.compile == "whole")

    def final_prompt(self, sample: Sample) -> str:
        """The prompt as it is encoded: with the trigger words, unless the sample declines them."""
        if not sample.trigger_words:
            return sample.prompt
        return with_trigger_words(sample.prompt, self.trigger_words, weighted=sample.weighted)

    def prompt_chunks(self, sample: Sample) -> int:
        """Chunks of 77 tokens that the longer of both texts takes; equal in a batch. Raises `PromptSyntax`."""
        return self._texts.chunks(sample, self.final_prompt(sample))

    @torch.inference_mode()
    def draw(
        self,
        samples: Sequence[Sample],
        *,
        width: int,
        height: int,
        steps: int,
        scheduler: str = DEFAULT_SCHEDULER,
        strength: float = 1.0,
        controls: Sequence[Control] = (),
        regions: Sequence[Region] = (),
        stacks: Sequence[Stack] | None = None,
        on_step: StepCallback | None = None,
    ) -> Drawing:
        """Draw one batch with the LoRAs that are applied; a picture does not depend on its neighbours.

        With `stacks` every sample has LoRAs of its own instead, on activations: several people share a batch, and their
        pictures are those that merging draws, but for rounding. What was applied is taken out.

        Parameters
        ----------
        samples
            The pictures; all with guidance or none, all with a given picture (mask) or none, and all of equal
            `prompt_chunks`.
        width, height
            Pixels, multiples of `size_step`.
        steps, strength
            Of `steps` steps the last int(steps * strength) are walked, at least one; below 1 every sample needs an
            image to start from.
        controls
            ControlNets at work; each sample brings a picture for each.
        regions
            Parts of the picture with LoRAs and words of their own.
        stacks
            For each sample its LoRAs with their weights, at least one of them in all; not together with `regions`.
        on_step
            Called with (done, steps walked) after every step; may raise to abort, the pipeline stays usable.

        Raises
        ------
        InvalidRequest
            What cannot be drawn, or not in one batch.
        UnknownScheduler, PromptSyntax, ControlMismatch, LoRAMismatch, NonFiniteWeights
            A name, text, ControlNet or a region's LoRA that cannot be used.
        NonFinitePicture
            The model's numbers overflowed.
        """
        seconds: dict[str, float] = {}
        unet = self.components.unet
        # 1. Refuse what cannot be drawn.
        check_setting(samples, width=width, height=height, size_step=self.size_step, steps=steps, strength=strength)
        check_samples(samples, width=width, height=height, controls=len(controls))
        check_chunks(samples, self.prompt_chunks)
        for control in controls:
            control.net.require_fit(unet, self.size_step)
        check_regions(regions, self.merger.shapes)
        if stacks is not None:
            self._check_stacks(stacks, samples, regions)
            self.apply([])
        sampler = make_scheduler(scheduler, self.components.scheduler_config)
        timesteps = set_timesteps(sampler, steps, strength)
        # 2. Texts into embeddings.
        with self._timed("encode_prompt", seconds):
            conditioning = make_conditioning(
                self._embed(samples),
                [sample.guidance for sample in samples],
                width=width,
                height=height,
                device=self.device,
                dtype=unet.dtype,
            )
            words = [self._words(samples, region) for region in regions]
        # 3. Given pictures into latents.
        start = None
        if samples[0].image is not None:
            with self._timed("encode_image", seconds):
                vae, at_once = self.components.vae, self._decoded_at_once(width, height)
                start = make_start(vae, samples, at_once=at_once, size_step=self.size_step, device=self.device)
        # 4. Noise into latents.
        with self._timed("denoise", seconds):
            latent_size = (height // self.size_step, width // self.size_step)
            inputs = make_inputs(controls, [sample.control for sample in samples], guided=samples[0].guided)
            # With guidance the UNet sees every sample twice, the negative prompts first.
            own = None if stacks is None else [*stacks] * (2 if samples[0].guided else 1)
            with (
                self.engine.drawing(
                    conditioning,
                    width=width,
                    height=height,
                    own=own,
                    regional=bool(regions),
                    controlled=bool(controls),
                ) as call,
                regional_attention(unet, regions, words, latent_size=latent_size),
            ):
                latents = self._walk(
                    call, samples, sampler, timesteps, conditioning, inputs, start, strength, latent_size, on_step
                )
        # 5. Latents into pictures.
        with self._timed("decode", seconds):
            vae, at_once = self.components.vae, self._decoded_at_once(width, height)
            images = lay_over(decode(vae, latents, at_once=at_once, run=self.engine.decoder), samples)
        return Drawing(images, seconds)

    def __call__(
        self,
        prompts: str | Sequence[str],
        loras: Sequence[tuple[LoRA, float]] = (),
        *,
        seeds: int | Sequence[int],
        negative_prompt: str = "",
        guidance: float | None = None,
        weighted: bool = False,
        trigger_words: bool = True,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        scheduler: str | None = None,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        strength: float = 1.0,
        control: Sequence[Image.Image] = (),
        controls: Sequence[Control] = (),
        regions: Sequence[Region] = (),
        detail: DetailPass | None = None,
        analyzer: FaceAnalyzer | None = None,
        batch_size: int = 4,
        on_step: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Apply the LoRAs and draw a picture per prompt and seed, in batches; the LoRAs stay applied.

        One prompt with many seeds, or many prompts with one seed, are paired with each other; else both need the same
        length (`InvalidRequest`). Sizes default to the given picture's, else to what the base model was trained for;
        steps, guidance and scheduler to the preset's, else to 20, 5.0 and DPM++ 2M Karras. A given image, mask and
        the pictures in `control`, one for each of `controls`, are the same for all. With `detail` small faces, found
        by the `analyzer`, are drawn again.
        """
        if detail is not None and analyzer is None:
            raise InvalidRequest(
                "a detail pass needs a face analyzer to find faces with; give analyzer=load_analyzer()"
            )
        preset = self.preset
        if guidance is None:
            guidance = preset.guidance if preset else DEFAULT_GUIDANCE
        if steps is None:
            steps = preset.steps if preset else DEFAULT_STEPS
        scheduler = scheduler or (preset.scheduler if preset else DEFAULT_SCHEDULER)
        common = Sample("", 0, negative_prompt, guidance, trigger_words, weighted, image, mask, tuple(control))
        samples = [replace(common, prompt=text, seed=seed) for text, seed in paired(prompts, seeds)]
        self.apply(loras)
        images = draw_all(
            self,
            samples,
            batch_size,
            width=width or (image.width if image else self.default_size),
            height=height or (image.height if image else self.default_size),
            steps=steps,
            scheduler=scheduler,
            strength=strength,
            controls=controls,
            regions=regions,
            on_step=on_step,
        )
        if detail is None or analyzer is None:
            return images
        return redraw_faces(
            self, images, samples, detail, analyzer, scheduler=scheduler, regions=regions, batch_size=batch_size
        )

    def _check_stacks(self, stacks: Sequence[Stack], samples: Sequence[Sample], regions: Sequence[Region]) -> None:
        if len(stacks) != len(samples) or not any(stacks) or regions:
            raise InvalidRequest(
                f"one list of LoRAs for each sample is wanted, some LoRA among them, and no regions; found "
                f"{len(stacks)} lists for {len(samples)} samples, and {len(regions)} regions"
            )
        for lora, _ in (pair for stack in stacks for pair in stack):
            lora.require_fit(self.merger.shapes)
            lora.require_finite()

    def _decoded_at_once(self, width: int, height: int) -> int:
        return decoded_at_once(self.decode_at_once, self.default_size**2, width * height)

    def _embed(self, samples: Sequence[Sample]) -> list[TextPair]:
        with self.prompts.together():
            return [self._texts.embed(sample, self.final_prompt(sample)) for sample in samples]

    def _walk(
        self,
        call: UNetCall,
        samples: Sequence[Sample],
        sampler: Any,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        controls: Sequence[ControlInput],
        start: Start | None,
        strength: float,
        latent_size: tuple[int, int],
        on_step: StepCallback | None,
    ) -> torch.Tensor:
        """Noise, each sample from its own seed, and from there to clean latents (B, 4, H/8, W/8)."""
        unet = self.components.unet
        generators = make_generators([sample.seed for sample in samples])
        noise = draw_noise(generators, unet.config.in_channels, *latent_size).to(self.device)
        return denoise(
            call.through(self.lossy.stepped(at_work(controls, len(timesteps)))),
            sampler,
            timesteps,
            noise * sampler.init_noise_sigma if start is None else start.begin(sampler, noise, timesteps, strength),
            conditioning,
            generators=generators,
            controls=controls,
            keep=None if start is None else start.keeper(sampler, noise),
            on_step=on_step,
        )

    def _words(self, samples: Sequence[Sample], region: Region) -> RegionText | None:
        """The samples' prompts with the region's words, None where it has none."""
        if not region.prompt.strip():
            return None
        pairs = self._embed([with_region_words(sample, region.prompt) for sample in samples])
        return region_text(pairs, device=self.device, dtype=self.components.unet.dtype)
