"""Any order of everything that may happen to the queue, by several owners; what must hold is asked after each step.

I1  Every counter of units and jobs is what a recount of the renders says.
I2  A leased unit has one owner and a deadline, and no other state but a finished one remembers an owner.
I3  A token is given out once, and a unit's token only grows.
I4  What is finished stays finished, unless it was retried.
I5  Attempts and lost workers stay between nought and their caps.
I6  A render that is done has one chosen candidate, which is the object that its row names; any other has none.
I7  What is said under a token that is not the unit's, or by another owner, changes no row.
I8  The numbers of the view of jobs add up, and its state fits them.
I9  Nothing that waits is out of reach: its unit is ready, leased or paused, and paused where its job is, only there.
I10 Shares are finite and not below nought.
I11 Nothing is left of a person who was erased.
I12 A suspected unit is given out alone, and to nobody who holds others.
I13 Whatever has happened: when workers come that meet no fault, everything ends, and soon.

`PORTRAITS_CHAOS=soak` tries fifty times as many orders, other ones each time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import uuid
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_world import ASKED
from sqlalchemy import Uuid, delete, select, text, update

from jobs.database import Database, epoch_now
from jobs.models import METADATA, Candidate, Identity, Job, Render, Share, Unit
from jobs.models_fleet import Control
from jobs.repository import again, control, erasure, late, queries, reaping, units
from jobs.repository import jobs as job_rows
from jobs.repository import people as people_rows
from jobs.repository import renders as render_rows
from jobs.repository.renders import Drawn, WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.repository.writer import JobWriter, PersonRows

SOAK = os.environ.get("PORTRAITS_CHAOS") == "soak"
TENANTS, PEOPLE, OWNERS = ("acme", "zen"), ("ada", "bob"), ("w1", "w2")
ATTEMPTS, LOST = 4, 2
TERMS: dict[str, Any] = {"lease_seconds": 600.0, "max_attempts": ATTEMPTS, "max_lost_workers": LOST}
OPEN, ENDED = {"ready", "leased", "paused"}, {"done", "failed", "cancelled"}
ANY = st.integers(0, 100)  # picks one of what is there, whatever its number
EXAMPLES = 25
WORDS = ("beat", "complete", "complete", "complete", "fail_one", "fail", "release", "put_off", "recount", "commit_late")
Said = tuple[str, int, tuple[bool, bool]]
SAID = st.lists(st.tuples(st.sampled_from(WORDS), ANY, st.tuples(st.booleans(), st.booleans())), min_size=1, max_size=4)


@dataclasses.dataclass(frozen=True)
class Hold:
    """A unit as it was given to somebody, who may believe for ever to have it."""

    owner: str
    unit: ClaimedUnit
    renders: list[WaitingRender]


class Queue(RuleBasedStateMachine):
    """The repository, in the hands of several owners of whom none knows what the others do."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.holds: list[Hold] = []
        self.tokens: dict[uuid.UUID, int] = {}
        self.ended: dict[uuid.UUID, str] = {}
        self.erased: set[uuid.UUID] = set()
        self.jobs: list[tuple[str, uuid.UUID]] = []

    @initialize()
    def begin(self) -> None:
        with self.database.transaction() as tx:
            for table in reversed(METADATA.sorted_tables):
                if table.name != "controls":
                    tx.execute(delete(table))
            tx.execute(update(Control).values(paused_at=None))
        self.enqueue("acme", ["ada", "bob"], [2, 1, 1], 0)

    # What people do: `ask` chooses, so that no order leaves a kind of step out altogether

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(
        tenant=st.sampled_from(TENANTS),
        names=st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=2, unique=True),
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        priority=st.integers(-1, 1),
    )
    def enqueue(self, tenant: str, names: list[str], sizes: list[int], priority: int) -> None:
        people = [person(tenant, name, sizes) for name in names]
        with self.database.transaction() as tx:
            people_rows.register(tx, tenant, people)
            named = {"key": str(uuid.uuid4()), "content_hash": "c", "name": None, "profile": "fake"}
            job_id = job_rows.add(tx, tenant, priority=priority, **named)  # type: ignore[arg-type]
            writer = JobWriter(tx, tenant, job_id, "fake", priority, age_seconds=60)
            writer.add(people, people_rows.find(tx, tenant, people))
            counts = {"identities": writer.identities, "units": writer.units, "renders": writer.renders}
            job_rows.accept(tx, tenant, job_id, **counts)
        self.jobs.append((tenant, job_id))

    @precondition(lambda self: self.jobs)
    @rule(
        what=st.sampled_from(["pause", "resume", "resume", "retry", "retry", "rerun", "cancel", "fleet", "erase"]),
        which=ANY,
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    def ask(self, what: str, which: int, flags: tuple[bool, bool, bool]) -> None:
        if what == "retry":
            self.retry(which, *flags)
        elif what == "fleet":
            self.pause_or_resume_the_fleet(all(flags))
        elif what == "erase":
            self.erase(TENANTS[flags[0]], PEOPLE[flags[1]])
        else:
            getattr(self, what)(which)

    def cancel(self, which: int) -> None:
        with self.database.transaction() as tx:
            job_rows.cancel(tx, *self._job(which))

    def pause(self, which: int) -> None:
        with self.database.transaction() as tx:
            control.pause_job(tx, *self._job(which))

    def resume(self, which: int) -> None:
        with self.database.transaction() as tx:
            control.resume_job(tx, *self._job(which))

    def pause_or_resume_the_fleet(self, paused: bool) -> None:
        with self.database.transaction() as tx:
            (control.pause_fleet if paused else control.resume_fleet)(tx)

    def retry(self, which: int, failed: bool, quarantined: bool, cancelled: bool) -> None:
        tenant, job_id = self._job(which)
        asked = again.Which(failed=failed, quarantined=quarantined, cancelled=cancelled)
        with self.database.transaction() as tx:
            mine = select(Unit.id).where(Unit.tenant_id == tenant, Unit.job_id == job_id)
            before = set(tx.execute(mine.where(Unit.state.in_(ENDED))).scalars())
            again.retry(tx, tenant, job_id, asked)
            reopened = before & set(tx.execute(mine.where(Unit.state.in_(OPEN))).scalars())
        for unit_id in reopened:
            del self.ended[unit_id]

    def rerun(self, which: int) -> None:
        tenant, job_id = self._job(which)
        with self.database.transaction() as tx:
            mine = select(Render.id).where(Render.tenant_id == tenant, Render.job_id == job_id).order_by(Render.id)
            rows = list(tx.execute(mine).scalars())
            if rows:
                assert again.rerun(tx, tenant, rows[which % len(rows)], seed=which, age_seconds=60) is not None

    def erase(self, tenant: str, name: str) -> None:
        known = (Identity.tenant_id == tenant, Identity.external_id == name)
        with self.database.transaction() as tx:
            identity = tx.execute(select(Identity.id).where(*known)).scalar_one_or_none()
            if identity is None:
                return
            gone = {identity} | set(tx.execute(select(Unit.id).where(Unit.identity_id == identity)).scalars())
            erased = erasure.erase(tx, tenant, identity)
            assert erased is not None and len(gone) == 1 + erased.units
            assert not mentions(tx) & gone, "I11"
        self.erased |= gone
        self.jobs = [job for job in self.jobs if job[1] not in erased.jobs]
        self.ended = {unit: state for unit, state in self.ended.items() if unit not in gone}

    # What workers do: claim, and say something of what they have, or believe to have

    @rule(owner=st.sampled_from(OWNERS), limit=st.integers(1, 3), beside_others=st.booleans(), then=SAID)
    def claim(self, owner: str, limit: int, beside_others: bool, then: list[Said]) -> None:
        self.claim_next(owner, limit, beside_others)
        self.say_of_what_came_last(then)

    @rule(owner=st.sampled_from(OWNERS), which=ANY, then=SAID)
    def claim_what_a_message_names(self, owner: str, which: int, then: list[Said]) -> None:
        self.claim_the_unit_of_a_message_and_its_person(owner, which)
        self.say_of_what_came_last(then)

    @precondition(lambda self: self.holds)
    @rule(said=SAID, which=ANY)
    def say(self, said: list[Said], which: int) -> None:
        for what, render, flags in said:
            self._say_one(what, which, render, flags)

    def say_of_what_came_last(self, said: list[Said]) -> None:
        for what, render, flags in said if self.holds else []:
            self._say_one(what, 1, render, flags)

    def _say_one(self, what: str, which: int, render: int, flags: tuple[bool, bool]) -> None:
        if what == "complete":
            self.complete(which, render, all(flags))
        elif what in {"fail_one", "commit_late"}:
            getattr(self, what)(which, render)
        elif what == "release":
            self.release(which, flags[0], 3600.0 if flags[1] else 0.0)
        else:
            getattr(self, what)(which)

    def claim_next(self, owner: str, limit: int, beside_others: bool) -> None:
        with self.database.transaction() as tx:
            claimed = units.claim_next(tx, "fake", owner, limit=limit, beside_others=beside_others, **TERMS)
            self._hold(owner, claimed, {unit: render_rows.waiting(tx, [unit]) for unit in claimed})
        if any(unit.is_suspected for unit in claimed):
            assert len(claimed) == 1 and not beside_others, "I12"

    def claim_the_unit_of_a_message_and_its_person(self, owner: str, which: int) -> None:
        with self.database.transaction() as tx:
            ids = list(tx.execute(select(Unit.id).order_by(Unit.id)).scalars())
            claimed = units.claim_unit(tx, ids[which % len(ids)], "fake", owner, **TERMS) if ids else []
            if claimed:
                claimed += units.claim_same_person(tx, claimed[0], owner, limit=5, **TERMS)
            self._hold(owner, claimed, {unit: render_rows.waiting(tx, [unit]) for unit in claimed})
        if any(unit.is_suspected for unit in claimed):
            assert len(claimed) == 1, "I12"

    def beat(self, which: int) -> None:
        hold = self._one(which)
        with self.database.transaction() as tx:
            is_held = self._is_held(tx, hold)
            held = units.heartbeat(tx, hold.owner, {hold.unit.id: hold.unit.lease_token}, lease_seconds=600.0)
        assert bool(held) is is_held

    def complete(self, which: int, render: int, late_key: bool) -> None:
        hold = self._one(which)
        one = hold.renders[render % len(hold.renders)]
        key = f"{one.unit.tenant_id}/{one.unit.job_id}/{one.id}/{one.unit.lease_token}{'-b' * late_key}.png"
        self._say(
            hold,
            lambda tx: render_rows.complete(tx, one, hold.owner, drawn(key)),
            expected=lambda tx: state_of(tx, one) == ("waiting", None),
            otherwise=lambda tx: state_of(tx, one)[1] == key,
        )

    def fail_one(self, which: int, render: int) -> None:
        hold = self._one(which)
        one = hold.renders[render % len(hold.renders)]
        self._say(
            hold,
            lambda tx: render_rows.fail(tx, one, hold.owner, error_code="refused", error="told"),
            expected=lambda tx: state_of(tx, one)[0] == "waiting",
        )

    def fail(self, which: int) -> None:
        hold = self._one(which)
        self._say(hold, lambda tx: units.fail(tx, hold.unit, hold.owner, error_code="no_face", error="told"))

    def release(self, which: int, give_attempt_back: bool, after_seconds: float) -> None:
        hold = self._one(which)
        terms: dict[str, Any] = {"give_attempt_back": give_attempt_back, "after_seconds": after_seconds}
        self._say(hold, lambda tx: units.release(tx, hold.unit, hold.owner, **terms))

    def put_off(self, which: int) -> None:
        hold = self._one(which)
        self._say(hold, lambda tx: late.put_off(tx, hold.unit, hold.owner, after_seconds=3600.0))

    def recount(self, which: int) -> None:
        hold = self._one(which)
        self._say(hold, lambda tx: units.recount(tx, hold.unit, hold.owner))

    def commit_late(self, which: int, render: int) -> None:
        """A picture on a worker's disk is recorded as the committer does it."""
        hold = self._one(which)
        one = hold.renders[render % len(hold.renders)]
        key = f"{one.unit.tenant_id}/{one.unit.job_id}/{one.id}/{one.unit.lease_token}.png"
        with self.database.transaction() as tx:
            before = everything(tx)
            standing = late.standing(tx, hold.unit, hold.owner, one.id, key)
            if standing != "wanted":
                assert everything(tx) == before, "I7"
                return
            was = late.take_back(tx, hold.unit, hold.owner)
            assert render_rows.complete(tx, one, hold.owner, drawn(key))
            if was is not None:
                late.give_back(tx, hold.unit, hold.owner, to=was)
            late.free(tx, hold.unit)

    # What befalls them

    @rule(what=st.sampled_from(["all", "crash", "crash", "one", "hour", "reap", "grace"]), which=ANY)
    def befall(self, what: str, which: int) -> None:
        if what == "all":
            self.all_leases_run_out()
        elif what == "crash":
            self.all_leases_run_out()
            self.reap(0.0)
        elif what == "one" and self.holds:
            self.a_lease_runs_out(which)
        elif what == "hour":
            self.an_hour_passes_for_who_was_put_off()
        elif what in {"reap", "grace"}:
            self.reap(60.0 if what == "grace" else 0.0)

    def all_leases_run_out(self) -> None:
        """Nobody has beaten for longer than a lease lives."""
        with self.database.transaction() as tx:
            lost = {"lease_until": epoch_now() - 1.0, "ready_at": epoch_now() - 100.0}
            tx.execute(update(Unit).where(Unit.state == "leased").values(**lost))

    def a_lease_runs_out(self, which: int) -> None:
        hold = self._one(which)
        with self.database.transaction() as tx:
            lost = {"lease_until": epoch_now() - 1.0, "ready_at": epoch_now() - 100.0}
            tx.execute(update(Unit).where(Unit.id == hold.unit.id, Unit.state == "leased").values(**lost))

    def an_hour_passes_for_who_was_put_off(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(update(Unit).values(ready_at=Unit.ready_at - 3700.0))

    def reap(self, grace_seconds: float) -> None:
        with self.database.transaction() as tx:
            reaping.reap(tx, max_attempts=ATTEMPTS, max_lost_workers=LOST, grace_seconds=grace_seconds)

    # What must hold

    @invariant()
    def everything_adds_up(self) -> None:
        with self.database.reading() as tx:
            rows = tx.execute(select(Unit)).all()
            renders = tx.execute(select(Render)).all()
            jobs = {job.id: job for job in tx.execute(select(Job))}
            views = {row["job_id"]: row for tenant in TENANTS for row in queries.jobs(tx, tenant)}
            chosen = tx.execute(select(Candidate.render_id, Candidate.storage_key).where(Candidate.chosen)).all()
            shares = tx.execute(select(Share.virtual_time, Share.served_at)).all()
        count = Counter((render.unit_id, render.state) for render in renders)
        for unit in rows:
            self._check_unit(unit, count, jobs[unit.job_id].paused_at is not None)
        assert set(jobs) == {job_id for _, job_id in self.jobs}
        for job in jobs.values():
            mine = [unit for unit in rows if unit.job_id == job.id]
            told = (job.units_total, job.renders_total, job.identities_total)
            assert told == (len(mine), sum(u.renders_total for u in mine), len({u.identity_id for u in mine})), "I1"
            check_view(views[job.id])
        assert Counter(row.render_id for row in chosen) == Counter(r.id for r in renders if r.state == "done"), "I6"
        names = {render.id: render.storage_key for render in renders}
        assert all(names[row.render_id] == row.storage_key for row in chosen), "I6"
        assert all(math.isfinite(v) and v >= -1e-9 for share in shares for v in share), "I10"

    def _check_unit(self, unit: Any, count: Counter[tuple[uuid.UUID, str]], job_is_paused: bool) -> None:
        told = {"done": unit.renders_done, "failed": unit.renders_failed, "cancelled": unit.renders_cancelled}
        assert all(count[unit.id, state] == number for state, number in told.items()), "I1"
        waiting = count[unit.id, "waiting"]
        assert unit.renders_total == waiting + sum(told.values()), "I1"
        if unit.state == "leased":
            assert unit.lease_owner is not None and unit.lease_until is not None, "I2"
        else:
            assert unit.lease_until is None and (unit.state in ENDED or unit.lease_owner is None), "I2"
        assert unit.lease_token >= self.tokens.get(unit.id, 0), "I3"
        self.tokens[unit.id] = unit.lease_token
        assert self.ended.get(unit.id, unit.state) == unit.state, "I4"
        if unit.state in ENDED:
            self.ended[unit.id] = unit.state
        assert 0 <= unit.attempts <= ATTEMPTS and 0 <= unit.lost_workers <= LOST, "I5"
        assert (unit.state in OPEN) is (waiting > 0), "I9"
        assert unit.state not in OPEN or (unit.state == "paused") is job_is_paused, "I9"

    def teardown(self) -> None:
        """I13: resumed, and with workers that meet no fault, everything ends."""
        with self.database.transaction() as tx:
            control.resume_fleet(tx)
            for tenant, job_id in self.jobs:
                control.resume_job(tx, tenant, job_id)
            tx.execute(update(Unit).values(ready_at=0.0))
            tx.execute(update(Unit).where(Unit.state == "leased").values(lease_until=epoch_now() - 1.0))
            count = len(tx.execute(select(Unit.id)).all())
        for _ in range(2 * count + 1):
            with self.database.transaction() as tx:
                reaping.reap(tx, max_attempts=ATTEMPTS, max_lost_workers=LOST)
                claimed = units.claim_next(tx, "fake", "last", limit=9, **TERMS)
                for unit in claimed:
                    for render in render_rows.waiting(tx, [unit]):
                        assert render_rows.complete(tx, render, "last", drawn(f"last/{render.id}"))
            if not claimed:
                break
        self.everything_adds_up()
        with self.database.reading() as tx:
            assert set(tx.execute(select(Unit.state)).scalars()) <= ENDED, "I13"
            assert not mentions(tx) & self.erased, "I11"

    # How a step is made

    def _job(self, which: int) -> tuple[str, uuid.UUID]:
        return self.jobs[which % len(self.jobs)]

    def _one(self, which: int) -> Hold:
        """One of the last holds that were given out, or, two times of three, of those that are held still."""
        last = self.holds[-6:]
        if which % 3:
            with self.database.reading() as tx:
                last = [hold for hold in self.holds[-12:] if self._is_held(tx, hold)] or last
        return last[-1 - which // 3 % len(last)]

    def _hold(self, owner: str, claimed: list[ClaimedUnit], renders: dict[ClaimedUnit, list[WaitingRender]]) -> None:
        for unit in claimed:
            assert unit.lease_token > self.tokens.get(unit.id, 0), "I3"
            self.tokens[unit.id] = unit.lease_token
            self.holds.append(Hold(owner, unit, renders[unit]))

    def _is_held(self, tx: Any, hold: Hold) -> bool:
        """Whether a row says so, in the plainest words."""
        row = tx.execute(select(Unit).where(Unit.id == hold.unit.id)).one_or_none()
        told = row and (row.state, row.lease_owner, row.lease_token)
        return bool(told == ("leased", hold.owner, hold.unit.lease_token))

    def _say(
        self, hold: Hold, write: Any, *, expected: Any = lambda tx: True, otherwise: Any = lambda tx: False
    ) -> None:
        """Write as this owner under this token: it counts where it is held and `expected`; else no row changes."""
        with self.database.transaction() as tx:
            counts = self._is_held(tx, hold) and expected(tx)
            told, before = counts or otherwise(tx), None if counts else everything(tx)
            assert write(tx) is told
            if not counts:
                assert everything(tx) == before, "I7"


def check_view(view: Any) -> None:
    """I8 of one row."""
    parts = [view[name] for name in ("waiting", "done", "failed", "cancelled")]
    assert sum(parts) == view["renders"] and 0 <= view["running"] <= view["waiting"] and min(parts) >= 0, "I8"
    assert (view["state"] in {"done", "failed", "partial", "cancelled"}) is (view["waiting"] == 0), "I8"
    assert (view["finished_at"] is not None) is (view["waiting"] == 0), "I8"
    if view["state"] == "done":
        assert view["failed"] == 0, "I8"


def everything(tx: Any) -> dict[str, list[Any]]:
    """Every row of the tables that a worker's word may change."""
    tables = (Unit, Render, Candidate, Job, Share)
    ordered = [select(table).order_by(*table.__table__.primary_key) for table in tables]
    return {table.__tablename__: list(tx.execute(asked)) for table, asked in zip(tables, ordered, strict=True)}


def mentions(tx: Any) -> set[uuid.UUID | None]:
    """Every id that any row holds."""
    columns = [c for table in METADATA.sorted_tables for c in table.c if isinstance(c.type, Uuid)]
    wanted = [c for c in columns if c.name in {"unit_id", "identity_id"} or c.table.name in {"identities", "units"}]
    return {
        value for column in wanted for value in tx.execute(select(column).distinct()).scalars() if value is not None
    }


def state_of(tx: Any, render: WaitingRender) -> tuple[str | None, str | None]:
    row = tx.execute(select(Render.state, Render.storage_key).where(Render.id == render.id)).one_or_none()
    return (None, None) if row is None else (row.state, row.storage_key)


def person(tenant: str, name: str, sizes: list[int]) -> PersonRows:
    """A person with one photo and units of so many renders."""
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    photo = {"sha256": sha256, "storage_key": f"{tenant}/photos/{sha256}", "media_type": "image/jpeg", "size_bytes": 1}
    asked = [[{**ASKED, "ordinal": 10 * n + m, "seed": m} for m in range(size)] for n, size in enumerate(sizes)]
    return PersonRows(name, None, None, [{**photo, "width": 8, "height": 8}], sha256, asked)


def drawn(key: str) -> Drawn:
    """A finished picture under this key."""
    seconds = {f"seconds_{step}": 0.0 for step in ("weights", "merge", "denoise", "decode", "encode", "upload")}
    texts = {"media_type": "image/png", "sha256": "0" * 64, "final_prompt": "p", "recogniser": "fake", "worker": "w"}
    model = {"model_fingerprint": "m", "weight_set_fingerprint": "w", "device": "fake", "id_similarity_reason": None}
    return Drawn(storage_key=key, size_bytes=1, id_similarity=None, batch_size=1, **seconds, **texts, **model)  # type: ignore[arg-type]


def test_any_order_of_everything_keeps_what_must_hold(database: Database) -> None:
    if not database.is_sqlite:  # nothing here asks what is left after a power cut
        with database.transaction() as tx:
            tx.execute(text(f'ALTER DATABASE "{database.engine.url.database}" SET synchronous_commit TO off'))
        database.dispose()
    run_state_machine_as_test(
        lambda: Queue(database),
        settings=settings(
            max_examples=EXAMPLES * (50 if SOAK else 1),
            stateful_step_count=40,
            deadline=None,
            derandomize=not SOAK,
            database=None,
            phases=(Phase.generate, Phase.shrink) if SOAK else (Phase.generate,),  # to shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
