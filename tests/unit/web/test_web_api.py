"""The API: what it answers to whom."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select, update
from starlette.testclient import TestClient
from web_world import ACME, ADDRESS, GLOBEX, Site, manifest

from jobs.archive import archive
from jobs.errors import UnknownJob
from jobs.models import METADATA
from jobs.models_fleet import Worker
from jobs.repository import fleet
from jobs.web import api_writing
from jobs.web.app import THREADS, create_app
from jobs.web.services import ENQUEUE_AT_ONCE, ENQUEUE_OF_A_TENANT

RFC_FIELDS = {"type", "title", "status", "detail", "code"}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem that an answer is."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    told: dict[str, Any] = answer.json()
    assert set(told) >= RFC_FIELDS and (told["code"], told["status"]) == (code, status)
    return told


def test_a_job_from_enqueueing_to_its_pictures(site: Site) -> None:
    # Given a job of two people, and one of a person whose photos are of no use
    job = site.enqueue("ada", "alan")
    bad = site.enqueue("nobody", key="bad", photo="red.png")

    # When nothing is drawn yet, then all of it waits
    assert (site.get(f"/jobs/{job}")["state"], site.get("/jobs/spring")["waiting"]) == ("waiting", 4)

    # When one is drawn and the other fails
    site.ask("POST", f"/jobs/{bad}/cancel")
    site.draw()

    # Then jobs, people and pictures say so, by id and by key
    found = site.get("/jobs/spring")
    assert (found["job_id"], found["state"], found["done"], found["failures"]) == (str(job), "done", 4, [])
    assert [one["key"] for one in site.get("/jobs")["jobs"]] == ["bad", "spring"]
    people = site.get(f"/jobs/{job}/people")
    assert ([one["external_id"] for one in people["people"]], people["next"]) == (["ada", "alan"], None)
    pictures = site.get("/jobs/spring/pictures")["pictures"]
    assert [(one["external_id"], one["state"]) for one in pictures] == [
        *[("ada", "done")] * 2,
        *[("alan", "done")] * 2,
    ]
    detail = site.get(f"/pictures/{pictures[0]['render_id']}")
    assert (detail["prompt"], detail["seed"], detail["outputs"]) == ("portrait of somebody", pictures[0]["seed"], [])

    # And the file is the picture, the thumbnail a small one of it
    file = site.ask("GET", detail["file"])
    assert (file.status_code, file.headers["content-type"], len(file.content)) == (
        200,
        "image/png",
        detail["size_bytes"],
    )
    assert Image.open(io.BytesIO(file.content)).size == (64, 64)
    again = site.ask("GET", detail["file"], headers={"If-None-Match": file.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    small = site.ask("GET", f"/pictures/{detail['render_id']}/thumbnail")
    assert (small.headers["content-type"], Image.open(io.BytesIO(small.content)).format) == ("image/webp", "WEBP")


def test_failures_are_told_by_reason_and_found_by_it(site: Site) -> None:
    # Given a job of two people of whom one has no usable photo
    job = site.enqueue("ada")
    site.draw()
    bad = site.enqueue("ben", "cleo", key="bad", photo="blue.png")
    site.fail()

    # Then the reasons are counted, and people and pictures can be found by them
    found = site.get(f"/jobs/{bad}")
    assert [(one["error_code"], one["renders"]) for one in found["failures"]] == [("no_usable_photo", 4)]
    assert "no face was found" in found["failures"][0]["example"]
    failed = site.get("/jobs/bad/people?having=failed")["people"]
    assert [(one["external_id"], one["error_code"]) for one in failed] == [
        ("ben", "no_usable_photo"),
        ("cleo", "no_usable_photo"),
    ]
    assert site.get(f"/jobs/{job}/people?having=failed")["people"] == []
    assert len(site.get("/jobs/bad/pictures?state=failed&error_code=no_usable_photo")["pictures"]) == 4
    assert site.get("/jobs/bad/pictures?state=failed&error_code=no_face")["pictures"] == []
    assert [one["external_id"] for one in site.get("/jobs/bad/people?named=cl")["people"]] == ["cleo"]
    assert site.get("/jobs/bad/people?named=%25")["people"] == []
    # And what failed has no file
    problem(
        site.ask("GET", f"/pictures/{site.get('/jobs/bad/pictures')['pictures'][0]['render_id']}/file"),
        404,
        "unknown_picture",
    )


def test_pages_follow_one_another_without_a_gap(site: Site) -> None:
    # Given three jobs, one of three people with six pictures, half of them archived elsewhere
    for key in ("one", "two"):
        site.enqueue("ada", key=key)
    site.enqueue("ada", "ben", "cleo", key="three")
    site.draw()

    def walk(path: str, name: str, key: str) -> list[Any]:
        found, after = [], ""
        while True:
            page = site.get(f"{path}?limit=2{after}")
            found += [row[key] for row in page[name]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    # When they are walked two at a time, also when they are archived, then nothing is missed or told twice
    for _ in range(2):
        assert walk("/jobs", "jobs", "key") == ["three", "two", "one"]
        assert walk("/jobs/three/people", "people", "external_id") == ["ada", "ben", "cleo"]
        assert walk("/jobs/three/pictures", "pictures", "ordinal") == list(range(6))
        ben = site.get("/jobs/three/people?named=ben")["people"][0]["identity_id"]
        assert [p["ordinal"] for p in site.get(f"/jobs/three/pictures?identity={ben}")["pictures"]] == [2, 3]
        archive(older_than_seconds=0, settings=site.settings)


def test_nobody_sees_anything_of_another_tenant(site: Site) -> None:
    # Given a job of one tenant
    job = site.enqueue("ada", tenant=ACME)
    site.draw()
    person = site.get(f"/jobs/{job}/people")["people"][0]["identity_id"]
    picture = site.get(f"/jobs/{job}/pictures")["pictures"][0]["render_id"]
    paths = [
        *(f"/jobs/{job}", "/jobs/spring", f"/jobs/{job}/people", f"/jobs/{job}/pictures"),
        *(f"/pictures/{picture}", f"/pictures/{picture}/file", f"/pictures/{picture}/thumbnail"),
    ]

    # When another asks for it, then the answer is the same as for what nobody has
    assert site.get("/jobs", tenant=GLOBEX)["jobs"] == []
    for path in paths:
        assert site.ask("GET", path).status_code == 200
        theirs = site.ask("GET", path, tenant=GLOBEX)
        unknown = site.ask(
            "GET", path.replace(str(job), str(uuid.uuid4())).replace(picture, str(uuid.uuid4())), tenant=GLOBEX
        )
        assert theirs.status_code == unknown.status_code == 404, path
        assert theirs.json()["code"] == unknown.json()["code"]
    assert site.ask("POST", f"/jobs/{job}/cancel", tenant=GLOBEX).status_code == 404
    # Nor does a job of their own show another's person
    own = site.enqueue("bob", tenant=GLOBEX)
    assert site.get(f"/jobs/{own}/pictures?identity={person}", tenant=GLOBEX)["pictures"] == []


def test_a_token_that_may_only_read_changes_nothing(site: Site) -> None:
    job = site.enqueue("ada")
    for method, path, body in (
        ("POST", f"/jobs/{job}/cancel", None),
        ("POST", "/jobs", manifest("ben", key="other")),
        ("POST", "/photos", {"sha256": "0" * 64, "size_bytes": 1, "media_type": "image/png"}),
    ):
        problem(site.ask(method, path, write=False, json=body), 403, "token_read_only")
    assert [one["key"] for one in site.get("/jobs", write=False)["jobs"]] == ["spring"]
    assert site.get(f"/jobs/{job}", write=False)["state"] == "waiting"

    # And one that may write does
    answer = site.ask("POST", f"/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["cancelled"]) == (200, 2)
    assert site.get(f"/jobs/{job}")["state"] == "cancelled"


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "Bearer ",
        "Bearer nonsense",
        "Bearer portraits_acme.AAAA",
        "Basic YTpi",
        "Bearer portraits_acme." + "A" * 43,
    ],
)
def test_without_a_valid_token_there_is_nothing(site: Site, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    answer = site.client.get("/api/v1/jobs", headers=headers)
    problem(answer, 401, "not_authenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_wrong_tokens_make_an_address_wait(site: Site) -> None:
    wrong = {"Authorization": "Bearer portraits_acme." + "A" * 43}
    answers = [site.client.get("/api/v1/jobs", headers=wrong).status_code for _ in range(11)]
    assert answers == [401] * 10 + [429]
    told = site.client.get("/api/v1/jobs", headers=wrong)
    problem(told, 429, "too_many_attempts")
    assert int(told.headers["retry-after"]) > 0
    # A right one is let in, though nobody here has shown it before
    assert site.get("/jobs") == {"jobs": [], "next": None}


def test_a_program_goes_on_whatever_others_show_from_its_address(site: Site) -> None:
    site.get("/jobs")
    for _ in range(20):
        site.client.get("/api/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert site.get("/jobs") == {"jobs": [], "next": None}


def test_no_answer_leads_to_a_host_that_the_client_has_named(site: Site) -> None:
    host = {"Host": "evil.example"}
    for path in ("/jobs/", "/workers/", "/openapi.json/"):
        problem(site.ask("GET", path, headers=host), 404, "not_found")
    for path in ("/login/", "/healthz/", "/workers/"):
        answer = site.client.get(path, headers=host)
        assert (answer.status_code, answer.headers.get("location")) == (404, None), path


def test_with_a_token_the_plain_paths_are_the_api_and_without_one_they_are_pages(site: Site) -> None:
    site.enqueue("ada")
    plain = site.client.get("/jobs/spring", headers={"Authorization": f"Bearer {site.token()}"})
    assert plain.json() == site.get("/jobs/spring")
    assert site.client.get("/jobs/spring").headers["location"] == "/login?next=%2Fjobs%2Fspring"


def test_an_archived_job_is_read_as_before_and_not_cancelled(site: Site) -> None:
    job = site.enqueue("ada")
    site.draw()
    before = site.get(f"/jobs/{job}/pictures")
    archive(older_than_seconds=0, settings=site.settings)
    assert site.get(f"/jobs/{job}")["archived_at"] is not None
    assert site.get(f"/jobs/{job}/pictures") == before
    assert site.ask("GET", before["pictures"][0]["file"]).status_code == 200
    problem(site.ask("POST", f"/jobs/{job}/cancel"), 409, "job_archived")


def test_workers_are_silent_when_their_last_sign_is_old(site: Site) -> None:
    # Given a worker that said something now, and one that did so long ago
    with site.database.transaction() as tx:
        for name in ("now", "old"):
            fleet.sign_of_life(tx, name, name=f"{name}@here", pid=1, version="1", state="working", device="cpu")
        tx.execute(update(Worker).where(Worker.id == "old").values(last_seen_at=Worker.last_seen_at - 3_600))
    found = {one["name"]: one for one in site.get("/workers")["workers"]}
    assert (found["now@here"]["state"], found["old@here"]["state"]) == ("working", "silent")
    assert found["now@here"]["seconds_since_seen"] < 60
    assert found["old@here"]["seconds_since_seen"] >= 3_600


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs?limit=0", 422),
        ("/jobs?limit=100000", 422),
        ("/jobs?after=x", 422),
        ("/jobs/a%00b", 404),
        ("/jobs/%F0%9F%92%A9", 404),
        ("/jobs/spring/people?named=%00", 200),
        ("/jobs/spring/pictures?prompt=%00", 200),
        ("/jobs/spring/pictures?after=99999999999999999999", 422),
        ("/jobs/spring/pictures?state=odd", 422),
        ("/pictures/1", 422),
        ("/nothing", 404),
        ("/../jobs", 404),
    ],
)
def test_odd_requests_are_refused_in_words(site: Site, path: str, status: int) -> None:
    site.enqueue("ada")
    answer = site.ask("GET", path)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert set(answer.json()) >= RFC_FIELDS


def test_a_fault_tells_no_secret_and_no_trace(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.web import reading

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("postgresql://user:hunter2@db")

    monkeypatch.setattr(reading.queries, "jobs", broken)
    answer = site.ask("GET", "/jobs")
    problem(answer, 500, "internal")
    assert "hunter2" not in answer.text and "Traceback" not in answer.text


def test_a_database_that_is_away_is_told_as_503_without_its_address(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.errors import DatabaseUnavailable

    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("postgresql://db.internal does not answer")

    token = {"Authorization": f"Bearer {site.token()}"}
    monkeypatch.setattr(type(site.database), "reading", away)
    answer = site.client.get("/api/v1/jobs", headers=token)
    problem(answer, 503, "database_unavailable")
    assert "db.internal" not in answer.text and int(answer.headers["retry-after"]) > 0
    page = site.client.get("/readyz")
    assert (page.status_code, page.json()) == (503, {"ready": False, "code": "database_unavailable"})
    assert site.client.get("/healthz").status_code == 200


@dataclass
class Endless:
    """Manifests that come to no end until they are told to."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Event = field(default_factory=threading.Event)

    def submit(self, *_: Any) -> None:
        """In the place of the real one."""
        self.entered.release()
        assert self.ended.wait(60)
        raise UnknownJob("it is over")


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endless]:
    """Every manifest takes long."""
    made = Endless()
    monkeypatch.setattr(api_writing, "submit", made.submit)
    yield made
    made.ended.set()


def test_manifests_that_take_long_hold_up_nobody_who_reads(site: Site, endless: Endless) -> None:
    # Given more manifests of several tenants than there are places, of which none comes to an end
    tenants = (ACME, GLOBEX, "initech")
    for tenant in tenants:
        site.token(tenant)
    with ThreadPoolExecutor(2 * THREADS) as pool:
        asked = [
            pool.submit(site.ask, "POST", "/jobs", tenant=tenant, json=manifest("ada"))
            for tenant in tenants
            for _ in range(ENQUEUE_OF_A_TENANT)
        ]
        try:
            assert all(endless.entered.acquire(timeout=60) for _ in range(ENQUEUE_AT_ONCE))

            # When somebody asks for something, then it is answered
            found = pool.submit(site.ask, "GET", "/jobs", tenant=GLOBEX).result(60)
            assert (found.status_code, pool.submit(site.client.get, "/healthz").result(60).status_code) == (200, 200)
            assert not endless.entered.acquire(blocking=False)
        finally:
            endless.ended.set()
        assert {one.result(60).status_code for one in asked} == {404}


def test_a_tenants_slow_manifests_leave_places_for_others(site: Site, endless: Endless) -> None:
    # Given a tenant whose manifests are in hand, and come to no end
    for tenant in (ACME, GLOBEX):
        site.token(tenant)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(site.ask, "POST", "/jobs", json=manifest("ada")) for _ in range(ENQUEUE_OF_A_TENANT)]
        try:
            assert all(endless.entered.acquire(timeout=60) for _ in asked)

            # When it sends more, then these are told to come again, and another tenant's is taken
            for _ in range(3):
                told = pool.submit(site.ask, "POST", "/jobs", json=manifest("ben")).result(60)
                problem(told, 429, "too_many_at_once")
                assert int(told.headers["retry-after"]) > 0
            other = pool.submit(site.ask, "POST", "/jobs", tenant=GLOBEX, json=manifest("cleo"))
            assert endless.entered.acquire(timeout=60)
        finally:
            endless.ended.set()
        assert {one.result(60).status_code for one in (*asked, other)} == {404}

    # And the places are free again
    assert site.ask("POST", "/jobs", json=manifest("ada")).status_code == 404


def test_the_log_tells_no_address_that_takes_a_photo(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jobs.web.guards")
    for path in ("/api/v1/uploads/e30.abc", "/api/v1/uploads/e30.abc/", "/api/v1/uploads/e30.abc/more"):
        site.client.put(path, content=b"x")
    assert len(caplog.messages) == 3 and not any("e30" in line for line in caplog.messages)


def test_bodies_are_bounded_before_they_are_read(site: Site) -> None:
    large = b'{"key": "' + b"x" * 70_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    problem(site.ask("POST", "/photos", content=large, headers=headers), 413, "request_too_large")

    def chunks() -> Any:  # no Content-Length
        for _ in range(10):
            yield b"x" * 10_000

    problem(site.ask("POST", "/photos", content=chunks(), headers=headers), 413, "request_too_large")


def test_every_answer_has_the_headers_that_bind_browsers(site: Site) -> None:
    answers = [site.client.get(path) for path in ("/login", "/nothing", "/jobs", "/api/v1/jobs", "/static/style.css")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert answers[0].headers["cache-control"] == "no-store"
    assert "immutable" in answers[-1].headers["cache-control"]
    assert "strict-transport-security" not in answers[0].headers


def test_the_numbers_are_told_where_that_is_wanted_and_name_no_tenant(site: Site) -> None:
    site.enqueue("ada")
    assert site.client.get("/metrics").status_code == 404
    settings = site.settings.model_copy(update={"serve_metrics": True})
    with TestClient(create_app(settings), ADDRESS) as inside:
        told = inside.get("/metrics")
    assert told.status_code == 200
    assert "portraits_queue_units{" in told.text and ACME not in told.text and "ada" not in told.text


def test_no_id_of_another_tenant_is_anything_here(site: Site) -> None:
    # Given every id of every row of a tenant with jobs drawn, failed and archived, and a job of another one
    site.enqueue("ada", "ben")
    site.draw()
    archive(older_than_seconds=0, settings=site.settings)
    site.enqueue("cleo", key="bad", photo="blue.png")
    site.fail()
    site.token()
    with site.database.reading() as tx:
        ids = {
            value
            for table in METADATA.tables.values()
            if "tenant_id" in table.columns
            for row in tx.execute(select(table).where(table.c.tenant_id == ACME)).mappings()
            for value in row.values()
            if isinstance(value, uuid.UUID)
        }
    assert len(ids) > 20
    own = site.enqueue("eve", tenant=GLOBEX, key="own")
    shown = {"Authorization": f"Bearer {site.token(GLOBEX)}"}

    # When the other one asks for each of them wherever an id can stand, then there is no such thing
    site.log_in(GLOBEX)
    for one in ids:
        paths = [f"/jobs/{one}", f"/jobs/{one}/people", f"/jobs/{one}/pictures"]
        paths += [f"/pictures/{one}", f"/pictures/{one}/file", f"/pictures/{one}/thumbnail"]
        for path in paths:
            assert site.client.get(f"/api/v1{path}", headers=shown).status_code == 404, path
        assert site.client.post(f"/api/v1/jobs/{one}/cancel", headers=shown).status_code == 404
        for path in (f"/jobs/{one}", f"/jobs/{one}/gallery/", f"/jobs/{own}/people/{one}", f"/pictures/{one}"):
            assert site.client.get(path).status_code == 404, path
        # Nor does a page that begins after it tell of more than its own
        page = site.client.get(f"/api/v1/jobs?after={one}", headers=shown).json()["jobs"]
        assert {job["key"] for job in page} <= {"own"}
