"""A profile's base model, and one prompt drawn with one LoRA at several weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from hyperlora.checkpoint import CheckpointFiles
from hyperlora.hub import resolve
from hyperlora.lora import LoRA
from hyperlora.pipeline import PortraitPipeline
from hyperlora.safety import SafetyChecker, load_checker
from jobs.profiles import Profile
from worker.errors import ContentRefused
from worker.lora_tools.maker import Place, local
from worker.lossy import lossy_of

STEPS = 20


def load_pipeline(place: Place, *, preset: bool = True) -> PortraitPipeline:
    """The profile's base model, with its few-step preset and lossy options unless these are not wanted.

    Raises WeightsMissing, LossyMismatch.
    """
    profile = place.profile
    weights = local(profile.preset_weights) if preset and profile.preset_weights else None
    pipeline = PortraitPipeline.from_pretrained(
        local(profile.base),
        trigger_words=trigger_words(profile),
        revision=profile.revision,
        preset=profile.preset if preset else None,
        preset_weights=weights,
        **place.options,
    )
    if preset:
        pipeline.use(lossy_of(profile))
    return pipeline


def trigger_words(profile: Profile) -> str:
    """The trigger words that the profile's checkpoint names; its tensors are not loaded."""
    return CheckpointFiles(resolve(local(profile.hyperlora))).config().trigger_words


@dataclass(frozen=True)
class Drawer:
    """A loaded base model that draws as its profile says, and its safety checker."""

    profile: Profile
    pipeline: PortraitPipeline
    checker: SafetyChecker

    @classmethod
    def load(cls, place: Place) -> Drawer:
        """Load base model and checker of a profile. Raises WeightsMissing, CheckerMismatch."""
        checker = load_checker(local(place.profile.safety), **place.options)
        return cls(place.profile, load_pipeline(place), checker)

    def at_weights(
        self,
        lora: LoRA,
        weights: Sequence[float],
        *,
        prompt: str,
        seed: int,
        steps: int | None = None,
        size: int | None = None,
    ) -> list[Image.Image]:
        """A picture for each weight, each drawn alone. Raises ContentRefused, and what drawing raises."""
        defaults = self.profile.drawing()
        options = {name: defaults[name] for name in ("guidance", "scheduler") if name in defaults}
        side = size or self.pipeline.default_size
        pictures = []
        for weight in weights:
            (image,) = self.pipeline(
                prompt,
                [(lora, weight)],
                seeds=seed,
                width=side,
                height=side,
                steps=steps or int(defaults.get("steps", STEPS)),
                **options,
            )
            (reason,) = self.checker.check([image])
            if reason is not None:
                raise ContentRefused(f"the picture at weight {weight:g} was refused by {self.checker.name}: {reason}")
            pictures.append(image)
        return pictures
