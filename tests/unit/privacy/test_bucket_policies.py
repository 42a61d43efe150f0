"""The bucket policies that the docs show are enough for what each process does, and refuse what it must not do."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto import settings as moto_settings
from moto.core.responses import ActionAuthenticatorMixin
from queue_world import TENANT, World, settings
from stacks import PHOTOS, people_manifest

from jobs import enqueue, privacy, reports, uploads
from jobs.database import Database
from jobs.errors import StorageDenied
from jobs.privacy import clearing
from jobs.privacy.verifying import Sought
from jobs.repository import tenants
from jobs.settings import Settings
from jobs.storage import Announced, Storage, open_storage
from worker.testing import FakeRenderer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "access.md"
BUCKET, PREFIX = "pictures", "studio"


def policies() -> dict[str, str]:
    """The policies of the page, by the name that stands before each."""
    found = re.findall(
        r"^`(\w+)`[^\n]*(?:\n[^\n`]+)*:\n\n```json\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return {name: _for_moto(text.replace("BUCKET", BUCKET).replace("PREFIX", PREFIX)) for name, text in found}


def _for_moto(policy: str) -> str:
    """AWS lets HEAD of a bucket or an object pass for who may list or get it; moto has names of its own for these."""
    told = json.loads(policy)
    for statement in told["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        more = {"s3:ListBucket": "s3:HeadBucket", "s3:GetObject": "s3:HeadObject"}
        statement["Action"] = actions + [more[action] for action in actions if action in more]
    return json.dumps(told)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A bucket, a user with each of the policies, and a way to become one; rights are looked at from then on."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "owner")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        iam, keys = boto3.client("iam", region_name="us-east-1"), dict[str, Any]()
        for name, policy in policies().items():
            json.loads(policy)
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
            keys[name] = iam.create_access_key(UserName=name)["AccessKey"]

        def chosen(name: str) -> None:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[name]["AccessKeyId"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[name]["SecretAccessKey"])
            monkeypatch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)

        monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 0)
        yield chosen


@pytest.fixture
def chosen(tmp_path: Path, migrated_file: Path) -> Settings:
    file = tmp_path / "portraits.db"
    file.write_bytes(migrated_file.read_bytes())
    return settings(tmp_path, f"sqlite:///{file}", tenant=TENANT, storage_url=f"s3://{BUCKET}/{PREFIX}")


def refused(*acts: Callable[[], object]) -> None:
    for act in acts:
        with pytest.raises(StorageDenied):
            act()


def opened(chosen: Settings) -> Storage:
    """A store with the keys of this moment."""
    return open_storage(chosen.storage_url, chosen)


def test_each_process_can_do_its_work_under_its_policy_and_nothing_that_is_not_its_work(
    chosen: Settings, become: Callable[[str], None]
) -> None:
    # Given the three policies of the page
    assert set(policies()) == {"producer", "worker", "privacy"}
    database = Database.from_settings(chosen)

    # When a producer sends a photo ahead, enqueues, and looks whether the store is well
    become("producer")
    with database.transaction() as tx:
        tenants.change(tx, TENANT)
    data = (PHOTOS / "ada-1.jpg").read_bytes()
    what = Announced(hashlib.sha256(data).hexdigest(), len(data), "image/jpeg")
    uploads.announce(database, opened(chosen), chosen, TENANT, what)
    uploads.accept(database, opened(chosen), TENANT, what, data)
    job = enqueue({**people_manifest(), "tenant": TENANT}, settings=chosen, base=PHOTOS).job_id
    opened(chosen).check()
    photo = next(iter(opened(chosen).list(f"{TENANT}/photos/")))

    # Then it may not remove a photo, nor write outside of its prefix
    outside = open_storage(f"s3://{BUCKET}/elsewhere", chosen)
    refused(lambda: opened(chosen).delete(photo), lambda: outside.put("x", b"x", content_type="image/png"))

    # When a worker draws, then it may, and it may not ask for earlier versions
    become("worker")
    world = World(database, chosen, FakeRenderer())
    for _ in range(4):
        world.shift()
    assert world.job(job)["done"] == 12
    assert clearing.clear(database, world.storage) == 0
    refused(lambda: list(open_storage(f"s3://{BUCKET}/elsewhere", chosen).get("x")))

    # When a producer fetches what was drawn, then it can
    become("producer")
    rows = list(reports.results(job, tenant=TENANT, settings=chosen))
    assert all(opened(chosen).get(row["storage_key"]) for row in rows) and len(rows) == 12

    # When somebody is forgotten and that is verified, then that works, and nothing can be written
    become("privacy")
    told = privacy.forget("ada", tenant=TENANT, settings=chosen)
    assert told.removed > 0
    sought = Sought.of(TENANT, names=["ada"], receipt=told.receipt)
    assert list(privacy.remains(sought, settings=chosen)) == []
    refused(lambda: opened(chosen).put(f"{TENANT}/{uuid.uuid4()}", b"x", content_type="image/png"))
    database.dispose()


def test_who_may_not_ask_for_versions_is_told_so_and_what_is_to_go_stays_noted(
    chosen: Settings, become: Callable[[str], None]
) -> None:
    # Given somebody who has been drawn
    database = Database.from_settings(chosen)
    become("producer")
    enqueue({**people_manifest(), "tenant": TENANT}, settings=chosen, base=PHOTOS)

    # When a login that may not ask whether the bucket keeps versions forgets her, then it is told which right it lacks
    with pytest.raises(StorageDenied, match="s3:GetBucketVersioning"):
        privacy.forget("ada", tenant=TENANT, settings=chosen)

    # And what is to go stays noted, until one comes that may
    become("privacy")
    sought = Sought.of(TENANT, names=["ada"])
    assert any("noted to be removed" in one.where for one in privacy.remains(sought, settings=chosen))
    assert clearing.clear(database, opened(chosen)) == 2
    assert list(privacy.remains(sought, settings=chosen)) == []
    database.dispose()
