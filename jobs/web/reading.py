"""What API and pages read, as one tenant; whatever is not this tenant's is as unknown as what is not there."""

from __future__ import annotations

import time
import uuid
from typing import Any

from jobs.errors import UnknownJob, UnknownPicture
from jobs.reports import FINISHED_STATES, find_job
from jobs.repository import browse, control, queries
from jobs.repository.browse import People, Pictures
from jobs.web import strip
from jobs.web.access import Caller
from jobs.web.services import Services

SHIFTS_TOGETHER = 5
LONGEST_KEY = 200


class Reading:
    """Reads for one caller."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._database, self._settings, self._tenant = services.database, services.settings, caller.tenant

    def jobs(self, *, limit: int, after: uuid.UUID | None) -> list[dict[str, Any]]:
        """The newest jobs, or those made before the job `after`."""
        with self._database.reading(self._tenant) as tx:
            return [dict(row) for row in queries.jobs(tx, self._tenant, limit=limit, after=after)]

    def job(self, job: str) -> dict[str, Any]:
        """A job by its id or key, with the reasons of its failures. Raises UnknownJob."""
        job_id = self.job_id(job)
        with self._database.reading(self._tenant) as tx:
            found = queries.job(tx, self._tenant, job_id)
            if found is None:
                raise UnknownJob(f"there is no job {job!r}")
            failures = queries.failures(tx, self._tenant, job_id) if found["failed"] else []
        return {**found, "failures": [dict(failure) for failure in failures]}

    def job_id(self, job: str) -> uuid.UUID:
        """The id of the job that has this id or key. Raises UnknownJob."""
        # What no key can be does not get as far as the database: PostgreSQL's texts hold no NUL.
        if not job or len(job) > LONGEST_KEY or not job.isprintable():
            raise UnknownJob("there is no job of this name")
        try:
            return find_job(self._database, self._tenant, job).id
        except UnknownJob:
            raise UnknownJob(f"there is no job {job!r}") from None

    def people(self, job_id: uuid.UUID, which: People, *, limit: int, after: uuid.UUID | None) -> list[dict[str, Any]]:
        """The next people of a job."""
        if which.named is not None and not which.named.isprintable():
            return []
        with self._database.reading(self._tenant) as tx:
            rows = browse.people(tx, self._tenant, job_id, which, after=after, limit=limit)
        return [dict(row) for row in rows]

    def person(self, job_id: uuid.UUID, identity_id: uuid.UUID) -> dict[str, Any]:
        """One person of a job. Raises UnknownJob."""
        with self._database.reading(self._tenant) as tx:
            row = browse.person(tx, self._tenant, job_id, identity_id)
        if row is None:
            raise UnknownJob("there is no such person in this job")
        return dict(row)

    def jobs_of_person(self, identity_id: uuid.UUID, *, limit: int) -> list[Any]:
        """The newest jobs that a person is in."""
        with self._database.reading(self._tenant) as tx:
            return browse.jobs_of_person(tx, self._tenant, identity_id, limit=limit)

    def pictures(self, job_id: uuid.UUID, which: Pictures, *, limit: int, after: int) -> list[dict[str, Any]]:
        """The next pictures of a job."""
        told = (which.prompt_name, which.error_code)
        if any(text is not None and not text.isprintable() for text in told):
            return []
        with self._database.reading(self._tenant) as tx:
            rows = browse.pictures(tx, self._tenant, job_id, which, after=after, limit=limit)
        return [dict(row) for row in rows]

    def picture(self, render_id: uuid.UUID) -> dict[str, Any]:
        """One picture with its further files as `outputs`. Raises UnknownPicture."""
        with self._database.reading(self._tenant) as tx:
            row = queries.render(tx, self._tenant, render_id)
            outputs = tx.execute(queries.outputs_of(self._tenant, [render_id])).mappings().all()
        if row is None:
            raise UnknownPicture(f"there is no picture {render_id}")
        return {**row, "outputs": sorted((dict(output) for output in outputs), key=lambda one: str(one["name"]))}

    def beside(self, picture: dict[str, Any]) -> tuple[uuid.UUID | None, uuid.UUID | None]:
        """The pictures before and after one of its job."""
        with self._database.reading(self._tenant) as tx:
            return browse.beside(tx, self._tenant, picture["job_id"], picture["ordinal"])

    def strip(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Some of a job's pictures: the first that are drawn, and once it is over the best of each of some people."""
        if not job["done"]:
            return []
        is_over = job["state"] in FINISHED_STATES
        limit = strip.LOOKED_AT if is_over else strip.SHOWN
        found = self.pictures(job["job_id"], Pictures(state="done"), limit=limit, after=-1)
        return strip.best_of_each(found) if is_over else found

    def gallery(self, job_id: uuid.UUID) -> Any:
        """When the job's gallery was built; None if it never was to be."""
        with self._database.reading(self._tenant) as tx:
            return browse.gallery(tx, self._tenant, job_id)

    def workers(self) -> dict[str, Any]:
        """The fleet: its workers, how busy each was lately, and since when it is paused."""
        with self._database.reading(self._tenant) as tx:
            rows = queries.workers(tx)
            shifts = queries.shifts(tx, per_worker=SHIFTS_TOGETHER)
            paused_at = control.fleet_paused_at(tx)
        now, silent_after = time.time(), self._settings.lease_seconds
        found = []
        for row in rows:
            seconds = max(0.0, now - row["last_seen_at"])
            is_silent = row["state"] != "stopped" and seconds > silent_after
            own = [shift for shift in shifts if shift["worker_id"] == row["id"]]
            found.append(
                {
                    **row,
                    "state": "silent" if is_silent else row["state"],
                    "seconds_since_seen": round(seconds, 1),
                    "busy_share": _share(own, "seconds_drawing", "seconds"),
                    "idle_share": _share(own, "seconds_between", "seconds_drawing", "seconds_between"),
                }
            )
        return {"workers": found, "fleet_paused_at": paused_at}


def _share(shifts: list[Any], part: str, *whole: str) -> float | None:
    """The part of a time that was spent so, over these shifts; None without any."""
    total = sum(shift[name] for shift in shifts for name in whole)
    return round(sum(shift[part] for shift in shifts) / total, 4) if total else None
