"""Sums and samples over many rows: how fast a profile draws, and the photos that a job's people are known by."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, case, func, literal, select, union_all

from jobs.models import Identity, Job, Photo, PhotoSetMember, PhotoSetPhoto, Render, Unit

RECENT_JOBS = 20


def pace(tx: Connection, tenant_id: str, profile: str) -> list[RowMapping]:
    """Pictures and device seconds for each size, steps and use of guidance, over the profile's newest jobs.

    A render for which several seeds were drawn counts as that many pictures. Encoding and upload run beside the device
    and are not counted, nor is what follows a picture: faces drawn again, files made of it.
    """
    newest = (
        select(Job.id)
        .where(Job.tenant_id == tenant_id, Job.profile == profile)
        .order_by(Job.id.desc())
        .limit(RECENT_JOBS)
    )
    parts = (Render.seconds_weights, Render.seconds_merge, Render.seconds_denoise, Render.seconds_decode)
    seconds = sum((func.coalesce(part, 0.0) for part in parts[1:]), func.coalesce(parts[0], 0.0))
    guided = case((Render.guidance > 1.0, 1), else_=0)
    statement = (
        select(
            Render.width,
            Render.height,
            Render.steps,
            guided.label("guided"),
            func.sum(func.coalesce(Render.draws, 1)).label("pictures"),
            func.sum(seconds).label("seconds"),
        )
        .where(Render.tenant_id == tenant_id, Render.job_id.in_(newest), Render.state == "done")
        .group_by(Render.width, Render.height, Render.steps, guided)
    )
    return list(tx.execute(statement).mappings())


def reference_photos(tx: Connection, tenant_id: str, job_id: uuid.UUID, names: Sequence[str]) -> list[RowMapping]:
    """The photos (`external_id`, `position`, `storage_key`) that a job knows the named people by, in their order.

    Who is made of others has the photos of those; the position then counts over all of them.
    """
    units = (
        select(Identity.external_id, Unit.photo_set_id, literal(-1).label("member"))
        .join(Identity, (Identity.tenant_id == Unit.tenant_id) & (Identity.id == Unit.identity_id))
        .where(Unit.tenant_id == tenant_id, Unit.job_id == job_id, Identity.external_id.in_(names))
        .distinct()
    )
    asked = units.subquery()
    of_set = (PhotoSetMember.tenant_id == tenant_id) & (PhotoSetMember.photo_set_id == asked.c.photo_set_id)
    members = select(asked.c.external_id, PhotoSetMember.member_photo_set_id, PhotoSetMember.position).join(
        PhotoSetMember, of_set
    )
    sets = union_all(units, members).subquery()
    in_set = (PhotoSetPhoto.tenant_id == tenant_id) & (PhotoSetPhoto.photo_set_id == sets.c.photo_set_id)
    order = (sets.c.external_id, sets.c.member, PhotoSetPhoto.position)
    position = func.row_number().over(partition_by=sets.c.external_id, order_by=order[1:]) - 1
    statement = (
        select(sets.c.external_id, position.label("position"), Photo.storage_key)
        .select_from(sets)
        .join(PhotoSetPhoto, in_set)
        .join(Photo, (Photo.tenant_id == tenant_id) & (Photo.id == PhotoSetPhoto.photo_id))
        .order_by(*order)
    )
    return list(tx.execute(statement).mappings())
