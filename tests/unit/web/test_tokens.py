"""Tokens: made once, kept as a hash, refused when they are over."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import select
from web_world import photo_bytes

from jobs import tokens
from jobs.database import Database
from jobs.errors import NotAuthenticated, RequestInvalid, SettingsInvalid, TooManyAttempts, UnknownToken
from jobs.models_outside import Token
from jobs.orm import utcnow
from jobs.repository import tokens as rows
from jobs.settings import Settings
from jobs.web.last_used import LastUsed
from jobs.web.signing import Signer
from jobs.web.throttle import MOST_ADDRESSES, MOST_WRONG, WINDOW_SECONDS, Throttle
from jobs.web.thumbnails import KEPT_SECONDS, Thumbnails


def test_a_token_is_known_by_its_text_and_kept_as_a_hash(database: Database) -> None:
    # When a token is made
    made = tokens.create(database, "acme", " laptop of ada ", may_write=True)

    # Then its text names the tenant, has 256 bits, and stands nowhere
    prefix, _, secret = made.text.partition(".")
    assert (prefix, len(secret)) == ("portraits_acme", 43)
    with database.reading() as tx:
        row = tx.execute(select(Token.__table__)).mappings().one()
    assert row["sha256"] == hashlib.sha256(made.text.encode()).hexdigest()
    assert not any(secret in str(value) for value in row.values())
    found = tokens.authenticate(database, made.text)
    assert (found.tenant_id, found.name, found.may_write) == ("acme", "laptop of ada", True)
    assert made.text != tokens.create(database, "acme", "laptop of ada").text


def test_what_is_no_valid_token_is_refused_alike(database: Database) -> None:
    # Given a token of one tenant, one that is revoked and one that has expired
    good = tokens.create(database, "acme", "a").text
    revoked, over = tokens.create(database, "acme", "b"), utcnow() - dt.timedelta(seconds=1)
    tokens.revoke(database, "acme", "b")
    expired = tokens.create(database, "acme", "c", expires_at=over)
    other = good.replace("portraits_acme.", "portraits_globex.")

    # Then each is refused in the same words, whatever is wrong with it
    told = set()
    for text in (
        "",
        "x",
        good[:-1],
        good + "A",
        other,
        revoked.text,
        expired.text,
        "portraits_acme." + "A" * 43,
        "\0",
        "é" * 50,
    ):
        with pytest.raises(NotAuthenticated) as error:
            tokens.authenticate(database, text)
        told.add(str(error.value))
    assert len(told) == 1
    assert tokens.authenticate(database, good).name == "a"


def test_a_token_is_revoked_by_id_or_name(database: Database) -> None:
    first, second = tokens.create(database, "acme", "ci"), tokens.create(database, "acme", "ci")
    with pytest.raises(UnknownToken, match=r"2 tokens named 'ci'"):
        tokens.revoke(database, "acme", "ci")
    with pytest.raises(UnknownToken, match="no token"):
        tokens.revoke(database, "globex", str(first.row.id))
    at = tokens.revoke(database, "acme", str(first.row.id)).revoked_at
    # By its name the one that is left is meant; a second time changes nothing
    assert tokens.revoke(database, "acme", "ci").id == second.row.id
    assert tokens.revoke(database, "acme", str(first.row.id)).revoked_at == at


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "a\0b"])
def test_a_name_is_one_that_can_be_read(database: Database, name: str) -> None:
    with pytest.raises(RequestInvalid):
        tokens.create(database, "acme", name)


@pytest.mark.parametrize("tenant", ["", "Acme", "a.b", "a/b", "x" * 65])
def test_a_tenant_is_one_that_could_enqueue(database: Database, tenant: str) -> None:
    with pytest.raises(RequestInvalid, match="tenant"):
        tokens.create(database, tenant, "a")


def test_uses_are_written_down_aside_and_the_latest_stays(database: Database) -> None:
    # Given two uses of a token, and a database that takes them
    made = tokens.create(database, "acme", "a")
    uses = LastUsed(database, every_seconds=3600)
    uses.note("acme", made.row.id)
    uses.note("acme", made.row.id)
    uses.flush()
    with database.reading() as tx:
        first = rows.find(tx, "acme", made.row.id)
    assert first is not None and first.last_used_at is not None

    # When an earlier one is noted late, then the later one stays
    with database.transaction() as tx:
        rows.used(tx, "acme", made.row.id, first.last_used_at - dt.timedelta(hours=1))
        assert rows.find(tx, "acme", made.row.id) == first

    # And what is noted before the end is written at the end
    uses.note("acme", made.row.id)
    uses.close()
    with database.reading() as tx:
        last = rows.find(tx, "acme", made.row.id)
    assert last is not None and last.last_used_at is not None and last.last_used_at > first.last_used_at


def test_a_signature_is_good_for_its_purpose_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    signer = Signer.from_settings(settings)
    text = signer.sign("session", {"tenant": "acme"})
    assert signer.read("session", text) == {"tenant": "acme"}
    assert signer.read("upload", text) is None
    # Another process of this home has the same key, in a file that nobody else reads; another home has another
    assert Signer.from_settings(settings).read("session", text) == {"tenant": "acme"}
    assert stat.S_IMODE(os.stat(tmp_path / "serve.key").st_mode) == 0o600
    other = Settings(home=tmp_path / "other", _env_file=None)
    assert Signer.from_settings(other).read("session", text) is None


def test_processes_that_make_the_key_at_once_make_one(tmp_path: Path) -> None:
    settings, barrier, made = Settings(home=tmp_path, _env_file=None), threading.Barrier(6), []

    def start() -> None:
        barrier.wait()
        made.append(Signer.from_settings(settings).sign("x", {}))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1 and [file.name for file in tmp_path.iterdir()] == ["serve.key"]


def test_a_secret_that_is_too_short_is_refused_without_being_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="has 6 characters") as error:
        Signer.from_settings(Settings(home=tmp_path, serve_secret="secret", _env_file=None))  # type: ignore[arg-type]
    assert "secret'" not in str(error.value)


def test_only_those_who_try_wait_and_not_for_ever() -> None:
    # Given a clock, and an address with as many wrong tokens as are allowed
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(MOST_WRONG):
        throttle.wrong("2001:db8::1")

    # Then a further one waits, and so does one of its network; others do not
    for address in ("2001:db8::1", "2001:db8::ffff"):
        with pytest.raises(TooManyAttempts):
            throttle.wrong(address)
    for address in ("2001:db8:0:1::1", "192.0.2.1", "unknown"):
        throttle.wrong(address)

    # And after a while it may try again
    now[0] = WINDOW_SECONDS + 1
    throttle.wrong("2001:db8::1")
    assert throttle._wrong["2001:db8::/64"] == [now[0]]


def test_thumbnails_are_kept_for_minutes_within_a_bound(tmp_path: Path) -> None:
    # Given a clock, and two thumbnails that were made some time apart
    now, settings = [0.0], Settings(home=tmp_path, _env_file=None)  # type: ignore[call-arg]
    kept = Thumbnails(clock=lambda: now[0])
    first = kept.make("first", photo_bytes("red"), settings)
    now[0] = KEPT_SECONDS - 1
    kept.make("second", photo_bytes("blue"), settings)
    assert kept.get("first") == first

    # When the first one's time is over, then it goes from memory though nobody asks, and being looked at did not help
    now[0] = KEPT_SECONDS
    kept.drop_old()
    assert list(kept._kept) == ["second"] and kept._size == len(kept._kept["second"][1])

    # And what is more than the bound goes at once
    small = Thumbnails(most_bytes=1)
    small.make("first", photo_bytes("red"), settings)
    assert (small.get("first"), small._size) == (None, 0)


def test_many_addresses_take_no_more_memory_than_some() -> None:
    throttle = Throttle()
    for number in range(MOST_ADDRESSES + 500):
        throttle.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._wrong) == MOST_ADDRESSES
