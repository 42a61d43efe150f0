"""`portraits check`: what is no regular file, and debug pictures that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_world import CliWorld

OMAR = Path(__file__).resolve().parents[3] / "examples" / "photos" / "omar-1.jpg"


@pytest.mark.parametrize("where", ["taken", "taken/below", "/dev/null/below", "/proc/below"])
def test_debug_pictures_that_cannot_be_written_are_the_environments_fault(cli: CliWorld, where: str) -> None:
    # Given a file where the folder should be, or a place where nobody can make one
    (cli.folder / "taken").write_bytes(b"mine")

    # When debug pictures are asked for there, then the answer says which cannot be written
    error = cli.json("check", OMAR, "--debug", where, exit_code=3)["error"]
    assert error["code"] == "output_refused" and where in error["message"]
    assert (cli.folder / "taken").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["pipe.jpg", "device.jpg", "pipe.yaml"])
def test_a_pipe_or_device_is_not_opened(cli: CliWorld, name: str) -> None:
    # Given a pipe that nobody writes to, or a device that never ends
    if name == "device.jpg":
        (cli.folder / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(cli.folder / name)

    # When it is checked, then it is refused as bad input
    assert "is no regular file" in cli.json("check", name, exit_code=2)["error"]["message"]


def test_a_pipe_in_a_folder_is_left_out(cli: CliWorld) -> None:
    # Given a folder with a photo, a pipe and a folder with a photo's name
    folder = cli.folder / "omar"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(OMAR.read_bytes())
    os.mkfifo(folder / "2.jpg")
    (folder / "3.jpg").mkdir()

    # When it is checked, then only the photo is looked at
    (omar,) = cli.json("check", folder)["people"]
    assert [Path(photo["photo"]).name for photo in omar["photos"]] == ["1.jpg"]
