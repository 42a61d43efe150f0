"""How long a job will keep a GPU busy: from what was measured, or from the work that SDXL is known to be.

One UNet forward at 1024 px is 6.76 TFLOP per picture, twice that with guidance, and one VAE decode 10.5 TFLOP; both
are taken as proportional to the area. The product rate assumed without measurements is what one H100 reaches with the
UNet in fp16, uncompiled, in batches of 8 pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

UNET_TFLOP = 6.76
DECODE_TFLOP = 10.5
FULL_AREA = 1024 * 1024
ASSUMED_TFLOP_PER_SECOND = 370.0
ENOUGH_PICTURES = 20


class Drawn(Protocol):
    """What decides the work of a picture."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def options(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class Pace:
    """Seconds of a device for one TFLOP of SDXL's work, and where the number comes from."""

    seconds_per_tflop: float
    basis: Literal["measured", "formula"]
    explanation: str


@dataclass(frozen=True)
class Estimate:
    """What a job costs on one device."""

    tflop: float
    gpu_hours: float
    basis: Literal["measured", "formula"]
    explanation: str


def picture_tflop(width: int, height: int, steps: int, *, guided: bool) -> float:
    """TFLOP of one SDXL picture: denoising (two forwards a step with guidance) and decoding, scaled by the area."""
    return (steps * (2 if guided else 1) * UNET_TFLOP + DECODE_TFLOP) * width * height / FULL_AREA


def assumed_pace(why: str) -> Pace:
    """The pace of one H100; `why` says why nothing measured is used."""
    told = (
        f"by formula, {why}: SDXL's {UNET_TFLOP} TFLOP a forward and {DECODE_TFLOP} a decode at 1024 px, "
        f"at {ASSUMED_TFLOP_PER_SECOND:g} TFLOP/s (one H100, fp16, uncompiled, batches of 8)"
    )
    return Pace(1 / ASSUMED_TFLOP_PER_SECOND, "formula", told)


def measured_pace(rows: Iterable[Mapping[str, Any]], profile: str) -> Pace:
    """The pace from rows of `jobs.repository.summaries.pace`; the assumed one below 20 pictures."""
    pictures, seconds, tflop = 0, 0.0, 0.0
    for row in rows:
        pictures += row["pictures"]
        seconds += row["seconds"]
        each = picture_tflop(row["width"], row["height"], row["steps"], guided=bool(row["guided"]))
        tflop += row["pictures"] * each
    if pictures < ENOUGH_PICTURES or seconds <= 0:
        few = {0: "no picture", 1: "only one picture"}.get(pictures, f"only {pictures} pictures")
        return assumed_pace(f"since {few} of profile {profile} {'were' if pictures > 1 else 'was'} drawn so far")
    told = (
        f"measured: {pictures} pictures of profile {profile} took {seconds / pictures:.3g} s each; other sizes and "
        "steps are scaled by their work"
    )
    return Pace(seconds / tflop, "measured", told)


def hours_text(hours: float) -> str:
    """GPU hours as people say them: minutes below an hour, two digits below ten hours."""
    minutes = round(hours * 60)
    if hours * 60 < 1:
        return "under a minute"
    if minutes < 60:
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    tenths = round(hours, 1)
    return "1 hour" if tenths == 1 else f"{tenths:g} hours" if hours < 10 else f"{hours:,.0f} hours"


def estimate(sample: Iterable[Drawn], renders: int, pace: Pace) -> Estimate:
    """What `renders` pictures cost when they are like the sample on average."""
    drawn = list(sample)
    works = [picture_tflop(one.width, one.height, one.steps, guided=one.guidance > 1.0) for one in drawn]
    tflop = sum(works) / len(works) * renders if works else 0.0
    told = pace.explanation
    if works and len(works) < renders:
        told += f"; from the first {len(works)} of {renders} pictures"
    most = max((_attempts(one) for one in drawn), default=1)
    if most > 1:
        told += f"; each picture counted once, though some may be drawn under up to {most} seeds"
    return Estimate(tflop, tflop * pace.seconds_per_tflop / 3600, pace.basis, told)


def _attempts(one: Drawn) -> int:
    """Under how many seeds a picture may be drawn."""
    gate = (one.options or {}).get("gate")
    return int(gate["attempts"]) if gate else 1
