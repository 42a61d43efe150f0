"""One block of photos becomes one shard, and a record of what was kept and dropped.

A block is the unit of work and of resuming: it depends on nothing outside itself, so blocks may be made in any order,
by any number of processes, and one that has its record is never made again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from hyperlora.dataset.encoders import Encoders
from hyperlora.dataset.info import ShardInfo, write_whole
from hyperlora.dataset.screen import Dropped, Rules, Sample, picture_of, screen
from hyperlora.dataset.shard import ShardFile
from hyperlora.dataset.sources import Source, sources_fingerprint
from hyperlora.dataset.writer import jpeg_bytes
from hyperlora.errors import DatasetConflict

RECORDS = ".prepare"
AT_ONCE = 8
"""Photos that go through CLIP together."""

MOST_EXAMPLES = 4
"""Pictures that a block remembers of each reason, for the report."""

THUMBNAIL_SIDE = 160


class Example(BaseModel):
    """A small picture for the report; `thumbnail` is a JPEG in base64, empty where nothing can be shown."""

    name: str
    message: str
    thumbnail: str


class Measures(BaseModel):
    """What was measured of every photo with a face: the face's pixels and sharpness, and whether it was kept."""

    face_pixels: list[float] = []
    sharpness: list[float] = []
    kept: list[bool] = []


class BlockRecord(BaseModel):
    """What became of a block. `shapes` are those of the shard's tensors, `people` the numbers of the people kept."""

    model_config = ConfigDict(frozen=True)

    block: int
    sources: str
    looked_at: int
    kept: int
    shard: ShardInfo | None
    shapes: dict[str, tuple[int, ...]]
    dropped: dict[str, int]
    examples: dict[str, list[Example]]
    measures: Measures
    people: dict[int, int]


def make_block(
    folder: Path,
    number: int,
    sources: Sequence[Source],
    encoders: Encoders,
    rules: Rules,
    on_photo: Callable[[], object],
) -> BlockRecord:
    """Look at the photos of block `number`, write its shard if any is kept, then its record.

    `on_photo` is called after each photo. Raises what the encoders raise; then nothing of the block is left behind.
    """
    shard = ShardFile(folder, f"{number:05d}")
    tally = _Tally()
    try:
        waiting: list[Sample] = []
        for source in sources:
            sample = _looked_at(source, encoders, rules, tally)
            waiting += [] if sample is None else [sample]
            if len(waiting) == AT_ONCE:
                _store(shard, waiting, encoders)
                waiting = []
            on_photo()
        _store(shard, waiting, encoders)
        written = shard.finish() if shard.count else None
    finally:
        shard.discard()
    record = BlockRecord(
        block=number,
        sources=sources_fingerprint(sources),
        looked_at=len(sources),
        kept=shard.count,
        shard=written,
        shapes=shard.shapes,
        dropped=tally.dropped,
        examples=tally.examples,
        measures=tally.measures,
        people=tally.people,
    )
    write_whole(_record_file(folder, number), record.model_dump_json().encode())
    return record


def read_record_of(folder: Path, number: int, sources: Sequence[Source]) -> BlockRecord | None:
    """The record of a block that is made already, None for one that is not, or not whole.

    Raises `DatasetConflict` for a block that was made of other photos.
    """
    try:
        record = BlockRecord.model_validate_json(_record_file(folder, number).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if record.sources != sources_fingerprint(sources):
        raise DatasetConflict(
            f"block {number} of {folder} was made of other photos than the inputs hold now; prepare them into another "
            "folder, or remove this one to begin anew"
        )
    shard = record.shard
    whole = shard is None or all((folder / f"{shard.name}.{end}").is_file() for end in ("tar", "safetensors"))
    return record if whole else None


def dropped_totals(records: Sequence[BlockRecord]) -> dict[str, int]:
    """Dropped photos by reason, the most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        for code, count in record.dropped.items():
            counts[code] = counts.get(code, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def thumbnail(picture: Image.Image | None) -> str:
    """A small JPEG in base64, empty for None."""
    if picture is None:
        return ""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return base64.b64encode(jpeg_bytes(small, 72)).decode()


class _Tally:
    """Counts and examples of a block, as they come."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}
        self.examples: dict[str, list[Example]] = {}
        self.measures = Measures()
        self.people: dict[int, int] = {}

    def drop(self, source: Source, dropped: Dropped) -> None:
        self.dropped[dropped.code] = self.dropped.get(dropped.code, 0) + 1
        self._example(dropped.code, source, str(dropped), dropped.picture)
        if dropped.face_pixels is not None and dropped.sharpness is not None:
            self._measured(dropped.face_pixels, dropped.sharpness, kept=False)

    def keep(self, source: Source, sample: Sample) -> None:
        self._example("kept", source, sample.caption, sample.picture)
        self._measured(sample.face_pixels, sample.sharpness, kept=True)
        person = sample.record["person"]
        if person is not None:
            self.people[person] = self.people.get(person, 0) + 1

    def _measured(self, face_pixels: float, sharpness: float, *, kept: bool) -> None:
        self.measures.face_pixels.append(round(face_pixels, 1))
        self.measures.sharpness.append(round(sharpness, 1))
        self.measures.kept.append(kept)

    def _example(self, code: str, source: Source, message: str, picture: Image.Image | None) -> None:
        kept = self.examples.setdefault(code, [])
        if len(kept) < MOST_EXAMPLES:
            shown = thumbnail(picture_of(source) if picture is None else picture)
            kept.append(Example(name=source.name, message=message, thumbnail=shown))


def _looked_at(source: Source, encoders: Encoders, rules: Rules, tally: _Tally) -> Sample | None:
    try:
        sample = screen(source, encoders.analyzer, rules)
    except Dropped as dropped:
        tally.drop(source, dropped)
        return None
    tally.keep(source, sample)
    return sample


def _store(shard: ShardFile, samples: Sequence[Sample], encoders: Encoders) -> None:
    for sample, tensors in zip(samples, encoders.tensors(samples), strict=True):
        shard.add(jpeg_bytes(sample.picture), "jpg", sample.caption, sample.record, tensors)


def _record_file(folder: Path, number: int) -> Path:
    return folder / RECORDS / f"{number:05d}.json"
