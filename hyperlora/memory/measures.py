"""What may be done to draw with less memory, and what each of it costs in time."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum

from hyperlora.memory.facts import ModelFacts

TRANSFER = 12e9
"""Bytes a second from pinned host memory to a GPU that plans count with: half of what PCIe 4.0 x16 can."""

PICTURES_A_PERSON = 20
"""That plans count with: what is done once a person is shared by so many pictures."""


class Measure(StrEnum):
    """One way to take less of the device; all but the last leave the pictures as they are."""

    DECODE_SINGLY = "pictures decoded one at a time"
    TEXT_VISITS = "text encoders brought in for new prompts"
    VAE_VISITS = "VAE brought in for each batch"
    BASES_STREAMED = "bases streamed from host memory"
    PHOTOS_VISIT = "CLIP and resampler brought in for each person, between batches, 8 photos at a time"
    PRISTINE_ON_HOST = "pristine weights in host memory"
    DECODE_TILED = "pictures decoded in tiles, which changes them slightly"


LOSSLESS = tuple(each for each in Measure if each is not Measure.DECODE_TILED)


def seconds_a_person(measures: Set[Measure], facts: ModelFacts, batch: int) -> float:
    """What measures cost for one person with twenty pictures: moves that nothing else hides, and lost overlap.

    Decoding singly is not slower at 1024 pixels, as one picture keeps a GPU busy; it counts a little all the same, so
    that it is not done without need.
    """
    batches = -(-PICTURES_A_PERSON // batch)
    seconds = {
        Measure.DECODE_SINGLY: 0.001 * PICTURES_A_PERSON,
        Measure.TEXT_VISITS: batches * facts.text_encoders / TRANSFER,
        Measure.VAE_VISITS: batches * facts.vae / TRANSFER,
        Measure.BASES_STREAMED: facts.bases / TRANSFER,
        # Nobody is prepared while others are drawn: CLIP's and the resampler's own work shows too.
        Measure.PHOTOS_VISIT: (facts.clip + facts.resamplers) / TRANSFER + 0.1,
        Measure.PRISTINE_ON_HOST: facts.attention / TRANSFER,
        Measure.DECODE_TILED: 0.05 * PICTURES_A_PERSON,
    }
    return sum(seconds[each] for each in measures)
