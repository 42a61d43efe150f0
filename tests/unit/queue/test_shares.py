"""Fair share between tenants: the property, the turn, and how little a claim reads."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from queue_world import ASKED
from sqlalchemy import Connection, delete, insert, select, text, update

from jobs.database import Database
from jobs.models import Identity, Job, PhotoSet, Render, Share, Tenant, Unit
from jobs.orm import new_id, utcnow
from jobs.repository import control, shares, units

TERMS: dict[str, Any] = {"lease_seconds": 30.0, "max_attempts": 3}
STANDARD = {"width": 1024, "height": 1024, "steps": 30}


def add_tenant(tx: Connection, tenant: str, weight: float = 1.0) -> None:
    tx.execute(insert(Tenant).values(id=tenant, created_at=utcnow(), weight=weight))


def add_units(
    tx: Connection, tenant: str, sizes: list[int], *, ready_at: float = 0.0, profile: str = "fake", **asked: Any
) -> list[uuid.UUID]:
    """Waiting units of so many standard pictures each, of one person in one job."""
    own = {"tenant_id": tenant, "created_at": utcnow()}
    identity, photo_set, job = new_id(), new_id(), new_id()
    tx.execute(insert(Identity).values(**own, id=identity, external_id=str(identity)))
    place = {"identity_id": identity, "fingerprint": "f" * 64, "kind": "photos"}
    tx.execute(insert(PhotoSet).values(**own, id=photo_set, **place))
    totals = {"identities_total": 1, "units_total": len(sizes), "renders_total": sum(sizes)}
    named = {"key": str(job), "content_hash": "c" * 64, "profile": profile, "priority": 0}
    tx.execute(insert(Job).values(**own, id=job, **named, **totals))
    of = {"job_id": job, "identity_id": identity}
    made = []
    for size in sizes:
        unit = new_id()
        queue = {"profile": profile, "state": "ready", "ready_at": ready_at, "sort_key": 0.0, "renders_total": size}
        tx.execute(insert(Unit).values(**own, id=unit, **of, photo_set_id=photo_set, **queue))
        rows = [
            {**own, **of, **ASKED, **STANDARD, **asked, "id": new_id(), "unit_id": unit, "state": "waiting"}
            | {"ordinal": n, "seed": n}
            for n in range(size)
        ]
        tx.execute(insert(Render), rows)
        made.append(unit)
    return made


def claim(tx: Connection, owner: str = "w") -> str | None:
    """Whose unit is claimed next."""
    found = units.claim_next(tx, "fake", owner, limit=1, **TERMS)
    return found[0].tenant_id if found else None


def turns(database: Database, count: int) -> list[str | None]:
    with database.transaction() as tx:
        return [claim(tx) for _ in range(count)]


class Undone(Exception):
    """Ends a transaction that nobody is to keep."""


@hypothesis_settings(
    max_examples=12,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes on a database
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_shares_come_to_the_weights_whatever_the_order_and_the_sizes(database: Database, data: st.DataObject) -> None:
    # Given tenants of any weight who all have more units waiting than will be claimed, of any size, and who come one
    # after the other, some of them only after a while of claims
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=4))
    largest = data.draw(st.integers(1, 4))
    sizes = st.integers(1, largest)
    names = data.draw(st.permutations([f"t{n}" for n in range(len(weights))]))
    of = dict(zip(names, weights, strict=True))
    work: Counter[str] = Counter()
    since: Counter[str] = Counter()
    with pytest.raises(Undone), database.transaction() as tx:
        for name, weight in of.items():
            add_tenant(tx, name, weight)
            add_units(tx, name, [data.draw(sizes) for _ in range(9)])
            for _ in range(data.draw(st.integers(0, 3))):
                claim(tx)

        # When units are claimed as long as everybody has some
        while len(shares.due(tx, "fake")) == len(of):
            held = units.claim_next(tx, "fake", "w", limit=1, **TERMS)[0]
            work[held.tenant_id] += tx.execute(select(Unit.renders_total).where(Unit.id == held.id)).scalar_one()
            since = Counter({name: since[name] + 1 for name in of if name != held.tenant_id})

            # Then nobody is more than one unit of each ahead of another, per weight
            per_weight = {name: work[name] / weight for name, weight in of.items()}
            most = {name: largest / weight for name, weight in of.items()}
            for a in of:
                for b in of:
                    assert per_weight[a] - per_weight[b] <= most[a] + most[b] + 1e-6, (of, work)
            # And nobody waits longer than the others take to be as far ahead
            longest = {n: sum(2 + (most[n] + most[o]) * of[o] for o in of if o != n) for n in of}
            assert all(since[name] <= longest[name] for name in of), (of, since)
        raise Undone


def test_a_tenant_that_was_idle_has_no_credit_for_it(database: Database) -> None:
    # Given a tenant that has drawn ten pictures while another asked for nothing
    with database.transaction() as tx:
        for name in ("busy", "late"):
            add_tenant(tx, name)
        add_units(tx, "late", [1])
        assert claim(tx) == "late"
        add_units(tx, "busy", [1] * 20)
    assert turns(database, 10) == ["busy"] * 10

    # When the other asks for as much
    with database.transaction() as tx:
        add_units(tx, "late", [1] * 10)

    # Then they take turns from then on
    counts = Counter(turns(database, 8))
    assert counts == {"busy": 4, "late": 4}


def test_a_heavier_tenant_is_served_more_often(database: Database) -> None:
    with database.transaction() as tx:
        for name, weight in (("light", 1.0), ("heavy", 3.0)):
            add_tenant(tx, name, weight)
            add_units(tx, name, [1] * 20)
    assert Counter(turns(database, 16)) == {"heavy": 12, "light": 4}


def test_dear_pictures_count_for_more(database: Database) -> None:
    # Given one tenant whose pictures take four times the steps of another's
    with database.transaction() as tx:
        for name, steps in (("dear", 120), ("cheap", 30)):
            add_tenant(tx, name)
            add_units(tx, name, [1] * 20, steps=steps)
    assert Counter(turns(database, 10)) == {"cheap": 8, "dear": 2}


def test_a_flood_of_messages_buys_no_more_than_the_share(database: Database) -> None:
    # Given a tenant that was just served and sends a message for each of its units, and one that waits
    with database.transaction() as tx:
        for name in ("loud", "quiet"):
            add_tenant(tx, name)
        loud = add_units(tx, "loud", [1] * 4)
        quiet = add_units(tx, "quiet", [1] * 4)
        assert claim(tx) == "loud"

    # When its messages come first
    with database.transaction() as tx:
        assert units.claim_unit(tx, loud[-1], "fake", "w", **TERMS) == []
        taken = units.claim_unit(tx, quiet[0], "fake", "w", **TERMS)

    # Then the unit they name is not claimed before the other tenant's turn
    assert [unit.tenant_id for unit in taken] == ["quiet"]


def test_a_tenant_whose_units_wait_for_another_try_does_not_hold_up_others(database: Database) -> None:
    with database.transaction() as tx:
        for name in ("a", "b"):
            add_tenant(tx, name)
        add_units(tx, "a", [1], ready_at=9e12)
        add_units(tx, "b", [1])
    assert turns(database, 2) == ["b", None]


def test_the_clock_goes_on_while_the_first_tenant_is_put_off(database: Database) -> None:
    # Given a tenant that has had nothing and is put off for long, and one that has drawn ten pictures meanwhile
    with database.transaction() as tx:
        for name in ("away", "busy", "new"):
            add_tenant(tx, name)
        add_units(tx, "away", [1], ready_at=9e12)
        add_units(tx, "busy", [1] * 20)
    assert turns(database, 10) == ["busy"] * 10

    # When another comes
    with database.transaction() as tx:
        add_units(tx, "new", [1] * 10)
        assert sorted(shares.due(tx, "fake")) == ["busy", "new"]

    # Then it takes turns with the one that is there, and does not shut it out
    assert Counter(turns(database, 8)) == {"busy": 4, "new": 4}


def test_a_claim_asks_once_whether_the_fleet_is_paused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given three tenants whose units are due and were tried too often
    asked: list[bool] = []
    monkeypatch.setattr(units, "may_claim", lambda tx: asked.append(control.may_claim(tx)) or asked[-1])
    with database.transaction() as tx:
        for name in ("a", "b", "c"):
            add_tenant(tx, name)
            add_units(tx, name, [1])
        tx.execute(update(Unit).values(attempts=TERMS["max_attempts"]))

    # When somebody claims
    assert turns(database, 1) == [None]

    # Then it asked once, not for each of them
    assert asked == [True]


@pytest.mark.parametrize("how", ["release", "pause"])
def test_what_is_handed_back_undrawn_is_not_paid_for(database: Database, how: str) -> None:
    # Given a claim of three pictures of a tenant of weight 2
    with database.transaction() as tx:
        add_tenant(tx, "acme", 2.0)
        add_units(tx, "acme", [3])
        held = units.claim_next(tx, "fake", "w", limit=1, **TERMS)[0]
        assert tx.execute(select(Share.virtual_time)).scalar_one() == pytest.approx(1.5)

    # When it is handed back
    with database.transaction() as tx:
        if how == "release":
            assert units.release(tx, held, "w", give_attempt_back=True)
        else:
            assert control.pause_job(tx, "acme", held.job_id) == 1

    # Then nothing is charged
    with database.reading() as tx:
        assert tx.execute(select(Share.virtual_time)).scalar_one() == pytest.approx(0.0)


def _plan(tx: Connection, statement: Any) -> str:
    compiled = statement.compile(tx.engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN " if tx.dialect.name == "sqlite" else "EXPLAIN "
    return "\n".join(str(row[-1]) for row in tx.exec_driver_sql(explain + str(compiled).replace("%%", "%")))


def test_a_claim_walks_the_index_and_sorts_nothing(database: Database) -> None:
    # Given two tenants of whose three thousand units most are done, and what the planner knows of them
    with database.transaction() as tx:
        for name in ("acme", "zen"):
            add_tenant(tx, name)
            first = add_units(tx, name, [1])[0]
            row = dict(tx.execute(select(Unit.__table__).where(Unit.id == first)).mappings().one())
            tx.execute(
                insert(Unit),
                [
                    row | {"id": new_id(), "sort_key": float(n), "state": "done" if n % 10 else "ready"}
                    for n in range(1500)
                ],
            )
        tx.execute(delete(Share))
    with database.transaction() as tx:
        tx.execute(text("ANALYZE"))

        # When the statements of a claim are explained
        walk, first_of = _plan(tx, shares.waiting_tenants("fake")), _plan(tx, units.next_of("fake", "acme", 1))

    # Then both go through the index of shares, and neither reads the table through or sorts
    for plan in (walk, first_of):
        assert "ix_units_share" in plan, plan
        assert "SCAN units" not in plan and "Seq Scan on units" not in plan, plan
    assert "Sort" not in first_of and "TEMP B-TREE" not in first_of, first_of


def test_an_older_job_comes_before_one_of_higher_priority_that_came_much_later(database: Database) -> None:
    # Given a unit that has waited for more than a step of priority is worth, and a fresh one a step higher
    with database.transaction() as tx:
        add_tenant(tx, "acme")
        old, fresh = add_units(tx, "acme", [1])[0], add_units(tx, "acme", [1])[0]
        for unit_id, came, priority in ((old, 1000.0, 0), (fresh, 1061.0, 1)):
            tx.execute(update(Unit).where(Unit.id == unit_id).values(sort_key=came - 60 * priority, ready_at=came))

        # Then the old one is drawn first
        assert units.claim_next(tx, "fake", "w", limit=1, **TERMS)[0].id == old
