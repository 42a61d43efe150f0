"""The folder of pictures that wait: whole or not there, private, bounded, and hostile until proved otherwise."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from outage_world import FaultyStore

from jobs.database import Database
from jobs.errors import StorageUnavailable
from jobs.repository.renders import CandidateRow, Drawn, OutputRow
from jobs.repository.units import ClaimedUnit
from jobs.settings import Settings
from jobs.storage_folder import FolderStorage
from worker.committer import commit_all
from worker.doctor.drawing import spool as spool_findings
from worker.errors import SpoolDamaged, SpoolFull, SpoolUnusable
from worker.spool import ABANDONED_SECONDS, Spool
from worker.spooled import Spooled, SpooledObject, folder_of

ROOT = os.geteuid() == 0


def picture(token: int = 7, *, data: bytes = b"picture", **changes: Any) -> Spooled:
    """A picture with a second form and a candidate."""
    ids = [uuid.UUID(int=n) for n in range(1, 6)]
    unit = ClaimedUnit("acme", ids[0], ids[1], ids[2], ids[3], "fake", 1, token)
    prefix = f"{folder_of(unit, ids[4])}/{token}"
    objects = [
        SpooledObject(f"{prefix}.png", "image/png", data),
        SpooledObject(f"{prefix}-thumb.jpg", "image/jpeg", b"thumb"),
        SpooledObject(f"{prefix}.0.png", "image/png", b"other seed"),
    ]
    digests = [hashlib.sha256(one.data).hexdigest() for one in objects]
    text = dict.fromkeys(
        ["final_prompt", "recogniser", "model_fingerprint", "weight_set_fingerprint", "device", "worker"], "fake"
    )
    seconds = {f"seconds_{name}": 0.5 for name in ("weights", "merge", "denoise", "decode", "encode", "upload")}
    drawn = Drawn(
        storage_key=objects[0].key,
        media_type="image/png",
        size_bytes=len(data),
        sha256=digests[0],
        id_similarity=0.5,
        id_similarity_reason=None,
        batch_size=4,
        **text,
        **seconds,
    )
    values: dict[str, Any] = {
        "owner": "host:1:abc",
        "unit": unit,
        "render_id": ids[4],
        "seed": 3,
        "drawn": drawn,
        "others": (CandidateRow(2**62, objects[2].key, digests[2], 10, None),),
        "outputs": (OutputRow("thumb", objects[1].key, "image/jpeg", 8, 8, 5, digests[1]),),
        "objects": tuple(objects),
    }
    return Spooled(**{**values, **changes})


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "home" / "spool", 1_000_000)


def test_a_picture_comes_back_as_it_was_put(spool: Spool) -> None:
    # Given two pictures that were put aside one after the other
    first, second = picture(7), picture(8)
    spool.put(first)
    spool.put(second)

    # When they are read
    names = spool.names()

    # Then the older one comes first, and both are what they were; the folder and its files are this user's alone
    assert [spool.read(name) for name in names] == [first, second]
    assert spool.holds(first.unit) and not spool.holds(replace(first.unit, lease_token=9))
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in spool.folder.iterdir()} == {0o600}

    # When they are let go
    for name in names:
        spool.remove(name)
        spool.remove(name)

    # Then nothing is left
    assert list(spool.folder.iterdir()) == [] and spool.used_bytes() == 0


def test_a_folder_that_others_may_read_is_made_private(spool: Spool) -> None:
    spool.folder.mkdir(parents=True, mode=0o755)
    spool.put(picture())
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


def test_more_than_the_limit_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    # Given a spool with room for one
    one = len(picture().dump())
    spool = Spool(tmp_path / "spool", one + one // 2)
    spool.put(picture(7))

    # When a second one comes, then there is no room and the first is there; when the first has gone, there is
    with pytest.raises(SpoolFull, match="PORTRAITS_SPOOL_BYTES"):
        spool.put(picture(8))
    (name,) = spool.names()
    spool.remove(name)
    spool.put(picture(8))


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, SpoolFull, "free some space"),
        (errno.EDQUOT, SpoolFull, "free some space"),
        (errno.EROFS, SpoolUnusable, "set PORTRAITS_SPOOL"),
        (errno.EIO, SpoolUnusable, "set PORTRAITS_SPOOL"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_disk_that_fails_leaves_no_half_file(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], words: str, call: str
) -> None:
    # Given a disk that fails in the middle of writing a picture
    spool.check()
    real = getattr(os, call)

    def failing(*args: Any, **named: Any) -> Any:
        if call != "open" or ".part" in str(args[0]):
            raise OSError(number, os.strerror(number))
        return real(*args, **named)

    # When one is put aside
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(error, match=words):
            spool.put(picture())
        with pytest.raises(error, match=words):
            spool.check()

    # Then there is nothing that could be taken for a picture, whole or half
    assert spool.names() == [] and list(spool.folder.iterdir()) == []


def test_a_real_limit_on_files_is_a_full_disk(spool: Spool) -> None:
    # Given a child that may write files of 8 KiB only, as on a disk with that much left
    child = os.fork()
    if child == 0:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            spool.put(picture(data=bytes(100_000)))
        except SpoolFull:
            os._exit(7)
        os._exit(0)

    # When it puts a larger picture aside, then it is told that there is no room, and no file is left
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(spool.folder.iterdir()) == []


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(spool: Spool) -> None:
    spool.folder.mkdir(parents=True)
    os.chown(spool.folder, 12345, 12345)
    with pytest.raises(SpoolUnusable, match="12345"):
        spool.check()


def test_a_link_for_a_folder_is_refused(spool: Spool, tmp_path: Path) -> None:
    spool.folder.parent.mkdir()
    spool.folder.symlink_to(tmp_path)
    with pytest.raises(SpoolUnusable):
        spool.put(picture())


def test_half_files_of_long_ago_are_cleared_away_and_new_ones_are_not(spool: Spool) -> None:
    # Given a half file of a process that was killed long ago, and one that is being written
    spool.check()
    old, new = spool.folder / ".old.part", spool.folder / ".new.part"
    for file in (old, new):
        file.write_bytes(b"half")
    past = old.stat().st_mtime - 2 * ABANDONED_SECONDS
    os.utime(old, (past, past))

    # When a worker starts
    spool.check()

    # Then neither was taken for a picture, and the old one is gone
    assert spool.names() == [] and not old.exists() and new.exists()


def told(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A picture's file with another head, whose length and hash are right."""
    whole = picture().dump()
    first, rest = whole.split(b"\n", 1)
    length = int(first.split()[2])
    head = json.loads(rest[:length])
    change(head)
    new = json.dumps(head).encode()
    return b"portraits-spool 1 %d %s\n%s%s" % (
        len(new),
        hashlib.sha256(new).hexdigest().encode(),
        new,
        rest[length:],
    )


def renamed(key: str) -> Callable[[dict[str, Any]], None]:
    """Name another object in the row and in the object's head alike."""

    def change(head: dict[str, Any]) -> None:
        head["drawn"]["storage_key"] = head["objects"][0]["key"] = key

    return change


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "not ours": b"\x89PNG\r\n",
    "pickle": b"\x80\x04\x95cos\nsystem\n",
    "cut in the head": picture().dump()[:200],
    "cut in the picture": picture().dump()[:-12],
    "one byte more": picture().dump() + b"x",
    "another byte": picture().dump()[:-1] + b"x",
    "a head too long": b"portraits-spool 1 9999999 " + b"0" * 64 + b"\n",
    "up and out": told(renamed("../../etc/cron.d/x")),
    "absolute": told(renamed("/etc/passwd")),
    "another tenant": told(renamed("globex/photos/7.png")),
    "another render": told(renamed(f"acme/{uuid.UUID(int=2)}/{uuid.UUID(int=6)}/7.png")),
    "another token": told(renamed(f"acme/{uuid.UUID(int=2)}/{uuid.UUID(int=5)}/70.png")),
    "a folder below": told(renamed(f"acme/{uuid.UUID(int=2)}/{uuid.UUID(int=5)}/7.x/../../y.png")),
    "no such object": told(lambda head: head["drawn"].update(sha256="0" * 64)),
    "objects missing": told(lambda head: head.update(objects=head["objects"][:1])),
    "unknown field": told(lambda head: head.update(run="rm -rf /")),
    "text for a number": told(lambda head: head.update(seed="3")),
    "web page": told(lambda head: head["objects"][0].update(media_type="text/html")),
    "of another unit": told(lambda head: head["unit"].update(id=str(uuid.UUID(int=99)))),
    "tenant that climbs": told(lambda head: head["unit"].update(tenant_id="..")),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_set_aside_told_and_harmless(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    # Given a file in the spool that nobody here wrote like that, before a good one of a unit that is not there
    spool.put(picture())
    (name,) = spool.names()
    (spool.folder / name).write_bytes(content)
    store = FolderStorage(tmp_path / "objects")

    # When the committer looks
    database = _NoDatabase()
    assert commit_all(database, store, spool) == 0  # type: ignore[arg-type]

    # Then it is kept under another name, the log says so, and neither store nor database was touched
    assert spool.names() == [] and spool.damaged() == [f"{name}.damaged"]
    assert "damaged and set aside" in caplog.text
    assert not (tmp_path / "objects").exists() and database.asked == 0


class _NoDatabase:
    """Counts what is asked of it."""

    asked = 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        raise AssertionError(name)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_read(spool: Spool, tmp_path: Path, kind: str) -> None:
    # Given something else under a picture's name
    spool.put(picture())
    (name,) = spool.names()
    place, outside = spool.folder / name, tmp_path / "outside"
    outside.write_bytes(place.read_bytes())
    place.unlink()
    {"link": lambda: place.symlink_to(outside), "pipe": lambda: os.mkfifo(place), "folder": place.mkdir}[kind]()

    # When it is read, then it is refused, and can be set aside
    with pytest.raises(SpoolDamaged):
        spool.read(name)
    spool.set_aside(name)
    assert spool.names() == [] and outside.exists()


@tuned(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), byte=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, byte: int) -> None:
    # Given a picture with one byte changed anywhere
    whole = bytearray(picture().dump())
    whole[place % len(whole)] ^= byte

    # When it is read, then it is refused
    with pytest.raises(SpoolDamaged):
        Spooled.load(bytes(whole))


def test_a_picture_nobody_knows_is_let_go_and_one_at_fault_blocks_no_other(
    spool: Spool, database: Database, tmp_path: Path
) -> None:
    # Given two pictures of units that the database does not know, as after an erasure
    spool.put(picture(7))
    spool.put(picture(8))
    store: Any = FaultyStore(FolderStorage(tmp_path / "objects"))

    # When the committer meets a fault with the first, which is not the store's absence
    reads = []
    real = database.reading

    def reading() -> Any:
        reads.append(1)
        if len(reads) == 1:
            raise RuntimeError("unforeseen")
        return real()

    database.reading = reading  # type: ignore[method-assign]
    commit_all(database, store, spool)

    # Then that one stays for later and the other was seen to
    assert len(spool.names()) == 1

    # When the store is away, then nothing is let go of that has objects to be removed; it is only logged
    database.reading = real  # type: ignore[method-assign]
    store.away.set()
    store.fault = StorageUnavailable("503")
    commit_all(database, store, spool)
    assert spool.names() == []


def test_a_file_that_cannot_be_read_blocks_no_other(
    spool: Spool, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two pictures of units that the database does not know, and a disk that cannot read the first
    spool.put(picture(7))
    spool.put(picture(8))
    first, real = spool.names()[0], spool.read

    def read(name: str) -> Spooled:
        if name == first:
            raise SpoolUnusable("input/output error")
        return real(name)

    monkeypatch.setattr(spool, "read", read)

    # When the committer looks, then it tells of the first, and the second was seen to
    with pytest.raises(SpoolUnusable, match="input/output"):
        commit_all(database, FolderStorage(tmp_path / "objects"), spool)
    assert spool.names() == [first]


def test_doctor_tells_what_waits_and_what_is_damaged(tmp_path: Path) -> None:
    # Given a home without a spool, then with a picture and a damaged file in it
    home = Settings(home=tmp_path)
    before = [(found.state, found.detail.split()[0]) for found in spool_findings(home)]
    spool = Spool.from_settings(home)
    spool.put(picture(7))
    spool.put(picture(8))
    spool.set_aside(spool.names()[0])

    # When doctor looks, then it tells both, and makes nothing where there was nothing
    after = [(found.state, found.detail.split()[0]) for found in spool_findings(home)]
    assert (before, after) == ([("ok", "0")], [("note", "1"), ("note", "1")])
