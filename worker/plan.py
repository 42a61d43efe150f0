"""What to draw together: the drawings of one person or several, cut into batches that share a batch key.

Inside one batch everything is equal but prompt, seed, guidance value and given pictures: size, steps, scheduler,
whether there is guidance at all, ControlNets, and the LoRAs that are merged. The order is fixed, so that a restart
cuts the same way, and LoRA weights come one after the other, so that each is merged once.

Full batches are always one person's. What is left over of several people is drawn together, each picture with LoRAs of
its own, where the device's costs say that this is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hyperlora.detail import DetailPass
from worker.costs import Costs
from worker.lessons import Lessons
from worker.trial import Draw

# Their models know the steps of their own schedule only: a detail pass walks the end of the render's own steps.
FEW_STEP_SCHEDULERS = frozenset({"euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2"})
MOST_TOGETHER = 16
WORTH = 0.01
"""What a person more in the hand must save, as a share of the hand's time: it is one more to read and make ready."""


@dataclass(frozen=True, order=True)
class BatchKey:
    """What must be equal inside one batch."""

    lora_weight: float
    base_weight: float
    sliders: tuple[tuple[str, float], ...]  # photo set of the slider, weight
    member: int  # whose face is redrawn in a picture of several people; -1: everybody
    width: int
    height: int
    steps: int
    scheduler: str
    guided: bool
    strength: float
    given: str  # "", "image" or "mask": what the drawing starts from
    controls: tuple[tuple[str, float, float, float], ...]  # name, scale, start, end
    chunks: int  # text encoder lengths of the prompt
    people: int  # drawn side by side; 1 for a picture of one person

    @property
    def merged(self) -> tuple[object, ...]:
        """What must be merged into the network."""
        return self.lora_weight, self.base_weight, self.sliders, self.member

    @property
    def loras(self) -> int:
        """How many LoRAs one person's picture has: their ranks add up where it has its own."""
        return 1 + bool(self.base_weight) + len(self.sliders)

    @property
    def shared(self) -> BatchKey | None:
        """What must be equal in a batch of several people; None for a picture that is drawn by regions."""
        return replace(self, lora_weight=0.0, base_weight=0.0, sliders=(), member=-1) if self.people == 1 else None


@dataclass(frozen=True)
class Planned:
    """A batch to be drawn: its drawings, with the key of each; equal keys unless `mixed`."""

    draws: tuple[Draw, ...]
    keys: tuple[BatchKey, ...]
    mixed: bool = False

    @property
    def key(self) -> BatchKey:
        """The first drawing's key; what a mixed batch needs equal is equal in all."""
        return self.keys[0]

    @property
    def pairs(self) -> tuple[tuple[Draw, BatchKey], ...]:
        """Each drawing with its key."""
        return tuple(zip(self.draws, self.keys, strict=True))

    def only(self, draws: Sequence[Draw]) -> Planned:
        """The same with some of the drawings."""
        kept = [place for place, draw in enumerate(self.draws) if draw in draws]
        return Planned(tuple(self.draws[n] for n in kept), tuple(self.keys[n] for n in kept), self.mixed)

    def halves(self) -> tuple[Planned, Planned]:
        """The first and the second half."""
        half = len(self.draws) // 2
        return self.only(self.draws[:half]), self.only(self.draws[half:])


def batch_key(draw: Draw, *, chunks: int, detail_side: int, people: int = 1) -> BatchKey:
    """The key of the batches this drawing may be made in; guidance of 1 or less means none."""
    render, options, part = draw.render, draw.trial.options, draw.part
    width, height, steps, strength = render.width, render.height, render.steps, 1.0
    given, controls = "", tuple((c.net, c.scale, c.start, c.end) for c in options.control)
    if options.start is not None:
        strength, given = options.start.strength, "image" if options.start.mask is None else "mask"
    if part is not None:
        width = height = detail_side
        strength, given, controls = options.detail.strength, "image", ()
        if render.scheduler not in FEW_STEP_SCHEDULERS:
            steps = DetailPass(strength=strength, steps=options.detail.steps).schedule_steps
    return BatchKey(
        lora_weight=render.lora_weight,
        base_weight=options.base_weight,
        sliders=tuple((str(slider.photo_set), slider.weight) for slider in options.sliders),
        member=-1 if part is None or part.member is None else part.member,
        width=width,
        height=height,
        steps=steps,
        scheduler=render.scheduler,
        guided=render.guidance > 1.0,
        strength=strength,
        given=given,
        controls=controls,
        chunks=chunks,
        people=people if part is None else 1,
    )


class BatchSizes:
    """How many pictures fit at once: as expected, or as many as turned out to fit for that kind of picture."""

    def __init__(
        self, configured: int, *, expected: Callable[[BatchKey], int] | None = None, lessons: Lessons | None = None
    ) -> None:
        """`expected` knows more than one number for all kinds; without `lessons` none outlives the process."""
        self._expected = expected or (lambda _key: configured)
        self._lessons = lessons or Lessons()

    def of(self, key: BatchKey) -> int:
        """The largest batch to try for this key."""
        return self._lessons.size(_kind(key), self._expected(key))

    def did_not_fit(self, key: BatchKey, size: int) -> int:
        """Remember that `size` pictures did not fit; returns what to try from now on."""
        self._lessons.did_not_fit(_kind(key), size)
        return self.of(key)

    def did_fit(self, key: BatchKey, size: int) -> None:
        """Tell that `size` pictures did fit."""
        self._lessons.did_fit(_kind(key), size)


def _kind(key: BatchKey) -> str:
    """What a picture's memory depends on, in words that a file can keep."""
    guided, given = "guidance" if key.guided else "no guidance", f"from {key.given}" if key.given else "from noise"
    return (
        f"{key.width}x{key.height}, {guided}, {given}, ControlNets {len(key.controls)}, people {key.people}, "
        f"text lengths {key.chunks}"
    )


def batches(
    draws: Sequence[Draw],
    sizes: BatchSizes,
    key_of: Callable[[Draw], BatchKey],
    person_of: Callable[[Draw], int] = lambda draw: 0,
    costs: Costs | None = None,
) -> list[Planned]:
    """Cut drawings into batches: as few as possible, each with one key and at most as large as fits.

    `person_of` numbers the people. Without `costs` no batch holds more than one.
    """
    alike: dict[tuple[int, BatchKey], list[Draw]] = {}
    for draw in sorted(draws, key=_order):
        alike.setdefault((person_of(draw), key_of(draw)), []).append(draw)
    planned: list[Planned] = []
    for person, key in sorted(alike):
        rows, size = alike[person, key], sizes.of(key)
        planned += [_batch(rows[start : start + size], key) for start in range(0, len(rows), size)]
    return planned if costs is None else _mixed(planned, sizes, costs)


def has_room(counts: Sequence[int], size: int, steps: int, pixels: int, costs: Costs) -> bool:
    """Whether another person should be taken into the hand, which holds so many pictures of each.

    So it is where company could save more than `WORTH` of the hand's time: what is left over beside full batches would
    be cheaper in full batches of several people than as it can be drawn now. Never beyond `most_together` people.
    """
    if len(counts) >= most_together(size):
        return False
    left = sorted(count % size for count in counts if count % size)
    share = costs.mixed(size, steps, pixels) / size
    ideal = sum(min(costs.merged(count, steps, pixels), count * share) for count in left)
    now = costs.left_over(left, size, steps, pixels)
    full = sum(count // size for count in counts) * costs.merged(size, steps, pixels)
    return now - ideal > WORTH * (now + full)


def most_together(size: int) -> int:
    """The most people in hand at once: enough to fill a batch with one picture of each."""
    return max(MOST_TOGETHER, size)


def _batch(rows: Sequence[Draw], key: BatchKey) -> Planned:
    return Planned(tuple(rows), (key,) * len(rows))


def _mixed(planned: Sequence[Planned], sizes: BatchSizes, costs: Costs) -> list[Planned]:
    """The plan with left-over batches drawn together where that is cheaper; they come last."""
    left: dict[BatchKey, list[Planned]] = {}
    for batch in planned:
        shared = batch.key.shared
        if shared is not None and len(batch.draws) < sizes.of(batch.key):
            left.setdefault(shared, []).append(batch)
    together: list[Planned] = []
    gone: set[int] = set()
    for shared, rest in sorted(left.items()):
        rest.sort(key=lambda batch: len(batch.draws))
        # Every row of a mixed batch takes the memory of the one with most LoRAs.
        widest = max((batch.key for batch in rest), key=lambda key: key.loras)
        counts, size = [len(batch.draws) for batch in rest], sizes.of(widest)
        chosen = rest[: costs.to_mix(counts, size, shared.steps, shared.width * shared.height)]
        gone |= {id(batch) for batch in chosen}
        pairs = [pair for batch in chosen for pair in batch.pairs]
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            together.append(Planned(tuple(draw for draw, _ in part), tuple(key for _, key in part), mixed=True))
    return [batch for batch in planned if id(batch) not in gone] + together


def _order(draw: Draw) -> tuple[object, ...]:
    return draw.render.unit.job_id, draw.render.ordinal, draw.attempt, draw.part.number if draw.part else -1
