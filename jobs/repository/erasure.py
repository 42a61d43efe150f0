"""Erasing a person: every row that tells of it, in one transaction, and the keys of every object that rows named.

It reaches whatever was made from that person: mixes and pictures together with others, sliders, weight sets and what
was refined from them, people given by such a weight set. Pictures of others that a slider of this person has moved
stay; those that wait for it fail, as it is missing. A worker that holds one of the units is fenced out: there is no row
that its token fits. An object that it is about to store is named by no row, and the sweep removes it.

Lock order: jobs, the person, units, weight sets, photo sets, then as everywhere renders and shares. Whoever records, or
prolongs a lease and the claim of a weight set, or begins one, takes its locks in the same order.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, Text, and_, cast, delete, func, or_, select, update

from jobs.models import (
    ARCHIVED_EVENTS,
    ARCHIVED_RENDERS,
    ARCHIVED_UNITS,
    Candidate,
    Event,
    Identity,
    Job,
    JobPicture,
    Output,
    Photo,
    PhotoSet,
    PhotoSetMember,
    PhotoSetPhoto,
    Render,
    Unit,
    WeightSet,
    WeightSetSource,
)
from jobs.repository import archive, ends, erasure_outside, shares, traces
from jobs.repository.jobs import lock_units, record_event
from jobs.repository.traces import Traces

ERASED = "identity.erased"
CHUNK = 500


@dataclass(frozen=True)
class Made:
    """What was made from a person: photo sets, whoever they belong to, and weight sets."""

    photo_sets: list[uuid.UUID]
    weight_sets: list[uuid.UUID]


@dataclass(frozen=True)
class Erased:
    """What went: people (those made of this one too), units and renders; jobs that nothing was left of; the keys of
    the objects that are to be removed from the store, after the transaction; and what is left of it elsewhere.
    """

    people: int
    units: int
    renders: int
    jobs: list[uuid.UUID]
    keys: list[str]
    traces: Traces

    @property
    def counts(self) -> dict[str, int]:
        """How much went, in numbers that tell of nobody."""
        return {
            "people": self.people,
            "photos": len(self.traces.photos),
            "weight_sets": len(self.traces.weight_sets),
            "units": self.units,
            "renders": self.renders,
            "jobs": len(self.jobs),
            "objects": len(self.keys),
        }


def erase(
    tx: Connection, tenant_id: str, identity_id: uuid.UUID, *, only_if: Callable[[Made], bool] = lambda made: True
) -> Erased | None:
    """Remove a person and everything made from it; None when the tenant knows no such person, or when `only_if`, asked
    when nobody else can change what was made from it any more, says no.
    """
    known = (Identity.tenant_id == tenant_id, Identity.id == identity_id)
    if tx.execute(select(Identity.id).where(*known)).one_or_none() is None:
        return None
    made, jobs = _locked(tx, tenant_id, identity_id)
    if not only_if(made):
        return None
    owners = _owners(tx, tenant_id, identity_id, made.photo_sets)
    found = traces.of(tx, tenant_id, people=owners, photo_sets=made.photo_sets, weight_sets=made.weight_sets)
    before = _totals(tx, tenant_id, jobs)
    pictures = _pictures_of(tx, tenant_id, made.photo_sets)
    keys, _ = archive.forget(tx, tenant_id, identity_id, made.photo_sets)
    keys += _erase_units(tx, tenant_id, jobs, made.photo_sets)
    keys += _erase_weight_sets(tx, tenant_id, made.weight_sets)
    photos = _erase_photo_sets(tx, tenant_id, made.photo_sets)
    photos |= _let_go_of_pictures(tx, tenant_id, jobs, pictures)
    after = _totals(tx, tenant_id, jobs)
    empty = [job_id for job_id in jobs if not after[job_id][0]]
    erasure_outside.deliveries(tx, tenant_id, jobs, found.units, empty)
    found.galleries = erasure_outside.galleries(tx, tenant_id, jobs, empty)
    photos |= _erase_jobs(tx, tenant_id, empty)
    keys += _erase_photos(tx, tenant_id, photos, found)
    keys += erasure_outside.uploads(tx, tenant_id, found.photos)
    found.people = _erase_people(tx, tenant_id, owners, found.people)
    erasure_outside.consents(tx, tenant_id, found.people)
    for job_id in set(jobs) - set(empty):  # one that only waited for this person is over, and no unit's end will tell
        ends.tell_job(tx, tenant_id, job_id, again=False)
    units, renders = (sum(before[one][n] - after[one][n] for one in jobs) for n in (0, 1))
    erased = Erased(len(found.people), units, renders, empty, sorted(set(keys)), found)
    counts = erased.counts
    told = {name: counts[name] for name in ("people", "units", "renders", "jobs", "objects")}
    record_event(tx, tenant_id, ERASED, data=told)
    return erased


def _locked(tx: Connection, tenant_id: str, identity_id: uuid.UUID) -> tuple[Made, list[uuid.UUID]]:
    """What was made from a person and the jobs that have units of it, when nobody else can change them any more.

    Each round begins with no lock: one that finds more has let go of its own, so that jobs come first again.
    """
    made = _made_from(tx, tenant_id, identity_id)
    while True:
        round_ = tx.begin_nested()
        jobs = _jobs_of(tx, tenant_id, made.photo_sets)
        for job_id in jobs:  # archived ones too
            tx.execute(select(Job.id).where(Job.tenant_id == tenant_id, Job.id == job_id).with_for_update())
        tx.execute(
            select(Identity.id).where(Identity.tenant_id == tenant_id, Identity.id == identity_id).with_for_update()
        )
        lock_units(tx, Unit.tenant_id == tenant_id, Unit.photo_set_id.in_(made.photo_sets))
        for table, ids in ((WeightSet, made.weight_sets), (PhotoSet, made.photo_sets)):
            rows = select(table.id).where(table.tenant_id == tenant_id, table.id.in_(ids)).order_by(table.id)
            tx.execute(rows.with_for_update())
        again = _made_from(tx, tenant_id, identity_id)
        if again == made and _jobs_of(tx, tenant_id, made.photo_sets) == jobs:
            round_.commit()
            return made, jobs
        round_.rollback()
        made = again


def _owners(tx: Connection, tenant_id: str, identity_id: uuid.UUID, sets: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """The person, and those who are given by these photo sets."""
    mine = (PhotoSet.tenant_id == tenant_id, PhotoSet.id.in_(sets))
    return {identity_id, *tx.execute(select(PhotoSet.identity_id).where(*mine)).scalars()}


def _made_from(tx: Connection, tenant_id: str, identity_id: uuid.UUID) -> Made:
    """The photo sets and weight sets that were made from a person, or from what was."""
    own = select(PhotoSet.id).where(PhotoSet.tenant_id == tenant_id, PhotoSet.identity_id == identity_id)
    sets, weights = set(tx.execute(own).scalars()), set[uuid.UUID]()
    while True:
        source, member = WeightSetSource, PhotoSetMember
        from_these = or_(source.photo_set_id.in_(sets), source.source_weight_set_id.in_(weights))
        more_weights = select(source.weight_set_id).where(source.tenant_id == tenant_id, from_these)
        by_fingerprint = select(WeightSet.fingerprint).where(
            WeightSet.tenant_id == tenant_id, WeightSet.id.in_(weights)
        )
        with_these = select(member.photo_set_id).where(
            member.tenant_id == tenant_id, member.member_photo_set_id.in_(sets)
        )
        given = select(PhotoSet.id).where(
            PhotoSet.tenant_id == tenant_id, PhotoSet.weight_set_fingerprint.in_(by_fingerprint)
        )
        found = (len(sets), len(weights))
        weights |= set(tx.execute(more_weights).scalars())
        sets |= set(tx.execute(with_these).scalars()) | set(tx.execute(given).scalars())
        if found == (len(sets), len(weights)):
            return Made(sorted(sets), sorted(weights))


def _jobs_of(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """The jobs that have units of these photo sets, archived or not, in one order."""
    found: set[uuid.UUID] = set()
    for table in (Unit.__table__, ARCHIVED_UNITS):
        mine = (table.c.tenant_id == tenant_id, table.c.photo_set_id.in_(sets))
        found |= set(tx.execute(select(table.c.job_id).where(*mine)).scalars())
    return sorted(found)


def _totals(tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID]) -> dict[uuid.UUID, tuple[int, int]]:
    """Units and renders that each of these jobs asks for."""
    statement = select(Job.id, Job.units_total, Job.renders_total).where(Job.tenant_id == tenant_id, Job.id.in_(jobs))
    return {row.id: (row.units_total, row.renders_total) for row in tx.execute(statement)}


def _erase_units(tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID], sets: Sequence[uuid.UUID]) -> list[str]:
    """Remove the units of these photo sets, which are of these jobs, with all that refers to them; returns the keys
    that their rows named.
    """
    mine = (Unit.tenant_id == tenant_id, Unit.photo_set_id.in_(sets))
    held = tx.execute(select(Unit.tenant_id, Unit.id, Unit.profile).where(*mine, Unit.state == "leased")).all()
    charges = shares.charged(tx, [(row.tenant_id, row.id, row.profile) for row in held])
    ids = select(Unit.id).where(*mine)
    renders = select(Render.id).where(Render.tenant_id == tenant_id, Render.unit_id.in_(ids))
    keys: list[str] = []
    those: tuple[tuple[Any, Any], ...] = (
        (Output, Output.render_id.in_(renders)),
        (Candidate, Candidate.render_id.in_(renders)),
        # Of these jobs: events have no index over units. Whoever notes a unit notes its job.
        (Event, and_(Event.job_id.in_(jobs), or_(Event.unit_id.in_(ids), Event.render_id.in_(renders)))),
        (Render, Render.unit_id.in_(ids)),
    )
    for table, which in those:
        if table is not Event:
            keys += _keys(tx, select(table.storage_key).where(table.tenant_id == tenant_id, which))
        tx.execute(delete(table).where(table.tenant_id == tenant_id, which))
    _drop_totals(tx, tenant_id, sets)
    shares.give_back(tx, charges)
    return keys


def _keys(tx: Connection, statement: Select[Any]) -> list[str]:
    return [key for key in tx.execute(statement).scalars() if key is not None]


def _drop_totals(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID]) -> None:
    """Remove these units, and take them off their jobs' totals."""
    mine = (Unit.tenant_id == tenant_id, Unit.photo_set_id.in_(sets))
    of_person = select(Unit.job_id, Unit.identity_id, func.count().label("units"), func.sum(Unit.renders_total))
    gone = tx.execute(of_person.where(*mine).group_by(Unit.job_id, Unit.identity_id)).all()
    tx.execute(delete(Unit).where(*mine))
    for job_id, identity_id, units, renders in gone:
        left = archive.has_units(tx, tenant_id, job_id, identity_id)
        totals: dict[str, Any] = {
            "units_total": Job.units_total - units,
            "renders_total": Job.renders_total - renders,
            "identities_total": Job.identities_total - (0 if left else 1),
        }
        tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(**totals))


def _erase_weight_sets(tx: Connection, tenant_id: str, weights: Sequence[uuid.UUID]) -> list[str]:
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.id.in_(weights))
    keys = _keys(tx, select(WeightSet.storage_key).where(*mine))
    source = WeightSetSource
    tx.execute(delete(source).where(source.tenant_id == tenant_id, source.weight_set_id.in_(weights)))
    tx.execute(delete(WeightSet).where(*mine))
    return keys


def _erase_photo_sets(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Remove these photo sets; returns the photos that were in them."""
    in_sets = (PhotoSetPhoto.tenant_id == tenant_id, PhotoSetPhoto.photo_set_id.in_(sets))
    photos = set(tx.execute(select(PhotoSetPhoto.photo_id).where(*in_sets)).scalars())
    tx.execute(delete(PhotoSetPhoto).where(*in_sets))
    tx.execute(
        delete(PhotoSetMember).where(PhotoSetMember.tenant_id == tenant_id, PhotoSetMember.photo_set_id.in_(sets))
    )
    tx.execute(delete(PhotoSet).where(PhotoSet.tenant_id == tenant_id, PhotoSet.id.in_(sets)))
    return photos


def _pictures_of(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID]) -> set[str]:
    """The SHA-256 of poses, start pictures and masks that these photo sets' renders, or they themselves, name."""
    found: set[str] = set()
    for units, renders in ((Unit.__table__, Render.__table__), (ARCHIVED_UNITS, ARCHIVED_RENDERS)):
        mine = select(units.c.id).where(units.c.tenant_id == tenant_id, units.c.photo_set_id.in_(sets))
        asked = select(renders.c.options).where(renders.c.tenant_id == tenant_id, renders.c.unit_id.in_(mine))
        for options in tx.execute(asked.where(renders.c.options.is_not(None))).scalars():
            found |= set(_named(options))
    regions = select(PhotoSetMember.region).where(
        PhotoSetMember.tenant_id == tenant_id, PhotoSetMember.photo_set_id.in_(sets)
    )
    for region in tx.execute(regions.where(PhotoSetMember.region.is_not(None))).scalars():
        found |= set(_named(region))
    return found


def _named(options: Any) -> Iterable[str]:
    """Every SHA-256 in stored options."""
    if isinstance(options, dict):
        if "sha256" in options:
            yield options["sha256"]
        for value in options.values():
            yield from _named(value)
    elif isinstance(options, list):
        for value in options:
            yield from _named(value)


def _let_go_of_pictures(
    tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID], pictures: Iterable[str]
) -> set[uuid.UUID]:
    """Take given pictures from these jobs that no other render of them names; returns their photos."""
    ids = _ids_of(tx, tenant_id, pictures)
    gone: set[uuid.UUID] = set()
    for job_id in jobs if ids else ():
        left = set(ids) - _still_named(tx, tenant_id, job_id, set(ids))
        for photo_id in sorted(ids[sha256] for sha256 in left):
            mine = (JobPicture.tenant_id == tenant_id, JobPicture.job_id == job_id, JobPicture.photo_id == photo_id)
            gone |= {photo_id} if tx.execute(delete(JobPicture).where(*mine)).rowcount else set()
    return gone


def _ids_of(tx: Connection, tenant_id: str, pictures: Iterable[str]) -> dict[str, uuid.UUID]:
    """The photos' ids by their SHA-256."""
    found, rest = dict[str, uuid.UUID](), iter(sorted(pictures))
    while chunk := list(islice(rest, CHUNK)):
        mine = (Photo.tenant_id == tenant_id, Photo.sha256.in_(chunk))
        found |= {row.sha256: row.id for row in tx.execute(select(Photo.sha256, Photo.id).where(*mine))}
    return found


def _still_named(tx: Connection, tenant_id: str, job_id: uuid.UUID, pictures: set[str]) -> set[str]:
    """Those of these pictures that a render of a job, or a photo set that it draws, names; archived or not.

    Each table is read once for all of them: these are whole jobs, whose lock is held.
    """
    found: set[str] = set()
    for units, renders in ((Unit.__table__, Render.__table__), (ARCHIVED_UNITS, ARCHIVED_RENDERS)):
        options, region = cast(renders.c.options, Text), cast(PhotoSetMember.region, Text)
        of_job = (renders.c.tenant_id == tenant_id, renders.c.job_id == job_id)
        drawn = select(units.c.photo_set_id).where(units.c.tenant_id == tenant_id, units.c.job_id == job_id)
        of_sets = (PhotoSetMember.tenant_id == tenant_id, PhotoSetMember.photo_set_id.in_(drawn))
        for told, mine in ((options, of_job), (region, of_sets)):
            # Many renders share their options, which the database tells once.
            asked = select(told).where(*mine, told.like('%"sha256"%')).distinct()
            for text in tx.execute(asked.execution_options(yield_per=CHUNK)).scalars():
                found.update(pictures.intersection(_named(json.loads(text))))
    return found


def _erase_jobs(tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Remove jobs of which no unit is left; returns the pictures that they were given."""
    given = (JobPicture.tenant_id == tenant_id, JobPicture.job_id.in_(jobs))
    pictures = set(tx.execute(select(JobPicture.photo_id).where(*given)).scalars())
    tx.execute(delete(JobPicture).where(*given))
    for events in (Event.__table__, ARCHIVED_EVENTS):
        tx.execute(delete(events).where(events.c.tenant_id == tenant_id, events.c.job_id.in_(jobs)))  # type: ignore[arg-type]
    tx.execute(delete(Job).where(Job.tenant_id == tenant_id, Job.id.in_(jobs)))
    return pictures


def _erase_photos(tx: Connection, tenant_id: str, photos: Iterable[uuid.UUID], found: Traces) -> list[str]:
    """Remove those of these photos that nobody else uses, and note their SHA-256; returns their keys."""
    place, given = PhotoSetPhoto, JobPicture
    in_set = select(place.photo_id).where(place.tenant_id == tenant_id, place.photo_id == Photo.id)
    in_job = select(given.photo_id).where(given.tenant_id == tenant_id, given.photo_id == Photo.id)
    mine = (Photo.tenant_id == tenant_id, Photo.id.in_(sorted(photos)), ~in_set.exists(), ~in_job.exists())
    rows = tx.execute(select(Photo.id, Photo.storage_key, Photo.sha256).where(*mine).order_by(Photo.id)).all()
    tx.execute(delete(Photo).where(Photo.tenant_id == tenant_id, Photo.id.in_([row.id for row in rows])))
    found.photos += [row.sha256 for row in rows]
    return [row.storage_key for row in rows]


def _erase_people(
    tx: Connection, tenant_id: str, owners: Iterable[uuid.UUID], names: Mapping[uuid.UUID, str]
) -> dict[uuid.UUID, str]:
    """Remove those of these people who have no photo set left; returns who went, with their names."""
    has_set = select(PhotoSet.id).where(PhotoSet.tenant_id == tenant_id, PhotoSet.identity_id == Identity.id).exists()
    mine = (Identity.tenant_id == tenant_id, Identity.id.in_(sorted(owners)), ~has_set)
    gone = set(tx.execute(select(Identity.id).where(*mine)).scalars())
    tx.execute(delete(Identity).where(*mine))
    return {one: name for one, name in names.items() if one in gone}
