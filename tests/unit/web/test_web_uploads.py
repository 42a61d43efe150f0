"""Photos that are sent first and named by their hash, and manifests that come over HTTP."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select, update
from web_world import ACME, GLOBEX, Site, announced, keys, manifest, photo_bytes, sha256

from jobs import enqueue, uploads
from jobs.errors import ManifestInvalid, QuotaExceeded
from jobs.models import Photo
from jobs.models_outside import Upload
from jobs.repository import tenants
from jobs.repository import uploads as upload_rows
from jobs.settings import Settings
from jobs.storage import Announced
from jobs.sweep import sweep

GREEN = photo_bytes("green")
NAMED = f"sha256:{sha256(GREEN)}"


def faults(answer: Any) -> list[dict[str, Any]]:
    """The faults of a manifest that was refused."""
    assert (answer.status_code, answer.json()["code"]) == (422, "manifest_invalid"), answer.text
    told: list[dict[str, Any]] = answer.json()["faults"]
    return told


def rows(site: Site) -> tuple[int, int]:
    """How many uploads and photos there are."""
    with site.database.reading() as tx:
        return len(tx.execute(select(Upload.id)).all()), len(tx.execute(select(Photo.id)).all())


def test_a_photo_is_announced_sent_and_named(site: Site) -> None:
    # Given a photo that was announced and sent
    place = site.ask("POST", "/photos", json=announced(GREEN)).json()
    assert (place["source"], place["known"], place["method"]) == (NAMED, False, "PUT")
    assert site.client.put(place["url"], content=GREEN, headers=place["headers"]).status_code == 204
    assert (rows(site), keys(site)) == ((1, 0), [f"{ACME}/uploads/{sha256(GREEN)}"])

    # When a job names it
    answer = site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED))

    # Then it is a photo like any other, the upload is gone, and the job is drawn
    assert (answer.status_code, answer.json()["created"], answer.json()["renders"]) == (201, True, 2)
    assert (rows(site), keys(site)) == ((0, 1), [f"{ACME}/photos/{sha256(GREEN)[:2]}/{sha256(GREEN)}.png"])
    site.draw()
    assert site.get("/jobs/spring")["state"] == "done"

    # And the same again is the same job, and other content a conflict
    again = site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED))
    assert (again.status_code, again.json()["created"], again.json()["job_id"]) == (200, False, answer.json()["job_id"])
    other = site.ask("POST", "/jobs", json=manifest("ben", photo=NAMED))
    assert (other.status_code, other.json()["code"]) == (409, "key_conflict")

    # And the photo need not be sent a second time, though another tenant's must
    assert site.ask("POST", "/photos", json=announced(GREEN)).json() == {
        **dict.fromkeys(["method", "url", "headers", "expires_at", "kept_until"]),
        "source": NAMED,
        "known": True,
    }
    assert site.ask("POST", "/photos", tenant=GLOBEX, json=announced(GREEN)).json()["known"] is False


def test_a_hash_of_another_tenants_photo_is_no_photo(site: Site) -> None:
    site.send(GREEN)
    site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED))
    (found,) = faults(site.ask("POST", "/jobs", tenant=GLOBEX, json=manifest("eve", photo=NAMED)))
    assert "is no photo that tenant 'globex' has sent" in found["message"]


def test_what_is_sent_must_be_what_was_announced(site: Site) -> None:
    place = site.ask("POST", "/photos", json=announced(GREEN)).json()
    other = photo_bytes("white")
    padded, changed = GREEN + b"\0", GREEN[:-4] + b"abcd"
    for data in (other, padded, changed, b""):
        answer = site.client.put(place["url"], content=data)
        assert (answer.status_code, answer.json()["code"]) == (422, "upload_refused"), len(data)
    assert keys(site) == []
    # Nor does an address that was changed take anything
    for url in (place["url"][:-2] + "AA", place["url"] + "A", place["url"].replace("uploads/", "uploads/e30")):
        assert site.client.put(url, content=GREEN).json()["code"] == "upload_refused"
    # And announced bytes that were never sent are told as such
    (found,) = faults(site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED)))
    assert "was announced, and its bytes were not sent" in found["message"]
    assert found["field"] == "identities[0].photos[0]"


def test_an_upload_address_takes_one_photo_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a photo that is being stored under an address, which takes long
    data = photo_bytes("green")
    place = site.ask("POST", "/photos", json=announced(data)).json()
    entered, ended, accept = threading.Event(), threading.Event(), uploads.accept

    def slow(*told: Any) -> None:
        entered.set()
        assert ended.wait(60)
        accept(*told)

    monkeypatch.setattr(uploads, "accept", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(site.client.put, place["url"], content=data, headers=place["headers"])
        try:
            assert entered.wait(60)

            # When the address is used once more meanwhile, then that is refused and the first one is not harmed
            again = pool.submit(site.client.put, place["url"], content=data, headers=place["headers"]).result(60)
            assert (again.status_code, again.json()["code"]) == (429, "too_many_at_once")
            assert int(again.headers["retry-after"]) > 0
        finally:
            ended.set()
        assert first.result(60).status_code == 204
    assert site.client.put(place["url"], content=data, headers=place["headers"]).status_code == 204


def test_a_store_that_took_other_bytes_is_not_believed(site: Site) -> None:
    # Given a store in which other bytes lie under the upload's key, as a server that checks no hash would take them
    site.ask("POST", "/photos", json=announced(GREEN))
    key = uploads.upload_key(ACME, sha256(GREEN))
    site.world.storage.put(key, photo_bytes("white"), content_type="image/png")

    # When a job names it, then it is refused
    (found,) = faults(site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED)))
    assert "send it again" in found["message"] and rows(site) == (1, 0)


def test_what_is_no_photo_is_refused_when_it_is_named(site: Site) -> None:
    source = site.send(b"GIF89a, they said")
    (found,) = faults(site.ask("POST", "/jobs", json=manifest("ada", photo=source)))
    assert "wanted a JPEG, PNG or WebP photo, found a GIF" in found["message"]
    assert site.get("/jobs")["jobs"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 0},
        {"size_bytes": "12"},
        {"sha256": "AB" * 32},
        {"sha256": "../../../etc/passwd"},
        {"media_type": "image/svg+xml"},
        {"tenant": GLOBEX},
    ],
)
def test_an_announcement_is_checked(site: Site, changes: dict[str, Any]) -> None:
    answer = site.ask("POST", "/photos", json=announced(GREEN, **changes))
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert rows(site) == (0, 0)


def test_a_photo_over_the_limit_is_refused_before_it_is_sent(site: Site) -> None:
    answer = site.ask("POST", "/photos", json=announced(GREEN, size_bytes=site.settings.max_photo_bytes + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def files_in_manifests(name: str) -> dict[str, dict[str, Any]]:
    """Every place of a manifest that names a file."""
    prompt = {"text": "portrait of {subject}"}
    together = {"ada": {"region": {"mask": name}}, "ben": {"region": [0.5, 0, 1, 1]}}
    ada, ben = ({"id": who, "subject": "somebody", "photos": [NAMED], "draw": False} for who in ("ada", "ben"))
    return {
        "photo": manifest("ada", photo=name),
        "photo of a mapping": manifest(
            "ada", identities=[{"id": "ada", "photos": [{"file": name}]}], prompts=[{"text": "x"}]
        ),
        "control image": manifest(
            "ada", photo=NAMED, prompts=[{**prompt, "control": [{"net": "pose", "image": name}]}]
        ),
        "keypoints": manifest(
            "ada", photo=NAMED, prompts=[{**prompt, "control": [{"net": "pose", "keypoints": name}]}]
        ),
        "start": manifest("ada", photo=NAMED, prompts=[{**prompt, "image": {"file": name}}]),
        "inpaint": manifest("ada", photo=NAMED, prompts=[{**prompt, "inpaint": {"file": name}}]),
        "mask": manifest("ada", photo=NAMED, prompts=[{**prompt, "inpaint": {"file": NAMED, "mask": name}}]),
        "defaults": manifest("ada", photo=NAMED, defaults={"image": {"file": name}}),
        "region": manifest(identities=[ada, ben, {"id": "both", "subject": "two", "identity": {"together": together}}]),
        "prompt set": manifest(
            "ada", photo=NAMED, prompts=[{"set": name if name.endswith(".yaml") else f"{name}.yaml"}]
        ),
        "own prompt set": manifest(
            identities=[{"id": "ada", "photos": [NAMED], "prompts": [{"set": "prompts.yaml"}]}], prompts=[]
        ),
    }


@pytest.mark.parametrize("place", list(files_in_manifests("x")))
def test_a_manifest_over_http_names_no_file_of_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # Given a server whose working folder holds a photo and a prompt set
    monkeypatch.chdir(site.folder)
    (site.folder / "prompts.yaml").write_text("- text: secret prompt of {subject}\n")
    site.send(GREEN)

    # When a manifest names a file of it, anywhere, then it is refused, and what stands in the file is not told
    for name in ("red.png", "/etc/passwd", "../home/serve.key", "file:///etc/passwd", "prompts.yaml"):
        answer = site.ask("POST", "/jobs", json=files_in_manifests(name)[place])
        assert any("sent" in one["message"] for one in faults(answer)), (name, answer.text)
        assert "secret prompt" not in answer.text
    assert site.get("/jobs")["jobs"] == []


def test_the_same_manifests_are_good_with_photos_that_were_sent(site: Site) -> None:
    # Given the photo, named in every place where a file could stand
    site.send(GREEN)
    for place, told in files_in_manifests(NAMED).items():
        if "prompt set" not in place:
            answer = site.ask("POST", "/jobs", json={**told, "key": place})
            assert answer.status_code == 201, (place, answer.text)
    assert rows(site) == (0, 1)


@pytest.mark.parametrize(
    ("storage_url", "buckets", "source"),
    [
        ("s3://pictures/portraits", "", "s3://pictures/portraits/globex/photos/ab/abc.png"),
        ("s3://pictures/portraits", "pictures", "s3://pictures/portraits/globex/photos/ab/abc.png"),
        ("s3://pictures", "pictures,faces", "s3://pictures/globex/photos/ab/abc.png"),
        ("s3://pictures/portraits", "faces", "s3://others/ada.png"),
    ],
)
def test_a_manifest_over_http_reads_nothing_of_the_store(
    tmp_path: Path, storage_url: str, buckets: str, source: str
) -> None:
    # Given a store in a bucket, of which a folder's manifest may name objects; no server need be asked
    from jobs.errors import PhotoRefused
    from jobs.photos import PhotoSource

    settings = Settings(home=tmp_path, storage_url=storage_url, photo_buckets=buckets, _env_file=None)
    with pytest.raises(PhotoRefused, match=r"lies in (the store itself|a bucket that is not allowed)"):
        PhotoSource(None, settings).check(source)


def test_a_manifest_says_no_other_tenant(site: Site) -> None:
    site.send(GREEN)
    answer = site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED, tenant=GLOBEX))
    assert [one["field"] for one in faults(answer)] == ["tenant"]
    assert site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED, tenant=ACME)).status_code == 201
    assert site.get("/jobs", tenant=GLOBEX)["jobs"] == []


def test_yaml_is_taken_and_faults_have_lines(site: Site) -> None:
    site.send(GREEN)
    text = "key: y\nprofile: fake\nprompts:\n  - text: portrait\n    stepz: 3\n"
    text += f"identities:\n  - id: ada\n    photos: ['{NAMED}']\n"
    answer = site.ask("POST", "/jobs", content=text, headers={"Content-Type": "application/yaml"})
    (found,) = faults(answer)
    assert (found["line"], found["field"]) == (5, "prompts[0].stepz") and "did you mean 'steps'" in found["message"]
    good = text.replace("stepz", "steps")
    assert (
        site.ask("POST", "/jobs", content=good, headers={"Content-Type": "text/yaml; charset=utf-8"}).status_code == 201
    )
    odd = site.ask("POST", "/jobs", content=text, headers={"Content-Type": "text/csv"})
    assert (odd.status_code, odd.json()["code"]) == (422, "request_invalid")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe{", b'{"identities": []}', b"[" * 9_000])
def test_what_is_no_manifest_is_refused_in_words(site: Site, body: bytes) -> None:
    answer = site.ask("POST", "/jobs", content=body, headers={"Content-Type": "application/json"})
    assert faults(answer)


def test_a_dry_run_counts_and_writes_nothing(site: Site) -> None:
    site.send(GREEN)
    found = site.ask("POST", "/jobs?dry_run=true", json=manifest("ada", "ben", photo=NAMED)).json()
    assert (found["dry_run"], found["renders"], found["units"], found["identities"]) == (True, 4, 2, 2)
    assert found["first"][0]["prompt"] == "portrait of somebody"
    assert (rows(site), site.get("/jobs")["jobs"]) == ((1, 0), [])


def test_again_is_a_new_job(site: Site) -> None:
    site.send(GREEN)
    first = site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED)).json()
    second = site.ask("POST", "/jobs?again=true", json=manifest("ada", photo=NAMED))
    assert second.status_code == 201 and second.json()["job_id"] != first["job_id"]


def test_limits_of_a_tenant_hold_for_what_is_sent(site: Site) -> None:
    # Given a tenant with room for one photo and one waiting picture
    site.token()
    with site.database.transaction() as tx:
        tenants.change(tx, ACME, max_stored_bytes=len(GREEN) + 10, max_waiting_renders=1)

    # When two are announced, then the second is refused with a time to wait; the first may be announced again
    assert site.ask("POST", "/photos", json=announced(GREEN)).status_code == 200
    refused = site.ask("POST", "/photos", json=announced(photo_bytes("white")))
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    site.send(GREEN)

    # And a job with two pictures is refused; one with one is taken: its photo is not counted a second time
    over = site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED))
    assert (over.status_code, over.json()["code"]) == (429, "quota_exceeded")
    one = manifest("ada", photo=NAMED, prompts=[{"text": "portrait of {subject}"}])
    assert site.ask("POST", "/jobs", json=one).status_code == 201


def test_photos_that_no_job_names_are_bounded_in_number(site: Site) -> None:
    settings = site.settings.model_copy(update={"max_uploads": 2})
    site.token()
    for colour in ("white", "black", "white"):
        data = photo_bytes(colour)
        what = Announced(sha256(data), len(data), "image/png")
        uploads.announce(site.database, site.world.storage, settings, ACME, what)
    with pytest.raises(QuotaExceeded, match="at most 2"):
        what = Announced(sha256(GREEN), len(GREEN), "image/png")
        uploads.announce(site.database, site.world.storage, settings, ACME, what)


def expire(site: Site, hours: float) -> None:
    """Let every upload have expired so long ago."""
    at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
    with site.database.transaction() as tx:
        tx.execute(update(Upload).values(expires_at=at))


def test_an_upload_that_no_job_named_in_time_goes(site: Site) -> None:
    # Given an upload that has expired a moment ago, one that nobody's row names, and one that is fresh
    site.send(GREEN)
    orphan = f"{ACME}/uploads/{'ab' * 32}"
    site.world.storage.put(orphan, b"x", content_type="image/png")
    expire(site, 0.1)
    white = photo_bytes("white")
    site.send(white)

    # Then no job can name it any more
    assert "is no photo that" in faults(site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED)))[0]["message"]

    # And a sweep leaves it for the hour in which a job may still be reading it, and takes what no row names
    assert sweep(site.settings, older_than_seconds=0, delete=True).removed == 1
    assert keys(site) == sorted(uploads.upload_key(ACME, sha256(data)) for data in (GREEN, white))

    # When that hour is over, then it goes, row and object
    with site.database.transaction() as tx:
        at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
        tx.execute(update(Upload).where(Upload.sha256 == sha256(GREEN)).values(expires_at=at))
    sweep(site.settings, older_than_seconds=0, delete=True)
    assert (rows(site), keys(site)) == ((1, 0), [uploads.upload_key(ACME, sha256(white))])
    expire(site, 2)
    assert uploads.remove_expired(site.database, site.world.storage) == 1
    assert (rows(site), keys(site)) == ((0, 0), [])


def test_a_manifest_of_the_command_line_may_name_photos_by_their_hash_too(site: Site) -> None:
    # Given a photo that was sent, and a stored one
    site.send(GREEN)
    site.enqueue("ada", key="first")
    red = f"sha256:{hashlib.sha256(photo_bytes('red')).hexdigest()}"
    file = site.folder / "people.json"
    people = [{"id": "ada", "subject": "x", "photos": [red, NAMED, "blue.png"]}]
    file.write_text(json.dumps(manifest(key="second", identities=people)))

    # When a file names both beside one of its folder, then they are the tenant's
    job = enqueue(file, settings=site.settings, overrides={"tenant": ACME})
    assert (job.renders, rows(site)[1]) == (2, 3)
    # And for another tenant they are nobody's
    with pytest.raises(ManifestInvalid, match="'globex' has sent"):
        enqueue(file, settings=site.settings, overrides={"tenant": GLOBEX})
    for wrong in ("sha256:", "sha256:" + "AB" * 32, "sha256:../x"):
        with pytest.raises(ManifestInvalid, match="wanted sha256: and 64 digits"):
            site.enqueue("ada", key="third", photo=wrong)


def test_a_photo_whose_announcement_goes_while_it_is_sent_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an announced photo whose row is removed, as its person is forgotten, while its bytes are being stored
    place = site.ask("POST", "/photos", json=announced(GREEN)).json()
    storage = type(site.world.storage)
    put = storage.put

    def forgotten_meanwhile(self: Any, key: str, data: bytes, **more: Any) -> Any:
        with site.database.transaction(ACME) as tx:
            upload_rows.remove(tx, ACME, [sha256(GREEN)])
        return put(self, key, data, **more)

    # When it is sent, then it is refused, and nothing of it lies in the store
    monkeypatch.setattr(storage, "put", forgotten_meanwhile)
    answer = site.client.put(place["url"], content=GREEN, headers=place["headers"])
    assert (answer.status_code, answer.json()["code"]) == (422, "upload_refused")
    assert (rows(site), keys(site)) == ((0, 0), [])


def test_a_stored_photo_that_was_lost_is_asked_for_again(site: Site) -> None:
    # Given a photo that a row names and that is no longer in the store
    site.send(GREEN)
    site.ask("POST", "/jobs", json=manifest("ada", photo=NAMED))
    (key,) = keys(site)
    site.world.storage.delete(key)

    # When it is named, then it is asked for; and when it is sent again, it is put back
    assert (
        "is no photo that"
        in faults(site.ask("POST", "/jobs", json=manifest("ada", key="b", photo=NAMED)))[0]["message"]
    )
    site.send(GREEN)
    assert site.ask("POST", "/jobs", json=manifest("ada", key="b", photo=NAMED)).status_code == 201
    assert (keys(site), rows(site)) == ([key], (0, 1))


def test_limits_of_today_hold_for_photos_of_yesterday(site: Site, tmp_path: Path) -> None:
    from jobs.photos import PhotoSource
    from jobs.sent_photos import SentPhotos

    large = tmp_path / "large.png"
    Image.new("RGB", (300, 300)).save(large)
    source = site.send(large.read_bytes())
    site.ask("POST", "/jobs", json=manifest("ada", photo=source))
    settings = site.settings.model_copy(update={"max_photo_pixels": 10_000})
    sent = SentPhotos(settings)
    sent.tenant = ACME
    with pytest.raises(Exception, match="90000 pixels"):
        PhotoSource(None, settings, sent=sent).check(source)
    sent.close()
