"""How well people are known after each slot: rank-1 of the judge on validation people, and which words came true.

Shapes: N people, each with 4 drawn portraits in the validation set; E numbers of the judge's embedding.

Three portraits of everybody are what the judge knows them by; the fourth is what is put in, or asked for. So what
limits the whole is seen where it happens: in the autoencoder, in what words can say, or in what photos say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hyperlora.batches import draw_all
from hyperlora.clip import ClipVision
from hyperlora.evaluation.judges import Judge
from hyperlora.evaluation.model import PortraitModel, Setting
from hyperlora.evaluation.shots import SLOTS, judged
from hyperlora.evaluation.statistics import cosines, mean_over_people, rank_one
from hyperlora.faces import load_analyzer
from hyperlora.faces.types import unit_length
from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.vae import as_images, small_pixels
from hyperlora.mini.people import person
from hyperlora.network import HyperLoRA
from hyperlora.pipeline import PortraitPipeline, Sample

GUIDANCE, STEPS, SCHEDULER = 3.0, 20, "dpmpp_2m_karras"
AT_ONCE = 25
ANYONE = "a person"


@dataclass(frozen=True, eq=False)
class Checks:
    """The validation people and who judges.

    Parameters
    ----------
    drawings
        The validation set: everybody's pictures lie one set of people behind the other.
    side
        Pixels of what the networks draw.
    """

    drawings: Drawings
    judge: Judge
    side: int
    device: str = "cpu"

    def autoencoder(self, vae: Any) -> dict[str, float]:
        """The asked portraits, encoded and decoded."""
        with torch.no_grad():
            latents = [
                vae.encode(as_images(rows, self.device)).latent_dist.mode()
                for rows in torch.split(self._pixels[self._asked], AT_ONCE)
            ]
            back = torch.cat([vae.decode(each).sample for each in latents])
        bytes_NSS3 = back.add(1).mul(127.5).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
        return self._scores([Image.fromarray(each) for each in bytes_NSS3])

    def words(self, pipeline: PortraitPipeline) -> dict[str, float]:
        """Drawn from whole captions, which say age, hair and beard: what words alone make of people."""
        return self._scores(self._drawn(pipeline, [self.drawings.captions[row] for row in self._asked]))

    def nobody(self, pipeline: PortraitPipeline) -> dict[str, float]:
        """Drawn from captions that say "a person": rank-1 is chance, the words are what the foundation can draw."""
        return self._scores(self._drawn(pipeline, self._prompts))

    def photos(self, pipeline: PortraitPipeline, network: HyperLoRA, clip: Path, faces: Path) -> dict[str, float]:
        """Drawn with the LoRA of one photo each, the asked portrait itself, from captions that say "a person"."""
        setting = Setting(self.side, STEPS, SCHEDULER, GUIDANCE, batch_size=AT_ONCE)
        model = PortraitModel(
            pipeline,
            network.to(self.device),
            ClipVision.from_pretrained(clip, device=self.device),
            load_analyzer(f"insightface:{faces}"),
            setting,
            name="mini",
        )
        loras = []
        for row in self._asked:
            known = model.read([Image.fromarray(self.drawings.pixels[row])])
            loras.append([(model.lora(model.coefficients(known)), setting.weight)])
        return self._scores(model.draw_each(loras, self._prompts, self._seeds))

    @property
    def _people(self) -> int:
        return len(set(self.drawings.persons.tolist()))

    @property
    def _asked(self) -> list[int]:
        return list(range(len(self.drawings) - self._people, len(self.drawings)))

    @property
    def _seeds(self) -> list[int]:
        return [int(seed) for seed in self.drawings.persons[self._asked]]

    @cached_property
    def _pixels(self) -> torch.Tensor:
        return small_pixels(self.drawings, self.side)

    @property
    def _prompts(self) -> list[str]:
        return [
            self.drawings.captions[row].replace(person(int(self.drawings.persons[row])).subject, ANYONE)
            for row in self._asked
        ]

    def _drawn(self, pipeline: PortraitPipeline, prompts: Sequence[str]) -> list[Image.Image]:
        samples = [
            Sample(prompt, seed, guidance=GUIDANCE, trigger_words=False)
            for prompt, seed in zip(prompts, self._seeds, strict=True)
        ]
        pipeline.apply([])
        return draw_all(pipeline, samples, AT_ONCE, width=self.side, height=self.side, steps=STEPS, scheduler=SCHEDULER)

    @cached_property
    def _gallery_NE(self) -> npt.NDArray[np.float32]:
        known = self._asked[0]
        shown = [
            [Image.fromarray(self._pixels[row].numpy()) for row in range(place, known, self._people)]
            for place in range(self._people)
        ]
        embedded = judged(self.judge, shown, len(shown[0])).embeddings_NPE
        return np.stack([unit_length(each_PE.mean(axis=0)) for each_PE in embedded])

    def _scores(self, pictures: Sequence[Image.Image]) -> dict[str, float]:
        seen = judged(self.judge, ([picture] for picture in pictures), 1)
        rank = mean_over_people(rank_one(cosines(seen.embeddings_NPE, self._gallery_NE)).mean(axis=1))
        told = {"people": float(rank.people), "rank1": rank.value, "rank1_low": rank.low, "rank1_high": rank.high}
        places = [list(VOCABULARY).index(slot) for slot in SLOTS]
        right_NA = seen.labels_NPA[:, 0] == self.drawings.labels[self._asked][:, places]
        return {**told, **dict(zip(SLOTS, right_NA.mean(axis=0).tolist(), strict=True))}


def shown(told: dict[str, float]) -> str:
    """One line for people."""
    words = ", ".join(f"{slot.replace('_', ' ')} {told[slot]:.0%}" for slot in SLOTS)
    rank = f"rank-1 {told['rank1']:.0%} ({told['rank1_low']:.0%} to {told['rank1_high']:.0%})"
    return f"{rank} of {told['people']:.0f} people; {words}"
