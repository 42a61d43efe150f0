"""The folder store: atomic, one winner, no way out, errors by what can be done about them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import BadKey, ObjectExists, ObjectMissing, StorageDenied, StorageFull, StorageUnavailable
from jobs.storage import Entry
from jobs.storage_folder import FolderStorage

PNG = "image/png"


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "objects")


def _files(storage: FolderStorage) -> set[str]:
    return {path.relative_to(storage.root).as_posix() for path in storage.root.rglob("*") if path.is_file()}


def test_put_get_list_delete(storage: FolderStorage) -> None:
    # Given three objects
    for key in ("acme/a.png", "acme/b/c.png", "other/d.png"):
        storage.put(key, key.encode(), content_type=PNG)
    # Then they are found by key and by text prefix, as on S3
    assert storage.get("acme/b/c.png") == b"acme/b/c.png"
    assert set(storage.list("")) == {"acme/a.png", "acme/b/c.png", "other/d.png"}
    assert set(storage.list("acme/")) == {"acme/a.png", "acme/b/c.png"}
    assert set(storage.list("acme/b")) == {"acme/b/c.png"}
    assert set(storage.list("ac")) == {"acme/a.png", "acme/b/c.png"}
    assert list(storage.list("nothing/here")) == []
    assert Path(storage.url("acme/a.png", 60).removeprefix("file://")).read_bytes() == b"acme/a.png"
    # And when one is deleted, twice, it is gone and the others stay
    storage.delete("acme/a.png")
    storage.delete("acme/a.png")
    assert not storage.exists("acme/a.png")
    assert storage.exists("acme/b/c.png")
    assert (storage.size("acme/a.png"), storage.size("acme/b/c.png")) == (None, len(storage.get("acme/b/c.png")))
    with pytest.raises(ObjectMissing):
        storage.get("acme/a.png")


def test_entries_tell_size_and_age(tmp_path: Path) -> None:
    # Given an object that was written at a known moment
    storage = FolderStorage(tmp_path)
    storage.put("acme/a.png", b"12345", content_type="image/png")
    os.utime(tmp_path / "acme" / "a.png", (1_000.0, 1_000.0))

    # When it is listed, then its size and that moment are told
    assert list(storage.entries("acme/")) == [Entry("acme/a.png", 5, 1_000.0)]


def test_the_last_writer_wins_unless_the_write_is_conditional(storage: FolderStorage) -> None:
    storage.put("k", b"1", content_type=PNG)
    storage.put("k", b"2", content_type=PNG)
    with pytest.raises(ObjectExists):
        storage.put("k", b"3", content_type=PNG, if_absent=True)
    assert storage.get("k") == b"2"
    assert _files(storage) == {"k"}  # nothing half-made is left


def test_of_many_conditional_writers_exactly_one_wins(storage: FolderStorage) -> None:
    # Given 16 threads that are let loose at one moment
    gate, won = threading.Barrier(16), []

    def write(number: int) -> None:
        gate.wait()
        try:
            storage.put("race/k", str(number).encode() * 1000, content_type=PNG, if_absent=True)
        except ObjectExists:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then one has won, and the object is whole and its own
    assert len(won) == 1
    assert storage.get("race/k") == str(won[0]).encode() * 1000
    assert _files(storage) == {"race/k"}


@pytest.mark.parametrize(
    ("number", "error", "retryable"),
    [
        (errno.ENOSPC, StorageFull, True),
        (errno.EDQUOT, StorageFull, True),
        (errno.EACCES, StorageDenied, False),
        (errno.EROFS, StorageDenied, False),
        (errno.EIO, StorageUnavailable, True),
    ],
)
def test_a_write_that_fails_leaves_the_old_object_and_no_remains(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], retryable: bool
) -> None:
    # Given an object, and a disk that refuses to flush
    storage.put("k", b"old", content_type=PNG)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refuse)
        # When it is written again
        with pytest.raises(error) as caught:
            storage.put("k", b"new", content_type=PNG)
    # Then the error says what it is, and the old object is whole
    assert caught.value.retryable is retryable  # type: ignore[attr-defined]
    assert storage.get("k") == b"old"
    assert _files(storage) == {"k"}


def test_a_file_system_without_hard_links_is_named(storage: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageDenied, match="hard links"):
        storage.put("k", b"x", content_type=PNG, if_absent=True)
    assert _files(storage) == set()


def test_links_inside_the_store_are_not_followed(storage: FolderStorage, tmp_path: Path) -> None:
    # Given a folder outside, and links to it and to a file in it, planted in the store
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    storage.put("a/k", b"x", content_type=PNG)
    (storage.root / "door").symlink_to(outside)
    (storage.root / "a" / "window").symlink_to(outside / "secret")
    # Then neither reading nor writing goes through them, and they are not listed
    for key in ("door/secret", "a/window"):
        with pytest.raises(BadKey):
            storage.get(key)
    with pytest.raises(BadKey):
        storage.put("door/new", b"x", content_type=PNG)
    assert not storage.exists("a/window")
    assert list(storage.list("")) == ["a/k"]
    assert list(storage.list("door/")) == []
    # And writing under a link's own name replaces the link, not what it points to
    storage.put("a/window", b"mine", content_type=PNG)
    assert (outside / "secret").read_bytes() == b"secret"
    assert storage.get("a/window") == b"mine"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_file_where_a_folder_should_be(storage: FolderStorage) -> None:
    storage.put("a", b"x", content_type=PNG)
    with pytest.raises(BadKey):
        storage.put("a/b", b"x", content_type=PNG)
    storage.put("c/d", b"x", content_type=PNG)
    with pytest.raises(ObjectMissing):
        storage.get("c")


def test_a_pipe_in_the_store_does_not_hang_the_reader(storage: FolderStorage) -> None:
    storage.put("a/k", b"x", content_type=PNG)
    os.mkfifo(storage.root / "a" / "pipe")
    with pytest.raises(ObjectMissing):
        storage.get("a/pipe")


def test_check_makes_the_folder_and_leaves_nothing(storage: FolderStorage) -> None:
    storage.check()
    assert _files(storage) == set()
    assert storage.describe() == f"folder {storage.root}"


def test_check_names_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadKey):
        FolderStorage(tmp_path / "file" / "objects").check()
