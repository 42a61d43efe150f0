"""A gallery in a real S3 bucket: only whoever has a signed address sees it, in a real browser, and not for ever."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from queue_world import TENANT, World, add_job, person, settings
from s3_server import S3Server

from jobs.database import Database
from jobs.gallery import StoredGallery, build_due, keys, sign_stored, sign_to_folder
from jobs.repository import galleries
from worker.testing import FakeRenderer


@pytest.fixture
def world(
    database: Database,
    database_url: str,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> World:
    """A queue whose store is a bucket."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())
    url = f"s3://{s3_server.bucket}/{prefix}"
    chosen = settings(tmp_path, database_url, storage_url=url, serve_url="https://portraits.example.com")
    return World(database, chosen, FakeRenderer(alike=lambda image: 0.5))


@pytest.fixture
def stored(world: World) -> StoredGallery:
    """The gallery of a job of two people, three pictures each, built into the bucket."""
    job = add_job(world.database, [person(name, [3], world.settings) for name in ("ada", "alan")])
    world.shift()
    with world.database.transaction() as tx:
        galleries.make_due(tx, TENANT, job)
    assert build_due(world.database, world.storage, world.settings, owner="clerk") == 1
    with world.database.reading() as tx:
        row = galleries.find(tx, TENANT, job)
    assert row is not None
    return StoredGallery(TENANT, job, row["built_token"], "job")


def status(address: str) -> int:
    """What the server answers to whoever asks for it."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def shown(page: Page) -> int:
    """How many thumbnails the page has got."""
    found = page.locator(".tile .picture").evaluate_all(
        "all => all.filter(one => getComputedStyle(one).backgroundImage.startsWith('url(\"data:image/webp')).length"
    )
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_signed_gallery_opens_from_the_bucket(
    world: World, stored: StoredGallery, page: Page, screenshots: Path
) -> None:
    # Given a gallery signed for an hour
    signed = sign_stored(world.storage, world.settings, stored, expires_seconds=3600)

    # When somebody without keys opens its address
    page.goto(signed.address)
    expect(page.locator(".tile").first).to_be_visible()

    # Then the thumbnails come from the bucket, and the page says until when they do
    page.wait_for_function(
        "[...document.querySelectorAll('.tile .picture')].every("
        "one => getComputedStyle(one).backgroundImage.startsWith('url(\"data:'))"
    )
    assert shown(page) == 6
    assert signed.expires_at is not None
    assert f"expire on {signed.expires_at:%Y-%m-%d %H:%M} UTC" in page.inner_text("#note")
    page.screenshot(path=screenshots / "gallery-s3.png")
    # And its signatures are few, and lead to thumbnails alone: full pictures are asked of `portraits serve`
    content = page.content()
    assert content.count("X-Amz-Signature") <= 20
    page.locator(".tile").first.click()
    link = page.get_by_role("link", name="Full picture").get_attribute("href")
    assert str(link).startswith("https://portraits.example.com/pictures/")
    # And without a signature the bucket gives nothing
    assert status(signed.address.partition("?")[0]) == 403


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_address_ends_with_its_time(world: World, stored: StoredGallery, new_page: Callable[..., Page]) -> None:
    # Given a page in a folder whose addresses live for a second, and that second is over
    folder = world.settings.home / "to-send"
    signed = sign_to_folder(world.storage, world.settings, stored, folder, expires_seconds=1)
    sheet = world.storage.url(f"{keys.prefix(TENANT, stored.job_id, stored.token)}thumbnails-0001.css", 1)
    page = new_page()
    page.goto("about:blank")
    page.wait_for_function("until => Date.now() > until", arg=signed.expires_at.timestamp() * 1000 + 1500)  # type: ignore[union-attr]
    assert status(sheet) == 403

    # When it is opened
    with page.expect_event("requestfailed") as refused:
        page.goto((folder / "index.html").as_uri())
    expect(page.locator(".tile").first).to_be_visible()

    # Then no thumbnail comes, and it says why
    expect(page.get_by_role("alert")).to_contain_text("The links of this page expired on")
    assert shown(page) == 0
    assert "thumbnails-0001.css" in refused.value.url
