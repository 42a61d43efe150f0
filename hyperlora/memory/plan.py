"""Which measures make a model fit into so much memory, and how large a batch may then be.

    all = CONTEXT + SCRATCH + (1 + LOST) * (what stays + what drawing needs + what preparing needs)

Drawing goes through its phases one after another, so the largest counts: texts, a given picture, denoising, decoding,
merging. The next person is prepared beside it, unless CLIP and resampler only visit: then the two take turns.

Of the parts, weights and the work of the eager networks are exact (`ModelFacts`); CONTEXT, SCRATCH, LOST and MERGE are
allowances, and `bench/memory.py --device cuda` puts a GPU's own count beside the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain, combinations

from hyperlora.basis_stream import BUFFER_BYTES
from hyperlora.batches import decoded_at_once
from hyperlora.clip import MOST_IMAGES
from hyperlora.errors import InvalidRequest, MemoryTooSmall
from hyperlora.memory.facts import ModelFacts
from hyperlora.memory.measures import LOSSLESS, Measure, seconds_a_person
from hyperlora.network import MOST_PHOTOS

GIB = 1 << 30
CONTEXT = 500_000_000
"""CUDA's context and kernels, beside the allocator."""

SCRATCH = 250_000_000
"""What libraries take inside their kernels, from the allocator."""

LOST = 0.05
"""Of all tensors: what the allocator cannot use between tensors of different sizes."""

MERGE = 256 << 20
"""What merging may take at once (`hyperlora.merge.SCRATCH_BYTES`)."""

FEW_PHOTOS = 8
"""And crops of photos, that are read in a pass where CLIP and resampler only visit."""

CONTROLLED = 1.5
"""How much more a step takes with ControlNets, whose answers wait beside it: a third of a step for SDXL."""

TILE = 512
"""Side of a tile, in pixels."""

Measures = frozenset[Measure]


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is held on a device.

    Parameters
    ----------
    facts
        What its parts take.
    measures
        What is done to take less.
    limit_bytes
        What may be taken in all; None for as much as there is.
    asked
        Pictures that would be drawn at once if nothing stood against it.
    decode_at_once
        Pictures decoded at once where they are not decoded singly.
    beside
        Bytes of what else lies on the device: a safety checker, say.
    """

    facts: ModelFacts
    measures: Measures
    limit_bytes: int | None
    asked: int
    decode_at_once: int = 4
    beside: int = 0

    def has(self, measure: Measure) -> bool:
        """Whether this is done."""
        return measure in self.measures

    @property
    def staying(self) -> int:
        """Bytes on the device all the time."""
        facts = self.facts
        parts = {
            Measure.TEXT_VISITS: facts.text_encoders,
            Measure.VAE_VISITS: facts.vae,
            Measure.BASES_STREAMED: facts.bases,
            Measure.PHOTOS_VISIT: facts.clip + facts.resamplers,
            Measure.PRISTINE_ON_HOST: facts.attention,
        }
        stay = sum(size for measure, size in parts.items() if measure not in self.measures)
        return facts.unet + facts.linears + facts.texts + self.beside + stay

    def drawing(
        self,
        batch: int,
        width: int,
        height: int,
        *,
        guided: bool = True,
        rank: int = 0,
        given: bool = False,
        controlled: bool = False,
    ) -> dict[str, float]:
        """Bytes of each phase of drawing a batch, beside what stays.

        `rank` is that of each picture's own LoRAs on activations, added up; 0 where they are merged. `given` means a
        picture that it starts from, `controlled` that ControlNets are at work.
        """
        facts, pixels, rows = self.facts, width * height, batch * (2 if guided else 1)
        vae = facts.vae if self.has(Measure.VAE_VISITS) else 0
        # Compiled, a smaller pass of the VAE is filled up; larger pictures are decoded fewer at once.
        at_once = 1 if self.has(Measure.DECODE_SINGLY) else decoded_at_once(self.decode_at_once, facts.size**2, pixels)
        tile = min(pixels, TILE * TILE) if self.has(Measure.DECODE_TILED) else pixels
        step = facts.step * (CONTROLLED if controlled else 1)
        texts = facts.text_encoders if self.has(Measure.TEXT_VISITS) else 0
        return {
            "texts": texts + facts.text_pass,
            "given picture": vae + facts.encode * tile * at_once if given else 0,
            "denoising": rows * (step * pixels + facts.row + facts.lora_bytes(rank)),
            "decoding": vae + facts.decode * tile * at_once,
            "merging": min(MERGE, 2 * facts.attention) + facts.lora,
        }

    @property
    def reading(self) -> float:
        """Bytes of reading photos by CLIP and resampler, beside what stays."""
        facts = self.facts
        if self.has(Measure.PHOTOS_VISIT):
            return facts.clip + facts.resamplers + FEW_PHOTOS * max(facts.crop, facts.photo)
        return max(MOST_IMAGES * facts.crop, MOST_PHOTOS * facts.photo)

    @property
    def mixing(self) -> float:
        """Bytes of mixing a person's LoRA, beside what stays."""
        facts = self.facts
        buffers = min(2 * BUFFER_BYTES, facts.bases) if self.has(Measure.BASES_STREAMED) else 0
        return 2 * facts.lora + buffers

    def work(self, drawing: float) -> float:
        """The most bytes of drawing, and of preparing the next person beside it, or in turns where CLIP only visits."""
        if self.has(Measure.PHOTOS_VISIT):
            return max(drawing, self.reading) + self.mixing
        return drawing + max(self.reading, self.mixing)

    def peak_bytes(
        self,
        batch: int,
        width: int | None = None,
        height: int | None = None,
        *,
        guided: bool = True,
        rank: int = 0,
        given: bool = False,
        more: int = 0,
    ) -> int:
        """All that the device has to have for such batches; `more` are bytes of the ControlNets at work.

        Sizes are pixels, the model's own if none are given.
        """
        size = self.facts.size
        phases = self.drawing(
            batch, width or size, height or size, guided=guided, rank=rank, given=given, controlled=more > 0
        )
        drawing = max(phases.values())
        return int(CONTEXT + SCRATCH + (1 + LOST) * (self.staying + more + self.work(drawing)))

    def largest_batch(
        self,
        width: int | None = None,
        height: int | None = None,
        *,
        guided: bool = True,
        rank: int = 0,
        given: bool = False,
        more: int = 0,
    ) -> int:
        """The most pictures of this kind, up to what is asked; 0 where not even one fits."""
        for batch in range(self.asked, 0, -1):
            peak = self.peak_bytes(batch, width, height, guided=guided, rank=rank, given=given, more=more)
            if self.limit_bytes is None or peak <= self.limit_bytes:
                return batch
        return 0

    @property
    def batch(self) -> int:
        """The largest batch of the size that the model was trained for, whoever is on it."""
        return self.largest_batch(rank=self.facts.rank)

    def __str__(self) -> str:
        """`fits 12 GB (11.2 GiB at most): bases streamed from host memory; batch 4`."""
        size = self.facts.size
        peak = f"{self.peak_bytes(max(1, self.batch), rank=self.facts.rank) / GIB:.1f} GiB at most"
        done = "; ".join(each.value for each in Measure if each in self.measures) or "everything on the device"
        room = f"no limit ({peak})" if self.limit_bytes is None else f"fits {self.limit_bytes / GIB:.3g} GB ({peak})"
        return f"{room}: {done}; batches of {self.batch} at {size}x{size}"


def plan_memory(
    vram_gb: float | None, facts: ModelFacts, *, asked: int, decode_at_once: int = 4, beside: int = 0
) -> MemoryPlan:
    """The measures for a limit of so many GiB, as cards are named; none without a limit.

    The batch that is asked for is kept as long as measures that change no picture make room for it, the cheapest set of
    them; else the batch is smaller; only where not even one picture fits, pictures are decoded in tiles.

    Raises `MemoryTooSmall` with what it takes at least, `InvalidRequest` for a limit or batch that is none.
    """
    if asked < 1 or (vram_gb is not None and not 0 < vram_gb < float("inf")):
        raise InvalidRequest(f"a batch of at least 1 and a limit above 0 GB are wanted, found {asked} and {vram_gb}")
    limit = None if vram_gb is None else int(vram_gb * GIB)

    def plan(measures: Set[Measure]) -> MemoryPlan:
        return MemoryPlan(facts, frozenset(measures), limit, asked, decode_at_once, beside)

    if limit is None:
        return plan(set())
    for tiled in (frozenset[Measure](), frozenset({Measure.DECODE_TILED})):
        fitting = [made for made in (plan(each | tiled) for each in _sets()) if made.batch]
        if fitting:
            return min(
                fitting,
                key=lambda made: (
                    -made.batch,
                    seconds_a_person(made.measures, facts, made.batch),
                    len(made.measures),
                ),
            )
    least = min(plan(each | {Measure.DECODE_TILED}).peak_bytes(1, rank=facts.rank) for each in _sets())
    raise MemoryTooSmall(
        f"one picture of {facts.size}x{facts.size} takes {least / GIB:.2f} GB when everything is done to take less, "
        f"{vram_gb:g} GB are allowed (the UNet alone has {facts.unet / GIB:.2f} GB of weights); raise the limit, or "
        "use a smaller model"
    )


def _sets() -> Iterator[Measures]:
    """Every set of measures that change no picture."""
    return (
        frozenset(each)
        for each in chain.from_iterable(combinations(LOSSLESS, count) for count in range(len(LOSSLESS) + 1))
    )
