"""The emitted LoRA is a good start: a few steps of ordinary fine-tuning from it, against few and many from zero."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.people import prompt_of
from hyperlora.evaluation.rows import measured, not_measured
from hyperlora.evaluation.statistics import mean_over_people
from hyperlora.evaluation.study import MiniStudy
from hyperlora.lora import LoRA, LoRALayer
from hyperlora.refine import refine

WAYS = ("ours", "from ours", "few from zero", "many from zero")
SEED = 0


def from_zero(lora: LoRA, seed: int = SEED) -> LoRA:
    """A LoRA of the same layers, ranks and alphas that changes nothing yet: down random, up zero."""
    dice = torch.Generator("cpu").manual_seed(seed)
    layers = {}
    for name, layer in lora.layers.items():
        down = torch.randn(layer.down.shape, generator=dice) * layer.down.shape[1] ** -0.5
        layers[name] = LoRALayer(down.to(layer.down), torch.zeros_like(layer.up), layer.alpha)
    return LoRA(layers, lora.metadata)


def refining(study: MiniStudy) -> Outcome:
    """ID similarity after fine-tuning from our LoRA and from zero, on the same photos."""
    few, many = study.extent.refine_steps
    measure = f"ID similarity after {few} steps from our LoRA"
    people = study.photos.usable(study.extent.photos)[: study.extent.refine_people]
    if not people:
        return Outcome([not_measured("refine", measure, "nobody was refined: --refine-people is 0")])
    similar = np.zeros((len(people), len(WAYS)))
    rows = []
    for row, index in enumerate(people):
        study.tell("refining", row, len(people))
        pictures: list[Image.Image | None] = []
        for column, (lora, weight) in enumerate(_ways(study, index)):
            similar[row, column], first = _similarity(study, index, lora, weight)
            pictures.append(first)
        rows.append((str(study.people[index].seed), [study.people[index].photo(0), *pictures]))
    gain = mean_over_people(similar[:, 1] - similar[:, 3])
    told = [
        measured(
            "refine", measure, "cosine", mean_over_people(similar[:, 1]),
            baseline=float(similar[:, 3].mean()), baseline_is=f"{many} steps from zero",
            bar=f"above {many} steps from zero", reached=gain.value > 0,
            note=f"our LoRA as it is: {similar[:, 0].mean():.3f}; {few} steps from zero: {similar[:, 2].mean():.3f}",
        ),
        measured(
            "refine", f"  more than {many} steps from zero, person by person", "cosine", gain,
            baseline=0.0, baseline_is="no difference",
        ),
    ]  # fmt: skip
    columns = ["photo", "our LoRA", f"ours + {few} steps", f"zero + {few}", f"zero + {many}"]
    return Outcome(
        told, {way: similar[:, place].tolist() for place, way in enumerate(WAYS)},
        {"refine": Grid("Fine-tuning from our LoRA and from zero", columns, rows)},
    )  # fmt: skip


def _ways(study: MiniStudy, index: int) -> list[tuple[LoRA, float]]:
    """Our LoRA, refined few steps; zero, refined few and many; each with the weight that it is drawn with.

    Training sees the adapter at full weight, so what it made is drawn at full weight.
    """
    few, many = study.extent.refine_steps
    ((ours, weight),) = study.loras(index, study.extent.photos)
    photos = [study.people[index].photo(place) for place in range(study.extent.photos)]
    study.model.pipeline.restore()

    def trained(begun: LoRA, steps: int) -> LoRA:
        # The model knows one size only: pictures are trained on as large as they are drawn.
        side = study.model.setting.size
        return refine(
            study.model.pipeline, begun, photos, steps=steps, side=side, seed=SEED, analyzer=study.model.analyzer
        )

    zero = from_zero(ours)
    return [(ours, weight), (trained(ours, few), 1.0), (trained(zero, few), 1.0), (trained(zero, many), 1.0)]


def _similarity(study: MiniStudy, index: int, lora: LoRA, weight: float) -> tuple[float, Image.Image]:
    one, count = study.people[index], study.extent.prompts
    prompts = [prompt_of(one.asked(place)) for place in range(count)]
    images, _ = study.model.draw([(lora, weight)], prompts, [one.picture_seed(place) for place in range(count)])
    seen = [embedding for embedding in study.judge.embed(images) if embedding is not None]
    return sum(float(each @ study.gallery_NE[index]) for each in seen) / count, images[0]
