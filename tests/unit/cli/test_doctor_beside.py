"""What `portraits doctor` says of what stands beside the queue, and around the processes."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

import pytest
from queue_world import TENANT, add_job, person, settings
from sqlalchemy import insert, update

from jobs import tokens
from jobs.clerk.errands import tell_ends
from jobs.clerk.process import OFFICE
from jobs.database import Database
from jobs.models import Unit
from jobs.models_outside import Delivery, Gallery, Webhook
from jobs.orm import utcnow
from jobs.repository import deliveries, fleet, webhooks
from jobs.settings import Settings
from worker.doctor import beside, marking, surroundings, weights
from worker.doctor.findings import Finding
from worker.errors import MarkingBroken
from worker.marking.self_made import FOLDER, make_self_made
from worker.models import lock
from worker.models.lock import Locked, LockedFile


@pytest.fixture
def chosen(tmp_path: Path, database_url: str) -> Settings:
    return settings(tmp_path, database_url)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_ends_that_nobody_tells_are_a_problem(database: Database, chosen: Settings) -> None:
    # Given no clerk and nothing to tell, then that is worth knowing
    assert by_name(beside.examine(chosen))["clerk"].state == "note"
    # Given an end that has waited for an hour, then it is a problem, with what to do
    add_job(database, [person("ada", [1], chosen)])
    with database.transaction() as tx:
        ended = {"state": "done", "renders_done": 1, "finished_at": utcnow() - dt.timedelta(hours=1)}
        tx.execute(update(Unit).values(**ended))
    found = by_name(beside.examine(chosen))["clerk"]
    assert (found.state, "60 minutes" in found.detail, "no clerk runs" in found.detail) == ("problem", True, True)
    off = by_name(beside.examine(chosen.model_copy(update={"clerk": "off"})))["clerk"]
    assert off.hint == "start `portraits clerk`"
    # And given a clerk that has told it, then all is well
    tell_ends(database)
    with database.transaction() as tx:
        fleet.elect(tx, OFFICE, "machine-1:42:abc", seconds=60)
    found = by_name(beside.examine(chosen))["clerk"]
    assert (found.state, found.detail) == ("ok", "runs on machine-1")


def test_webhooks_that_take_nothing_are_told_with_what_to_do(database: Database, chosen: Settings) -> None:
    # Given a good webhook, one that fails, and one that is disabled
    assert by_name(beside.examine(chosen))["webhooks"].detail == "none is wanted"
    with database.transaction() as tx:
        good, failing, disabled = (
            webhooks.add(tx, TENANT, url="https://x.example/", secret="whsec_x", kinds=["job.ended"]) for _ in range(3)
        )
    assert by_name(beside.examine(chosen))["webhooks"].detail == "3 of them, all take messages"
    with database.transaction() as tx:
        tx.execute(update(Webhook).where(Webhook.id == failing).values(lease_owner="w"))
        endpoint = webhooks.find(tx, TENANT, failing)
        assert endpoint is not None and webhooks.failed(tx, endpoint, "w", after_seconds=60) is not None
        webhooks.disable(tx, TENANT, disabled, reason="disabled: 410")
    # Then both are told by their id, and the good one is not
    found = by_name(beside.examine(chosen))
    assert found[f"webhook {failing}"].state == "note" and "1 tries" in found[f"webhook {failing}"].detail
    assert found[f"webhook {disabled}"].state == "problem"
    assert f"portraits webhooks retry {disabled} --tenant {TENANT}" in found[f"webhook {disabled}"].hint
    assert f"portraits webhooks deliveries {disabled} --tenant {TENANT}` says why" in found[f"webhook {disabled}"].hint
    assert f"webhook {good}" not in found
    # And one that the settings refuse is not called silent
    assert "does not answer" in found[f"webhook {failing}"].detail
    with database.transaction() as tx:
        deliveries.ping(tx, TENANT, failing)
        tx.execute(update(Delivery).values(attempts=1, last_error="webhook_refused: 10.0.0.1 is not public"))
    found = by_name(beside.examine(chosen))
    assert "refused by this installation's settings" in found[f"webhook {failing}"].detail


def test_a_gallery_that_cannot_be_made_is_told(database: Database, chosen: Settings) -> None:
    # Given a gallery that was given up
    job_id = add_job(database, [person("ada", [1], chosen)])
    row = {"tenant_id": TENANT, "job_id": job_id, "lease_token": 6, "attempts": 6, "error": "the disk is full"}
    with database.transaction() as tx:
        tx.execute(insert(Gallery).values(**row))
    found = by_name(beside.examine(chosen))["gallery"]
    assert found.state == "problem" and "the disk is full" in found.detail and str(job_id) in found.hint


def test_tokens_that_end_soon_are_told(database: Database, chosen: Settings) -> None:
    assert by_name(beside.examine(chosen))["tokens"].state == "note"
    tokens.create(database, TENANT, "ever", may_write=False, expires_at=None)
    assert by_name(beside.examine(chosen))["tokens"].state == "ok"
    tokens.create(database, TENANT, "soon", may_write=False, expires_at=utcnow() + dt.timedelta(days=3))
    found = by_name(beside.examine(chosen))["tokens"]
    assert (found.state, found.detail.split(" them")[0]) == ("note", "2 are valid, 1 of")


def test_a_port_of_metrics_that_cannot_be_had_is_a_problem(tmp_path: Path) -> None:
    # Given none, one that somebody listens on, a free one, and an address of another machine
    def state(**changes: object) -> str:
        return next(iter(beside.ports(Settings(home=tmp_path, **changes)))).state  # type: ignore[arg-type]

    assert state() == "note"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (found,) = beside.ports(Settings(home=tmp_path, metrics_port=port))  # type: ignore[call-arg]
        assert found.state == "ok" and "somebody answers" in found.detail
    assert state(metrics_port=port) == "ok"
    assert state(metrics_port=port, metrics_host="203.0.113.7") == "problem"


@pytest.mark.parametrize(("skew", "state"), [(0.0, "ok"), (-10.0, "note"), (10.0, "note"), (-3600.0, "problem")])
def test_a_clock_that_is_wrong_is_told(
    database: Database, chosen: Settings, monkeypatch: pytest.MonkeyPatch, skew: float, state: str
) -> None:
    # Given a machine whose clock is so far from the database's
    real = surroundings.time.time
    monkeypatch.setattr("worker.doctor.surroundings.time.time", lambda: real() + skew)
    found = by_name(surroundings.examine(chosen, database_answers=True))["clock"]
    assert found.state == state
    assert state == "ok" or f"{abs(skew):.0f}" in found.detail


WAYS = {
    "amqp://user:pw@rabbit//": ("broker", "note"),
    "amqps://user:pw@rabbit//": ("broker", "ok"),
    "redis://127.0.0.1:6379/0": ("broker", "ok"),
    "rediss://cache:6379/0": ("broker", "ok"),
}


@pytest.mark.parametrize(("url", "wanted"), WAYS.items())
def test_a_broker_that_is_not_asked_by_tls_is_told(tmp_path: Path, url: str, wanted: tuple[str, str]) -> None:
    chosen = Settings(home=tmp_path, broker_url=url)  # type: ignore[arg-type]
    found = by_name(surroundings.examine(chosen, database_answers=False))[f"TLS to {wanted[0]}"]
    assert found.state == wanted[1] and "pw" not in found.detail + found.hint


def test_a_store_and_an_address_without_tls_are_told(tmp_path: Path) -> None:
    plain = {"s3_endpoint_url": "http://weed:8333", "serve_url": "http://portraits.example.com"}
    for changes, state in ((plain, "note"), ({name: "https" + url[4:] for name, url in plain.items()}, "ok")):
        chosen = Settings(home=tmp_path, storage_url="s3://bucket/x", **changes)  # type: ignore[arg-type]
        found = by_name(surroundings.examine(chosen, database_answers=False))
        assert {found[f"TLS to {name}"].state for name in ("storage", "serve")} == {state}


@pytest.mark.parametrize(("free", "state"), [(10**12, "ok"), (10**9, "note"), (10**8, "problem")])
def test_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage(2 * 10**12, 0, free))
    chosen = Settings(home=tmp_path / "home")  # type: ignore[call-arg]
    disks = [f for f in surroundings.examine(chosen, database_answers=False) if f.name.startswith("disk")]
    assert [found.state for found in disks] == [state]  # one disk, told once


def test_a_locked_model_that_is_not_here_is_a_problem(tmp_path: Path) -> None:
    # Given a lock file of two local models, a file of which is gone and another one cut short
    chosen = Settings(home=tmp_path / "home", profiles_file=tmp_path / "profiles.toml")  # type: ignore[call-arg]
    place, file = tmp_path / "model", LockedFile(7, "0" * 64)
    place.mkdir()
    (place / "a.safetensors").write_bytes(b"weights")
    profile = f'base = "{place}"\nhyperlora = "{place}"\nclip_vision = "{place}"\nsafety = "none"\nfaces = "opencv"\n'
    (tmp_path / "profiles.toml").write_text(f"[profiles.real]\n{profile}")
    assert list(weights.examine(chosen)) == []
    path = lock.path_of(chosen)
    lock.write(path, {str(place): Locked("mit", {"a.safetensors": file})})
    assert {found.state for found in weights.examine(chosen)} == {"ok"}
    lock.write(path, {str(place): Locked("mit", {"a.safetensors": LockedFile(8, file.sha256), "b.json": file})})
    (found,) = weights.examine(chosen)
    assert found.state == "problem" and found.detail == "missing: b.json; of another size: a.safetensors"
    # And one that nobody can read is told as that
    path.write_text("{")
    (found,) = weights.examine(chosen)
    assert found.state == "problem" and "models.lock" in found.detail


def test_a_certificate_that_cannot_sign_is_a_problem(tmp_path: Path) -> None:
    # Given none, where nothing is made by looking; signing that is off; and files that are no certificate
    chosen = Settings(home=tmp_path / "home")  # type: ignore[call-arg]
    (found,) = marking.examine(chosen)
    assert found.state == "note" and not (tmp_path / "home").exists()
    (found,) = marking.examine(chosen.model_copy(update={"sign": "off"}))
    assert found.state == "note" and found.detail.startswith("off")
    (tmp_path / "x.pem").write_text("nothing")
    broken = {"sign_certificate": tmp_path / "x.pem", "sign_key": tmp_path / "x.pem"}
    (found,) = marking.examine(chosen.model_copy(update=broken))
    assert found.state == "problem" and "x.pem" in found.detail


def test_a_certificate_that_is_none_to_the_signer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given files that can be read, and a signer that refuses them
    chosen = Settings(home=tmp_path)  # type: ignore[call-arg]
    make_self_made(tmp_path / FOLDER)

    def refuse(*_: object, **__: object) -> None:
        raise MarkingBroken("the signer refuses it")

    monkeypatch.setattr("worker.marking.signer.Signer.__init__", refuse)
    (found,) = marking.examine(chosen)
    assert (found.state, found.detail) == ("problem", "the signer refuses it")


def test_a_self_made_certificate_signs_and_says_so(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path)  # type: ignore[call-arg]
    make_self_made(tmp_path / FOLDER)
    (found,) = marking.examine(chosen)
    assert found.state == "note" and "self-made" in found.detail
