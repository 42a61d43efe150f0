"""`portraits dataset prepare` and `inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from photo_box import Made
from typer.testing import CliRunner, Result

from worker.cli.app import app


def run(*arguments: object, exit_code: int = 0) -> Result:
    """Run a command in this process and expect its exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="portraits")
    assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
    return result


def test_prepare_answers_with_what_became_of_the_photos(photos: Path, tmp_path: Path) -> None:
    # When one person's photos are prepared, small, without networks
    command = ["dataset", "prepare", photos / "ada", "-o", tmp_path / "set", "--size", 64, "--min-face", 40]
    told = json.loads(run(*command, "--allow", "dark_face", "--min-sharpness", 0, "--json").stdout)
    # Then the options were heard: the dark and the blurred one are kept too
    assert (told["count"], told["looked_at"], told["dropped"]) == (4, 5, {"bad_picture": 1})
    assert (told["shards"], told["shards_resumed"], told["clip_tokens"]) == (1, 0, None)
    # And for people there are words; a second call goes on from what is there
    said = run(*command, "--allow", "dark_face", "--min-sharpness", 0).output
    assert "4 of 5 photos kept" in said and "1 dropped: bad_picture" in said and "taken as they are" in said
    # And other settings are refused, with a code that scripts can read
    refused = json.loads(run(*command, "--json", exit_code=2).stdout)
    assert refused["error"]["code"] == "dataset_conflict"


def test_inspect_says_what_a_set_is(made: Made) -> None:
    said = run("dataset", "inspect", made.folder).output
    assert "4 portraits of 96 pixels" in said and "128 numbers of opencv-yunet-sface" in said
    assert "as it was written" in said


def test_inspect_fails_on_a_changed_set(made: Made, tmp_path: Path) -> None:
    # Given a set without its shards
    (tmp_path / "dataset.json").write_bytes((made.folder / "dataset.json").read_bytes())
    # Then the exit code says that something is wrong, and the answer what
    told = json.loads(run("dataset", "inspect", tmp_path, "--json", exit_code=1).stdout)
    assert len(told["faults"]) == 2 * told["shards"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow", "no_face"], "turned_face"),
        (["--template", "a person"], "--captions template"),
    ],
)
def test_options_that_cannot_be(photos: Path, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in run("dataset", "prepare", photos, "-o", tmp_path / "set", *options, exit_code=2).output


def test_a_folder_that_is_no_set(tmp_path: Path) -> None:
    assert "no prepared data set" in run("dataset", "inspect", tmp_path, exit_code=2).output
