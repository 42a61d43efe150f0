"""Photos become a set to train on: the numbered recipe, resumable and the same however many processes work on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperlora.dataset.block import RECORDS, BlockRecord, dropped_totals, make_block, read_record_of
from hyperlora.dataset.captions import check_templates
from hyperlora.dataset.encoders import EncoderNames, Encoders, vae_fingerprint
from hyperlora.dataset.info import FILE, DatasetInfo, write_info, write_whole
from hyperlora.dataset.report import write_report
from hyperlora.dataset.screen import Rules
from hyperlora.dataset.sources import list_sources
from hyperlora.dataset.workers import OnPhoto, Progress, make_together
from hyperlora.dataset.writer import described
from hyperlora.errors import DatasetConflict, DatasetMissing, InvalidRequest

SHARD_SIZE = 1000
PLAN = "plan.json"
RECIPE = 1  # raise it when the same photos and settings make other samples


@dataclass(frozen=True)
class Preparation:
    """What is prepared, into which folder, how.

    Parameters
    ----------
    inputs
        Folders of pictures, webdataset tars or folders of these.
    out
        Folder of the set; made if missing.
    rules, encoders
        What is kept, and which networks look at it.
    shard_size
        Photos that are looked at for one shard; it keeps as many of them at most.
    people
        Take the first folders of an input for people.
    """

    inputs: tuple[Path, ...]
    out: Path
    rules: Rules = field(default_factory=Rules)
    encoders: EncoderNames = field(default_factory=EncoderNames)
    shard_size: int = SHARD_SIZE
    people: bool = True


@dataclass(frozen=True)
class Prepared:
    """The set, and what became of the photos. `made` counts the blocks of this call, `resumed` those before it."""

    info: DatasetInfo
    looked_at: int
    dropped: dict[str, int]
    people: int
    report: Path
    made: int
    resumed: int


def prepare(wanted: Preparation, *, workers: int = 1, on_photo: OnPhoto | None = None) -> Prepared:
    """Make the set, or go on where an earlier call was broken off.

    `workers` processes work beside each other (1: this one alone). `on_photo(done, all)` is called as photos are done.

    Raises
    ------
    InvalidRequest
        A size, count or template that cannot be.
    DatasetMissing
        An input is not there or holds no picture, or no photo was kept; the report says why.
    DatasetConflict
        The folder was begun with other settings or photos, or holds something else.
    DatasetDamaged, WeightsMissing
        A tar or a network cannot be read.
    """
    # 1. What is asked for.
    _check(wanted, workers)
    sources = list_sources(wanted.inputs, people=wanted.people)
    blocks = [sources[start : start + wanted.shard_size] for start in range(0, len(sources), wanted.shard_size)]
    # 2. The networks, then the folder: new, or begun with the same settings.
    encoders = Encoders.load(wanted.encoders)
    names = _network_names(wanted, encoders)
    _begin(wanted, names)
    # 3. What is there already.
    records = {
        number: record
        for number, block in enumerate(blocks)
        if (record := read_record_of(wanted.out, number, block)) is not None
    }
    resumed = len(records)
    missing = [number for number in range(len(blocks)) if number not in records]
    told = Progress(on_photo, sum(record.looked_at for record in records.values()), len(sources))
    # 4. What is missing, each block into a shard of its own.
    if workers == 1 or len(missing) <= 1:
        records |= {
            number: make_block(wanted.out, number, blocks[number], encoders, wanted.rules, told.one)
            for number in missing
        }
    else:
        # Each process loads its own, so these would only hold memory.
        del encoders
        records |= make_together(
            wanted.out, blocks, missing, wanted.encoders, wanted.rules, min(workers, len(missing)), told
        )
    ordered = [records[number] for number in range(len(blocks))]
    # 5. The report, which also says why nothing is kept.
    report = write_report(wanted.out, ordered, _settings(wanted, names))
    # 6. The description, last.
    info = _info(wanted, names, ordered)
    if info.count == 0:
        raise DatasetMissing(f"none of {len(sources)} photos was kept; {report} shows why")
    write_info(wanted.out, info)
    return Prepared(
        info=info,
        looked_at=len(sources),
        dropped=dropped_totals(ordered),
        people=len({person for record in ordered for person in record.people}),
        report=report,
        made=len(missing),
        resumed=resumed,
    )


def _check(wanted: Preparation, workers: int) -> None:
    rules = wanted.rules
    if not 32 <= rules.size <= 4096 or wanted.shard_size < 1 or workers < 1:
        raise InvalidRequest(
            "size lies between 32 and 4096 pixels, shard_size and workers are at least 1; found "
            f"size {rules.size}, shard_size {wanted.shard_size}, workers {workers}"
        )
    if rules.captions == "template":
        if not rules.templates:
            raise InvalidRequest("captions by template need a template, found none")
        check_templates(rules.templates)
    out = wanted.out.resolve()
    if any(place.resolve() == out for place in wanted.inputs):
        raise InvalidRequest(f"{wanted.out} is one of the inputs; choose another folder for the set")


def _network_names(wanted: Preparation, encoders: Encoders) -> dict[str, str | None]:
    """What `dataset.json` says of the networks."""
    names: dict[str, str | None] = {
        "face_encoder": encoders.analyzer.name,
        "clip_vision": None,
        "clip_vision_fingerprint": None,
        "vae": None,
    }
    if encoders.clip is not None:
        given = Path(str(wanted.encoders.clip_vision)).expanduser()
        # Where a folder lies is nobody's business; a hub id is a name by itself.
        name = given.resolve().name if given.is_dir() else wanted.encoders.clip_vision
        names |= {"clip_vision": name, "clip_vision_fingerprint": encoders.clip.fingerprint}
    if wanted.encoders.vae is not None:
        names["vae"] = vae_fingerprint(wanted.encoders.vae)
    return names


def _settings(wanted: Preparation, names: dict[str, str | None]) -> dict[str, Any]:
    """All that decides what a block becomes."""
    return {
        "recipe": RECIPE,
        **asdict(wanted.rules),
        **names,
        "shard_size": wanted.shard_size,
        "people": wanted.people,
    }


def _begin(wanted: Preparation, names: dict[str, str | None]) -> None:
    """The folder with its plan. Raises `DatasetConflict`."""
    plan = wanted.out / RECORDS / PLAN
    settings = json.loads(json.dumps(_settings(wanted, names)))
    if plan.is_file():
        before = json.loads(plan.read_bytes())
        changed = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if changed:
            told = ", ".join(f"{name} {before.get(name)!r} (now {settings.get(name)!r})" for name in changed)
            raise DatasetConflict(
                f"{wanted.out} was begun with other settings: {told}; give those again, or choose another folder"
            )
        return
    if (wanted.out / FILE).exists() or any(wanted.out.glob("*.tar")):
        raise DatasetConflict(f"{wanted.out} holds a data set that was made otherwise; choose another folder")
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_whole(plan, json.dumps(settings, indent=1).encode())


def _info(wanted: Preparation, names: dict[str, str | None], records: Sequence[BlockRecord]) -> DatasetInfo:
    shapes = next((record.shapes for record in records if record.shapes), {})
    return described(
        [record.shard for record in records if record.shard is not None],
        shapes,
        image_size=wanted.rules.size,
        made=_settings(wanted, names) | {"looked_at": sum(record.looked_at for record in records)},
        **names,
    )
