"""Enqueueing what goes beyond photos and prompts: people made of people, sliders, given pictures, options."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import func, select, update

from jobs import enqueue, rerun, results, retry
from jobs.database import Database
from jobs.errors import ManifestInvalid
from jobs.models import (
    Identity,
    Job,
    JobPicture,
    Photo,
    PhotoSet,
    PhotoSetMember,
    PhotoSetPhoto,
    Render,
    Unit,
    WeightSet,
)
from jobs.options import RenderOptions
from jobs.repository import people, weight_sets
from jobs.repository import renders as render_rows
from jobs.repository import units as unit_rows
from jobs.repository.summaries import reference_photos
from jobs.settings import Settings
from jobs.storage import open_storage

FINGERPRINT = "f" * 64


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with three photos and a pose."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"ada": "red", "alan": "blue", "grace": "green", "pose": "black"}.items():
        Image.new("RGB", (96, 64), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def settings(database: Database, database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database_url)  # type: ignore[arg-type]


def manifest(**changes: Any) -> dict[str, Any]:
    """A person, a mix and two people together, of which two sources are not drawn; a slider; a pose."""
    pose = {"net": "pose", "image": "pose.png"}
    return {
        "key": "spring",
        "profile": "fake",
        "prompts": [
            {"name": "plain", "text": "a portrait"},
            {"name": "posed", "text": "a portrait", "control": [pose], "sliders": {"smile": 1.5}},
        ],
        "sliders": {"smile": {"edited": "ada", "original": "grace"}, "age": {"edited": "ada", "original": "alan"}},
        "identities": [
            {"id": "new", "identity": {"mix": {"ada": 3, "alan": 1}}},
            {"id": "both", "identity": {"together": {"ada": "left", "grace": {"region": {"mask": "pose.png"}}}}},
            {"id": "ada", "photos": [{"file": "ada.png", "face": "largest"}, "grace.png"]},
            {"id": "alan", "photos": ["alan.png"], "draw": False},
            {"id": "grace", "photos": ["grace.png"], "draw": False},
        ],
        **changes,
    }


def sets(database: Database) -> dict[tuple[str, str], uuid.UUID]:
    """(external id, kind) to photo set; of several sliders of a person the last."""
    with database.reading() as tx:
        joined = select(Identity.external_id, PhotoSet.kind, PhotoSet.id).join(
            PhotoSet, (PhotoSet.tenant_id == Identity.tenant_id) & (PhotoSet.identity_id == Identity.id)
        )
        return {(row.external_id, row.kind): row.id for row in tx.execute(joined.order_by(PhotoSet.id))}


def claimed(database: Database) -> list[render_rows.WaitingRender]:
    """Every waiting render, in hand."""
    with database.transaction() as tx:
        units = unit_rows.claim_next(tx, "fake", "w", limit=10, lease_seconds=30, max_attempts=3)
        return render_rows.waiting(tx, units)


def test_people_made_of_people(settings: Settings, database: Database, base: Path) -> None:
    # When a mix and two people together stand before the people they are made of
    job = enqueue(manifest(), settings=settings, base=base)

    # Then only who is drawn has units, in the manifest's order
    assert (job.identities, job.units, job.renders) == (3, 3, 6)
    names = [row["external_id"] for row in results("spring", settings=settings)]
    assert names == ["new", "new", "both", "both", "ada", "ada"]
    # And each is known by what it is made of
    known = sets(database)
    ada, alan, grace = (known[name, "photos"] for name in ("ada", "alan", "grace"))
    with database.reading() as tx:
        mix = weight_sets.source(tx, "default", known["new", "mix"])
        both = weight_sets.source(tx, "default", known["both", "together"])
        one = weight_sets.source(tx, "default", ada)
    assert [(member.photo_set_id, member.weight, member.region) for member in mix.members] == [
        (ada, 0.75, None),
        (alan, 0.25, None),
    ]
    pose = hashlib.sha256((base / "pose.png").read_bytes()).hexdigest()
    key = f"default/photos/{pose[:2]}/{pose}.png"
    assert [(member.photo_set_id, member.region) for member in both.members] == [
        (ada, [0.0, 0.0, 0.5, 1.0]),
        (grace, {"mask": {"sha256": pose, "key": key, "media_type": "image/png"}}),
    ]
    assert [photo.face for photo in one.photos] == ["largest", None]
    assert (mix.kind, both.kind, one.kind, mix.photos, one.members) == ("mix", "together", "photos", (), ())
    assert (mix.photo_set_id, mix.weight_set_fingerprint) == (known["new", "mix"], None)


def test_options_pictures_and_sliders(settings: Settings, database: Database, base: Path) -> None:
    # When a job with a pose and sliders is enqueued
    job = enqueue(manifest(), settings=settings, base=base)

    # Then the pose lies in storage, is a photo's row, and is the job's
    pose = hashlib.sha256((base / "pose.png").read_bytes()).hexdigest()
    key = f"default/photos/{pose[:2]}/{pose}.png"
    assert open_storage(settings.storage_url, settings).get(key) == (base / "pose.png").read_bytes()
    with database.reading() as tx:
        own = select(Photo.sha256).join(JobPicture, JobPicture.photo_id == Photo.id)
        assert tx.execute(own.where(JobPicture.job_id == job.job_id)).scalars().all() == [pose]
        sliders = tx.execute(
            select(PhotoSet.id, PhotoSetMember.member_photo_set_id, PhotoSetMember.weight)
            .join(PhotoSetMember, PhotoSetMember.photo_set_id == PhotoSet.id)
            .where(PhotoSet.kind == "slider")
            .order_by(PhotoSet.id, PhotoSetMember.position)
        ).all()
    # And each slider is a set of two members, edited and original
    known = sets(database)
    ada, alan, grace = (known[name, "photos"] for name in ("ada", "alan", "grace"))
    pairs: dict[uuid.UUID, list[tuple[uuid.UUID, float]]] = {row.id: [] for row in sliders}
    for row in sliders:
        pairs[row.id].append((row.member_photo_set_id, row.weight))
    assert sorted(map(tuple, pairs.values()), key=str) == sorted(
        [((ada, 1.0), (grace, -1.0)), ((ada, 1.0), (alan, -1.0))], key=str
    )
    # And a worker finds all of it on its renders
    waiting = claimed(database)
    assert [render.options == RenderOptions() for render in waiting] == [True, False] * 3
    asked = waiting[1].options
    assert asked.control[0].image is not None
    assert (asked.control[0].net, asked.control[0].image.key) == ("pose", key)
    smile = next(set_id for set_id, members in pairs.items() if members[1][0] == grace)
    assert [(slider.name, slider.photo_set, slider.weight) for slider in asked.sliders] == [("smile", smile, 1.5)]
    with database.reading() as tx:
        assert tx.execute(select(func.count()).where(Render.options.is_(None))).scalar_one() == 3


def test_the_same_again_adds_nothing(settings: Settings, database: Database, base: Path) -> None:
    tables = (Job, Identity, Photo, PhotoSet, PhotoSetPhoto, PhotoSetMember, JobPicture, Unit, Render)

    def counts() -> list[int]:
        with database.reading() as tx:
            return [tx.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

    # Given an enqueued job of every kind
    enqueue(manifest(), settings=settings, base=base)
    before = counts()
    assert before == [1, 5, 4, 7, 4, 8, 1, 3, 6]

    # When it is enqueued again, and under another key
    assert not enqueue(manifest(), settings=settings, base=base).created
    assert counts() == before
    assert enqueue(manifest(key="summer"), settings=settings, base=base).created

    # Then the second job shares people, sets and pictures
    assert counts() == [2, 5, 4, 7, 4, 8, 2, 6, 12]


def test_the_same_mix_of_others_is_another_set(settings: Settings, database: Database, base: Path) -> None:
    # Given two people of the same photo, each of them mixed with a third under one name
    both = [{"id": name, "photos": ["ada.png"], "draw": False} for name in ("a1", "a2")]
    third = {"id": "b", "photos": ["alan.png"], "draw": False}
    for name in ("a1", "a2"):
        mix = {"id": "new", "identity": {"mix": {name: 1, "b": 1}}}
        data = {"key": name, "profile": "fake", "prompts": [{"text": "x"}], "identities": [*both, third, mix]}
        enqueue(data, settings=settings, base=base)

    # Then erasing either of the two can tell what was made of whom
    with database.reading() as tx:
        found = tx.execute(select(PhotoSet.id).where(PhotoSet.kind == "mix")).scalars().all()
    assert len(found) == 2


def test_a_weight_set_that_is_not_there(settings: Settings, database: Database, base: Path) -> None:
    # Given a manifest that names a stored weight set
    stored = {"id": "stored", "identity": {"weight_set": FINGERPRINT}}
    data = {"key": "k", "profile": "fake", "prompts": [{"text": "x"}], "identities": [stored]}

    # When the tenant has none of that name, and then one that is not finished
    with pytest.raises(ManifestInvalid, match=r"identities\[0\].identity.weight_set: .*it is not there"):
        enqueue(data, settings=settings, base=base)
    with database.reading() as tx:
        assert tx.execute(select(func.count()).select_from(Identity)).scalar_one() == 0
    with database.transaction() as tx:
        people.register(tx, "default", [])
        weight_sets.begin(tx, "default", FINGERPRINT, hyperlora_fingerprint="h")
    with pytest.raises(ManifestInvalid, match="it is pending"):
        enqueue(data, settings=settings, base=base)

    # Then only a ready one of this tenant can be drawn with
    with database.transaction() as tx:
        tx.execute(update(WeightSet).values(state="ready"))
    with pytest.raises(ManifestInvalid, match="it is not there"):
        enqueue(data, settings=settings, base=base, overrides={"tenant": "globex"})
    assert enqueue(data, settings=settings, base=base).created
    with database.reading() as tx:
        source = weight_sets.source(tx, "default", sets(database)["stored", "weights"])
    assert (source.kind, source.weight_set_fingerprint, source.photos) == ("weights", FINGERPRINT, ())


@pytest.mark.parametrize(
    ("kind", "branch", "message"),
    [
        ("photos", "id", None),
        ("mix", "id", None),
        ("refined", "id", None),
        ("slider", "id", "it is of kind slider, which changes a face and is none; wanted photos, mix, refined"),
        ("photos", "base", "it is of the branch base, which holds no identity; wanted the branch id"),
    ],
)
def test_a_weight_set_that_is_no_person(
    settings: Settings, database: Database, base: Path, kind: str, branch: str, message: str | None
) -> None:
    # Given a stored weight set of some kind and branch, ready
    with database.transaction() as tx:
        people.register(tx, "default", [])
        weight_sets.begin(tx, "default", FINGERPRINT, hyperlora_fingerprint="h", kind=kind, branch=branch)
        tx.execute(update(WeightSet).values(state="ready"))
    stored = {"id": "stored", "identity": {"weight_set": FINGERPRINT}}
    data = {"key": "k", "profile": "fake", "prompts": [{"text": "x"}], "identities": [stored]}

    # When somebody is to be drawn with it, then it must hold a person
    if message is None:
        assert enqueue(data, settings=settings, base=base).created
        return
    with pytest.raises(ManifestInvalid, match=rf"identities\[0\].identity.weight_set: .*{message}"):
        enqueue(data, settings=settings, base=base)
    with database.reading() as tx:
        assert tx.execute(select(func.count()).select_from(Identity)).scalar_one() == 0


def test_options_go_along_with_a_rerun_and_a_retry(settings: Settings, database: Database, base: Path) -> None:
    # Given a job whose renders all failed
    enqueue(manifest(), settings=settings, base=base)
    with database.transaction() as tx:
        for unit in unit_rows.claim_next(tx, "fake", "w", limit=10, lease_seconds=30, max_attempts=3):
            unit_rows.fail(tx, unit, "w", error_code="x", error="x")
    asked = {row["render_id"]: row["options"] for row in results("spring", settings=settings)}

    # When they are tried again, and one is asked for once more
    retry("spring", settings=settings)
    posed = next(render_id for render_id, options in asked.items() if options)
    new_id, _, _ = rerun(posed, settings=settings)

    # Then every render has the options it had, and the new one those of its model
    now = {row["render_id"]: row["options"] for row in results("spring", settings=settings)}
    assert now == {**asked, new_id: asked[posed]}
    assert now[new_id]["sliders"][0]["name"] == "smile"


def test_a_retry_reaches_the_weight_sets_of_members_and_sliders(
    settings: Settings, database: Database, base: Path
) -> None:
    # Given a job of which the weight sets of a mix, of a person together with another, and of a slider have failed
    enqueue(manifest(), settings=settings, base=base)
    known = sets(database)
    with database.transaction() as tx:
        grace, alan = known["grace", "photos"], known["alan", "photos"]
        for name, source in {"slider": [(grace, -1.0)], "mix": [(alan, 0.25)], "other": []}.items():
            weight_sets.begin(tx, "default", name, kind="mix", hyperlora_fingerprint="h", sources=source)
        tx.execute(update(WeightSet).values(state="failed"))
        for unit in unit_rows.claim_next(tx, "fake", "w", limit=10, lease_seconds=30, max_attempts=3):
            unit_rows.fail(tx, unit, "w", error_code="x", error="x")

    # When the job is tried again
    retry("spring", settings=settings)

    # Then they are made anew, and nobody else's
    with database.reading() as tx:
        assert weight_sets.states(tx, "default", ["slider", "mix", "other"]) == {
            "slider": "pending",
            "mix": "pending",
            "other": "failed",
        }


def test_a_retry_reaches_a_slider_that_is_made_of_nobody_drawn(
    settings: Settings, database: Database, base: Path
) -> None:
    # Given a slider between two people that are not drawn themselves
    asked = manifest(
        sliders={"smile": {"edited": "alan", "original": "grace"}},
        identities=[
            {"id": "ada", "photos": ["ada.png"]},
            {"id": "alan", "photos": ["alan.png"], "draw": False},
            {"id": "grace", "photos": ["grace.png"], "draw": False},
        ],
    )
    enqueue(asked, settings=settings, base=base)
    with database.transaction() as tx:
        source = [(sets(database)["grace", "photos"], -1.0)]
        weight_sets.begin(tx, "default", "s", kind="slider", hyperlora_fingerprint="h", sources=source)
        tx.execute(update(WeightSet).values(state="failed"))
        for unit in unit_rows.claim_next(tx, "fake", "w", limit=10, lease_seconds=30, max_attempts=3):
            unit_rows.fail(tx, unit, "w", error_code="x", error="x")

    # When the job is tried again, then the slider is made anew
    retry("spring", settings=settings)
    with database.reading() as tx:
        assert weight_sets.states(tx, "default", ["s"]) == {"s": "pending"}


def test_reference_photos_of_who_is_made_of_others(settings: Settings, database: Database, base: Path) -> None:
    job = enqueue(manifest(), settings=settings, base=base)
    with database.reading() as tx:
        rows = reference_photos(tx, "default", job.job_id, ["new", "ada"])
    sha = {name: hashlib.sha256((base / f"{name}.png").read_bytes()).hexdigest() for name in ("ada", "alan", "grace")}
    assert [(row["external_id"], row["position"], row["storage_key"].split("/")[-1][:64]) for row in rows] == [
        ("ada", 0, sha["ada"]),
        ("ada", 1, sha["grace"]),
        ("new", 0, sha["ada"]),
        ("new", 1, sha["grace"]),
        ("new", 2, sha["alan"]),
    ]


def test_a_profile_without_the_parts_is_a_warning(settings: Settings, base: Path, tmp_path: Path) -> None:
    # Given a profile that has one ControlNet, and a manifest that asks for another and an upscaler
    path = tmp_path / "profiles.toml"
    path.write_text('[profiles.fake]\nrenderer = "fake"\ncontrolnets = { depth = "x" }\n')
    known = settings.model_copy(update={"profiles_file": path})
    job = enqueue(manifest(defaults={"outputs": [{"upscale": "x4"}]}), settings=known, base=base)

    # Then both are told, and the job is there: the workers' profile may have them
    assert job.created
    assert [warning.split(";")[0] for warning in job.warnings] == [
        "the profile 'fake' has no ControlNet 'pose' here (only depth)",
        "the profile 'fake' has no upscaler 'x4' here (only none)",
    ]
