"""`portraits gallery`: where a job's pages can be opened, and for how long; the gallery of fetched pictures."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cli_world import CliWorld
from moto import mock_aws

from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.storage_s3 import S3Storage


def block(page: str | bytes, name: str) -> Any:
    """The JSON of a block of the page."""
    text = page if isinstance(page, str) else page.decode()
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def bucket(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto's as the store of this user."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show-this-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PORTRAITS_STORAGE_URL", "s3://bucket/pre")
    with mock_aws():
        S3Storage("bucket", "", Settings()).server.client.create_bucket(Bucket="bucket")
        yield "bucket"


def read(cli: CliWorld, address: str) -> bytes:
    """What lies under a signed address, read with the keys of the store's owner."""
    path = unquote(urlsplit(address).path)
    settings = cli.settings
    return open_storage(settings.storage_url, settings).get(path[path.index("pre/") + len("pre/") :])


def test_the_gallery_of_a_folder_store_opens_as_a_file(cli: CliWorld) -> None:
    # Given a finished job
    job = cli.enqueue()
    cli.draw()

    # When its gallery is asked for
    told = cli.json("gallery", job["key"])

    # Then it was made, and is a file that never expires, whose pictures lie where it says
    assert (told["pictures"], told["expires_at"]) == (6, None)
    page = Path(unquote(urlsplit(told["address"]).path))
    links, data = block(page.read_bytes(), "links"), block(page.read_bytes(), "data")
    for one in data["pictures"]:
        assert (page.parent / links["pictures"] / one["file"]).resolve().read_bytes().startswith(b"\x89PNG")
    # And asking again makes no other one, unless it is told to
    assert cli.json("gallery")["built_at"] == told["built_at"]
    assert cli.json("gallery", "--build")["address"] != told["address"]
    assert not page.exists()
    assert re.search(r"expires +never", cli.run("gallery").stdout)
    assert "--expires changed nothing" in cli.run("gallery", "--expires", "24h").stderr


def test_a_gallery_says_when_it_expires_and_signs_few_addresses(cli: CliWorld, bucket: str) -> None:
    # Given a finished job in a bucket
    job = cli.enqueue()
    cli.draw()

    # When its gallery is signed for a day
    before = dt.datetime.now(dt.UTC)
    told = cli.json("gallery", job["job_id"], "--expires", "24h")

    # Then the page's address lives so long, and the page says in words until when
    until = dt.datetime.fromisoformat(told["expires_at"])
    assert dt.timedelta(hours=24) <= until - before < dt.timedelta(hours=24, minutes=1)
    assert parse_qs(urlsplit(told["address"]).query)["X-Amz-Expires"] == ["86400"]
    page = read(cli, told["address"])
    links = block(page, "links")
    assert links["expires_at"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert links["renew"] == f"portraits gallery {job['job_id']}"
    assert "do-not-show-this-secret" not in page.decode()
    # And it signs its one sheet; a full picture is left to `portraits serve`
    assert page.count(b"X-Amz-Signature") == len(links["sheets"]) == 1
    assert read(cli, links["sheets"][0]).startswith(b".t0{")
    assert (links["pictures"], links["serve"]) == (None, None)
    # And people are told on the terminal
    shown = cli.run("gallery", "--expires", "90m")
    assert re.search(r"expires +on \d{4}-\d\d-\d\d at \d\d:\d\d UTC, in \d+ (h|min)", shown.stdout)
    assert "portraits serve" in shown.stderr


def test_a_signed_gallery_can_be_written_to_a_folder(
    cli: CliWorld, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a finished job, and somewhere that pictures are served
    monkeypatch.setenv("PORTRAITS_SERVE_URL", "https://portraits.example.com")
    cli.enqueue()
    cli.draw()

    # When its gallery is written to a folder
    told = cli.json("gallery", "--expires", "30m", "--out", "to-send")

    # Then the folder has the page alone, with signed thumbnails and a way to the full pictures
    assert told["address"] == str(Path("to-send/index.html"))
    assert [file.name for file in Path("to-send").iterdir()] == ["index.html"]
    links = block(Path("to-send/index.html").read_bytes(), "links")
    assert "X-Amz-Expires=1800" in links["sheets"][0]
    assert links["serve"] == "https://portraits.example.com"


@pytest.mark.parametrize("life", ["25h", "0s", "-1h", "soon"])
def test_addresses_live_a_day_at_most(cli: CliWorld, life: str) -> None:
    cli.enqueue()
    assert cli.json("gallery", f"--expires={life}", exit_code=2)["error"]["code"] == "usage"


def test_the_gallery_of_a_job_that_goes_on_says_so(cli: CliWorld) -> None:
    # Given a job of which nothing is drawn
    cli.enqueue()

    # When its gallery is asked for
    page = Path(unquote(urlsplit(cli.json("gallery")["address"]).path))

    # Then its pictures wait
    data = block(page.read_bytes(), "data")
    assert {one["state"] for one in data["pictures"]} == {"waiting"}
    assert data["head"]["state"] == "waiting"


def test_an_unknown_job_has_no_gallery(cli: CliWorld) -> None:
    cli.migrate()
    assert cli.json("gallery", "nobody", exit_code=5)["error"]["code"] == "unknown_job"


def test_fetched_pictures_have_a_gallery_beside_them(cli: CliWorld) -> None:
    # Given a finished job with a further file of each picture
    cli.enqueue(defaults={"size": 64, "steps": 2, "outputs": [{}, {"name": "avatar", "format": "webp", "size": 32}]})
    cli.draw()

    # When its results are fetched
    answer = cli.json("results", "--out", "out", "--name", "{identity}/{prompt} #{seed}")

    # Then the page beside them leads to every file by relative links
    assert answer["gallery"] == str(Path("out/index.html"))
    data, links = (block(Path(answer["gallery"]).read_bytes(), name) for name in ("data", "links"))
    assert (links["pictures"], links["sheets"]) == ("", ["gallery/thumbnails-0001.css"])
    assert data["pictures"][0]["file"] == "ada/office%20%231.png"
    for one in data["pictures"]:
        assert Path("out", unquote(one["file"])).is_file()
        assert [(name, Path("out", unquote(file)).suffix) for name, file in one["further"]] == [("avatar", ".webp")]

    # When they are fetched without, then there is none, and in an archive neither
    assert cli.json("results", "--out", "plain", "--no-gallery")["gallery"] is None
    assert not Path("plain/index.html").exists()
    assert cli.json("results", "--out", "all.zip", "--zip")["gallery"] is None


def test_a_gallery_leaves_a_page_of_somebody_elses_alone(cli: CliWorld) -> None:
    cli.enqueue()
    cli.draw()
    Path("out").mkdir()
    Path("out/index.html").write_text("mine", encoding="utf-8")
    assert cli.json("results", "--out", "out", exit_code=2)["error"]["code"] == "gallery_refused"
    assert Path("out/index.html").read_text(encoding="utf-8") == "mine"
    cli.run("results", "--out", "out", "--no-gallery")
