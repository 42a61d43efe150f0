"""Arguments that no database and no calendar can hold are refused or answered, never a traceback."""

from __future__ import annotations

import pytest
from cli_world import CliWorld


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("archive", "--older-than", "30000d"), 0),  # 1944: before every clock of computers
        (("archive", "--older-than", "36525d"), 0),
        (("archive", "--older-than", "36526d"), 2),
        (("archive", "--older-than", "5000000d"), 2),
        (("archive", "--older-than", "999999999w"), 2),
        (("archive", "--older-than", "1d", "--limit", "9" * 20), 2),
        (("sweep", "--older-than", "36525d"), 0),
        (("sweep", "--older-than", "999999999w"), 2),
        (("results", "--after", str(2**63 - 1)), 0),
        (("results", "--after", "9" * 20), 2),
        (("status", "--tenant", "\udcff"), 2),
        (("results", "\udcff"), 2),
        (("--json", "\udcff"), 2),
    ],
)
def test_hostile_arguments_have_an_exit_code(cli: CliWorld, arguments: tuple[str, ...], exit_code: int) -> None:
    # Given a job, when something hostile is asked, then the answer is documented and no fault of ours
    cli.enqueue()
    told = cli.run(*arguments, exit_code=exit_code)
    assert "Traceback" not in told.output


def test_a_length_that_is_too_long_says_how_long_it_may_be(cli: CliWorld) -> None:
    cli.migrate()
    told = cli.json("archive", "--older-than", "5000000d", exit_code=2)["error"]
    assert told["code"] == "usage" and "a hundred years at most" in told["message"]


def test_bytes_that_are_no_text_are_named(cli: CliWorld) -> None:
    told = cli.json("status", "--tenant", "\udcff", exit_code=2)["error"]["message"]
    assert r"'\udcff' is no text in UTF-8; name it otherwise" in told
