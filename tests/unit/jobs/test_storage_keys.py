"""Which keys and storage URLs are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import BadKey, SettingsInvalid
from jobs.settings import Settings
from jobs.storage import check_key, open_storage, split_s3_url
from jobs.storage_folder import FolderStorage
from jobs.storage_s3 import S3Storage


@pytest.mark.parametrize("key", ["a", "acme/photos/ab/abcd.jpg", "Ünï/ço de.png", "a" * 255, "/".join(["ab"] * 341)])
def test_keys_that_stay_inside_are_taken(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        "../a",
        "a/../b",
        "a/./b",
        ".hidden",
        "a/.part",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "\ud800",
        "a" * 256,
        "é" * 128,  # 256 bytes of UTF-8
        "/".join(["ab"] * 342),  # 342 * 2 + 341 = 1025 bytes
    ],
)
def test_keys_that_could_leave_or_break_are_refused(key: str) -> None:
    with pytest.raises(BadKey):
        check_key(key)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///data/objects", "/data/objects"),
        ("file://localhost/data", "/data"),
        ("file:///my%20folder/100%25", "/my folder/100%"),
    ],
)
def test_file_urls(url: str, folder: str, settings: Settings) -> None:
    storage = open_storage(url, settings)
    assert isinstance(storage, FolderStorage)
    assert storage.root == Path(folder)


def test_s3_urls(settings: Settings) -> None:
    storage = open_storage("s3://bucket/a/b/", settings)
    assert isinstance(storage, S3Storage)
    assert (storage.bucket, storage.prefix) == ("bucket", "a/b/")
    assert split_s3_url("s3://bucket") == ("bucket", "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/data",
        "http://host/x",
        "file://host/share",
        "file://relative",
        "file:///a?b",
        "file:///a#b",
        "file:///a%00b",
        "s3://",
        "s3:///key",
        "s3://UPPER/x",
        "s3://user:secret@bucket/x",
        "s3://bucket/../x",
    ],
)
def test_other_urls_are_refused_and_the_message_says_what_was_wanted(url: str, settings: Settings) -> None:
    with pytest.raises(SettingsInvalid):
        open_storage(url, settings)


def test_the_default_folder_survives_odd_characters_in_its_path(tmp_path: Path) -> None:
    # Given a home whose name holds characters that URLs treat specially
    home = tmp_path / "100% #1 home?"
    # When the store of the default settings is opened
    storage = open_storage(Settings(home=home).storage_url, Settings(home=home))
    # Then it lies where the home is
    assert isinstance(storage, FolderStorage)
    assert storage.root == home.resolve() / "objects"
