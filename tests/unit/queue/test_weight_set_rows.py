"""Rows of weight sets and of finished pictures: sources, refined sets, candidates, further outputs."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest
from queue_world import TENANT, add_job, person, settings
from sqlalchemy import select, update

from jobs.database import Database, epoch_now
from jobs.errors import SourceMissing, UnknownWeightSet
from jobs.models import Candidate, Output, Render, Unit, WeightSet, WeightSetSource
from jobs.planned import candidate_seed
from jobs.reports import outputs
from jobs.repository import again, queries, units, weight_sets
from jobs.repository import renders as render_rows
from jobs.repository.renders import CandidateRow, Drawn, OutputRow, WaitingRender
from jobs.repository.summaries import pace
from jobs.repository.weight_sets import WeightSetRow
from jobs.settings import Settings

DRAWN = Drawn(
    storage_key="k/0.png",
    media_type="image/png",
    size_bytes=1,
    sha256="0" * 64,
    final_prompt="p",
    id_similarity=0.7,
    id_similarity_reason=None,
    recogniser="fake",
    model_fingerprint="m",
    weight_set_fingerprint="w",
    device="fake",
    worker="w",
    batch_size=1,
    seconds_weights=0.0,
    seconds_merge=0.0,
    seconds_denoise=6.0,
    seconds_decode=0.0,
    seconds_encode=0.0,
    seconds_upload=0.0,
)


@pytest.fixture
def world(database: Database, tmp_path: Path, database_url: str) -> Settings:
    """Two people, one of them with three renders."""
    known = settings(tmp_path, database_url)
    add_job(database, [person("ada", [3], known), person("alan", [1], known)])
    return known


def held(database: Database) -> list[WaitingRender]:
    with database.transaction() as tx:
        found = units.claim_next(tx, "fake", "w", limit=5, lease_seconds=30, max_attempts=3)
        return render_rows.waiting(tx, found)


def photo_sets(database: Database) -> list[uuid.UUID]:
    with database.transaction() as tx:
        claimed = units.claim_next(tx, "fake", "w", limit=5, lease_seconds=30, max_attempts=3)
        return [unit.photo_set_id for unit in claimed]


def test_candidates_and_outputs_of_a_picture(world: Settings, database: Database) -> None:
    # Given a render for which three seeds were drawn, and a second file made
    render = held(database)[0]
    drawn = dataclasses.replace(
        DRAWN,
        drawn_seed=11,
        draws=3,
        output_width=32,
        output_height=64,
        seconds_detail=0.5,
        seconds_finish=0.25,
        detail_faces=2,
    )
    others = [CandidateRow(render.seed, "k/1.png", "1" * 64, 2, None), CandidateRow(12, "k/2.png", "2" * 64, 3, 0.1)]
    avatar = OutputRow("avatar", "k/0-avatar.webp", "image/webp", 512, 512, 9, "9" * 64)

    # When it is recorded, and once more because the answer was lost
    for _ in range(2):
        with database.transaction() as tx:
            assert render_rows.complete(tx, render, "w", drawn, others=others, outputs=[avatar])

    # Then the row says what was chosen, the candidates stand beside it, and nothing stands twice
    with database.reading() as tx:
        row = queries.render(tx, TENANT, render.id)
        kept = tx.execute(select(Candidate.seed, Candidate.storage_key, Candidate.chosen).order_by(Candidate.id)).all()
        assert tx.execute(select(Output.name)).scalars().all() == ["avatar"]
    assert row is not None
    told = ("drawn_seed", "draws", "output_width", "output_height", "seconds_detail", "seconds_finish", "detail_faces")
    assert [row[name] for name in told] == [11, 3, 32, 64, 0.5, 0.25, 2]
    assert [tuple(one) for one in kept] == [
        (11, "k/0.png", True),
        (render.seed, "k/1.png", False),
        (12, "k/2.png", False),
    ]


def test_a_plain_picture_is_kept_under_its_own_seed(world: Settings, database: Database) -> None:
    render = held(database)[2]
    with database.transaction() as tx:
        assert render_rows.complete(tx, render, "w", DRAWN)
        assert tx.execute(select(Candidate.seed)).scalars().all() == [render.seed]
        assert tx.execute(select(Render.drawn_seed, Render.draws).where(Render.id == render.id)).one() == (2, 1)


def test_who_lost_the_lease_writes_neither_candidates_nor_outputs(world: Settings, database: Database) -> None:
    render = held(database)[0]
    other = CandidateRow(12, "k/2.png", "2" * 64, 3, 0.1)
    avatar = OutputRow("avatar", "k/0-avatar.webp", "image/webp", 512, 512, 9, "9" * 64)
    with database.transaction() as tx:
        assert not render_rows.complete(tx, render, "somebody else", DRAWN, others=[other], outputs=[avatar])
        assert tx.execute(select(Candidate.id)).all() == []
        assert tx.execute(select(Output.id)).all() == []


def test_outputs_come_in_the_order_of_the_pictures(
    world: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three finished pictures with two further files each, recorded from the last to the first
    with database.transaction() as tx:  # ordinals are a job's, not a person's
        for number, one in enumerate(tx.execute(select(Render.id).order_by(Render.id)).scalars().all()):
            tx.execute(update(Render).where(Render.id == one).values(ordinal=number))
    for render in reversed(held(database)[:3]):
        files = [
            OutputRow(name, f"k/{render.ordinal}-{name}", "image/png", 8, 8, 1, "0" * 64)
            for name in ("small", "avatar")
        ]
        drawn = dataclasses.replace(DRAWN, storage_key=f"k/{render.ordinal}.png")
        with database.transaction() as tx:
            assert render_rows.complete(tx, render, "w", drawn, outputs=files)

    # Then they are listed by picture and name, and of another tenant or job there are none
    found = [row["storage_key"] for row in outputs("job", tenant=TENANT, settings=world)]
    assert found == [f"k/{number}-{name}" for number in range(3) for name in ("avatar", "small")]
    with database.reading() as tx:
        assert list(queries.outputs(tx, "globex", uuid.uuid4())) == []
        # And no page loses one
        job_id = next(iter(queries.jobs(tx, TENANT)))["job_id"]
        monkeypatch.setattr(queries, "PAGE", 1)
        assert [row["storage_key"] for row in queries.outputs(tx, TENANT, job_id)] == found


def test_draws_count_in_the_pace(world: Settings, database: Database) -> None:
    """Six seconds for three seeds are two seconds a picture."""
    render = held(database)[0]
    with database.transaction() as tx:
        assert render_rows.complete(tx, render, "w", dataclasses.replace(DRAWN, draws=3))
        assert [(row["pictures"], row["seconds"]) for row in pace(tx, TENANT, "fake")] == [(3, 6.0)]


def test_one_weight_set_of_several_sources(world: Settings, database: Database) -> None:
    # Given a weight set that is begun with two sources, again with one of them, and in the short form
    ada, alan = photo_sets(database)
    with database.transaction() as tx:
        for sources in ([(ada, 0.75), (alan, 0.25)], [(alan, 0.25)]):
            terms = {"kind": "mix", "branch": "base", "hyperlora_fingerprint": "h"}
            weight_sets.begin(tx, TENANT, "m" * 64, sources=sources, **terms)  # type: ignore[arg-type]
        weight_sets.begin(tx, TENANT, "p" * 64, hyperlora_fingerprint="h", sources=[(ada, 1.0)])

        # Then each source stands once, with its weight
        rows = tx.execute(
            select(WeightSet.kind, WeightSet.branch, WeightSetSource.photo_set_id, WeightSetSource.weight)
            .join(WeightSetSource, WeightSetSource.weight_set_id == WeightSet.id)
            .order_by(WeightSet.id, WeightSetSource.position)
        ).all()
        assert weight_sets.source(tx, TENANT, ada).photos[0].face is None
    assert [tuple(row) for row in rows] == [
        ("mix", "base", ada, 0.75),
        ("mix", "base", alan, 0.25),
        ("photos", "id", ada, 1.0),
    ]


def test_a_refined_weight_set(world: Settings, database: Database) -> None:
    # Given a stored set of the Base branch
    ada, _ = photo_sets(database)
    refined = {
        "fingerprint": "r" * 64,
        "hyperlora_fingerprint": "h",
        "storage_key": "acme/weights/r.safetensors",
        "sha256": "0" * 64,
        "size_bytes": 5,
        "recogniser": "fake",
        "reference_embedding": b"12345678",
        "seconds": 1.5,
    }
    with database.transaction() as tx:
        weight_sets.begin(tx, TENANT, "p" * 64, branch="base", hyperlora_fingerprint="h", sources=[(ada, 1.0)])

    # When a refined one is added, twice, and one that came from nowhere
    with database.transaction() as tx:
        added = [
            weight_sets.add_refined(tx, TENANT, source_weight_set_fingerprint="p" * 64, **refined)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        with pytest.raises(UnknownWeightSet, match="has no weight set nnn"):
            weight_sets.add_refined(tx, TENANT, source_weight_set_fingerprint="nnn", **refined)  # type: ignore[arg-type]
        with pytest.raises(UnknownWeightSet, match="globex"):
            weight_sets.add_refined(tx, "globex", source_weight_set_fingerprint="p" * 64, **refined)  # type: ignore[arg-type]

    # Then it is ready to be loaded, of its source's branch, and erasing the person reaches it
    assert added == [True, False]
    with database.reading() as tx:
        row = weight_sets.find(tx, TENANT, "r" * 64)
        came_from = tx.execute(
            select(WeightSetSource.source_weight_set_id).where(WeightSetSource.source_weight_set_id.is_not(None))
        ).scalar_one()
        assert came_from == getattr(weight_sets.find(tx, TENANT, "p" * 64), "id", None)
    assert row is not None
    assert (row.state, row.kind, row.branch, row.storage_key) == ("ready", "refined", "base", refined["storage_key"])
    assert (row.reference_embedding, row.seconds, row.recogniser) == (b"12345678", 1.5, "fake")


def test_the_seeds_of_further_tries() -> None:
    # Given the seeds of sixteen tries of two renders
    tries = [[candidate_seed(seed, attempt) for attempt in range(16)] for seed in (7, 2**63 - 1)]

    # Then the first is the render's own, the others are of 32 bits, all differ, and are the same for ever
    assert [row[0] for row in tries] == [7, 2**63 - 1]
    assert all(0 <= seed < 2**32 for row in tries for seed in row[1:])
    assert len({seed for row in tries for seed in row}) == 32
    assert tries[0][1:4] == [480728185, 2555107733, 3787378735]


def test_a_source_that_is_not_there_is_told(world: Settings, database: Database) -> None:
    # Given a photo set of one tenant
    known = photo_sets(database)[0]

    # When it is asked for by another tenant, and when nobody has it
    with database.reading() as tx:
        assert weight_sets.source(tx, TENANT, known).photos
        for tenant, wanted in (("globex", known), (TENANT, uuid.uuid4())):
            with pytest.raises(SourceMissing, match=f"'{tenant}' has no photo set {wanted}") as caught:
                weight_sets.source(tx, tenant, wanted)

            # Then the error has a name, and trying again would not help
            assert (caught.value.code, caught.value.retryable) == ("source_missing", False)


FINGERPRINT = "f" * 64


def claimed(database: Database, owner: str, **terms: bool) -> WeightSetRow | None:
    with database.transaction() as tx:
        return weight_sets.claim(tx, TENANT, FINGERPRINT, owner, lease_seconds=30.0, **terms)  # type: ignore[arg-type]


def expire(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(update(WeightSet).values(lease_until=epoch_now() - 1.0))


@pytest.fixture
def begun(world: Settings, database: Database) -> uuid.UUID:
    """The job of a person whose weight set nobody makes yet."""
    ada, _ = photo_sets(database)
    with database.transaction() as tx:
        weight_sets.begin(tx, TENANT, FINGERPRINT, hyperlora_fingerprint="h", sources=[(ada, 1.0)])
        return tx.execute(select(Render.job_id).limit(1)).scalar_one()


def test_a_set_is_in_one_workers_hands_while_its_lease_runs(begun: uuid.UUID, database: Database) -> None:
    # Given a set that a worker makes
    first = claimed(database, "first")
    assert first is not None

    # Then a second one gets nothing, until the first has gone silent
    assert claimed(database, "second") is None
    expire(database)
    second = claimed(database, "second")
    assert second is not None and second.lease_token == first.lease_token + 1
    assert claimed(database, "third") is None

    # And what the first has to say after that changes nothing
    with database.transaction() as tx:
        assert not weight_sets.fail(tx, first, "first", error_code="no_face", error="no face")
        assert not weight_sets.give_back(tx, first, "first")
        assert weight_sets.states(tx, TENANT, [FINGERPRINT]) == {FINGERPRINT: "generating"}


def test_a_set_that_lost_a_worker_is_made_alone_and_a_told_fault_is_no_loss(
    begun: uuid.UUID, database: Database
) -> None:
    # Given a set that was claimed beside others, and handed back with a fault that was told, several times
    for _ in range(4):
        row = claimed(database, "first", beside_others=True)
        assert row is not None
        with database.transaction() as tx:
            assert weight_sets.give_back(tx, row, "first")

    # When its next worker is lost
    assert claimed(database, "first", beside_others=True) is not None
    expire(database)

    # Then it is claimed beside nobody, even when it was handed back once more
    assert claimed(database, "second", beside_others=True) is None
    row = claimed(database, "second")
    assert row is not None
    with database.transaction() as tx:
        assert weight_sets.give_back(tx, row, "second")
    assert claimed(database, "third", beside_others=True) is None
    assert claimed(database, "third") is not None


def test_a_worker_that_finds_its_own_claim_again_has_not_been_lost(begun: uuid.UUID, database: Database) -> None:
    # Given a worker that lost hold of its claim, many times, as the database was away
    for _ in range(5):
        assert claimed(database, "first") is not None
        expire(database)

    # Then nobody has been lost but, now, this one
    assert claimed(database, "second") is not None
    with database.reading() as tx:
        assert tx.execute(select(WeightSet.attempts)).scalar_one() == 2


def test_a_set_found_silent_for_the_third_time_is_quarantined_until_somebody_asks_for_it(
    begun: uuid.UUID, database: Database
) -> None:
    # Given a set that ended three workers
    for owner in ("first", "second", "third"):
        assert claimed(database, owner) is not None
        expire(database)

    # Then the fourth does not try, and the row has the reason in words
    assert claimed(database, "fourth") is None
    with database.transaction() as tx:
        row = weight_sets.find(tx, TENANT, FINGERPRINT)
        assert row is not None and (row.state, row.error_code) == ("failed", "quarantined")
        assert "3 workers were lost" in str(row.error) and "portraits retry JOB --quarantined" in str(row.error)

        # When its job's ordinary failures are tried again, and then its quarantined ones
        for reason, asked, state in (
            ("no_face", again.Which(), "failed"),
            ("quarantined", again.Which(failed=False, quarantined=True), "pending"),
        ):
            tx.execute(update(Render).values(state="failed", error_code=reason))
            tx.execute(update(Unit).values(state="failed"))
            assert again.retry(tx, TENANT, begun, asked)[0] == 4

            # Then only the latter reopens it
            assert weight_sets.states(tx, TENANT, [FINGERPRINT]) == {FINGERPRINT: state}
    for owner in ("fifth", "sixth", "seventh"):
        assert claimed(database, owner) is not None
        expire(database)
    assert claimed(database, "eighth") is None
