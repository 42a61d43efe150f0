"""The output that the docs show is what the commands print; and what the comparison makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stacks import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import doc_output


@pytest.mark.parametrize("page", doc_output.PAGES)
def test_a_page_shows_what_its_commands_print(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    renewed, faults = doc_output.run_page(text)
    assert faults == [], "\n".join(faults)
    assert renewed.count("$ portraits") == text.count("$ portraits") > 5


def test_ids_seconds_and_widths_may_differ_and_nothing_else() -> None:
    shown = ["  job       01a223b8-6285-700c-86c5-8a49e090fb47", "drawn in 12.3 s", "3 people"]
    printed = ["  job  01a223bd-db14-719d-b2fd-d83655606d45", "drawn in 4 s", "", "3 people"]
    assert doc_output.agree(shown, printed)
    assert not doc_output.agree(shown, [*printed[:3], "4 people"])
    assert not doc_output.agree(shown, printed[:2])
    assert not doc_output.agree(shown, [*printed, "and a warning"])


def test_dots_stand_for_any_lines_and_for_nothing_else() -> None:
    assert doc_output.agree(["...", "done: 3 done"], ["1/3 drawn", "2/3 drawn", "done: 3 done"])
    assert doc_output.agree(["...", "done: 3 done"], ["done: 3 done"])
    assert not doc_output.agree(["...", "done: 3 done"], ["1/3 drawn", "partial: 2 done, 1 failed"])


def test_a_page_is_written_anew_with_its_dots() -> None:
    # Given a page whose output is old
    page = "Text.\n\n```console\n$ printf 'one\\ntwo\\nthree\\n'\n...\n4\n$ echo hello\nbye\n```\n\nMore text.\n"

    # When it is run
    renewed, faults = doc_output.run_page(page)

    # Then the new output stands there, the dots where they were, and both differences are told
    assert (
        renewed
        == "Text.\n\n```console\n$ printf 'one\\ntwo\\nthree\\n'\n...\nthree\n$ echo hello\nhello\n```\n\nMore text.\n"
    )
    assert [fault for fault in faults if fault.startswith("$ ")] == ["$ printf 'one\\ntwo\\nthree\\n'", "$ echo hello"]
    assert doc_output.run_page(renewed) == (renewed, [])


def test_a_command_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with code 3:\nno such thing"):
        doc_output.run_page("```console\n$ echo no such thing; exit 3\n```\n")
    with pytest.raises(ValueError, match="wanted a command"):
        doc_output.steps("output without a command\n")
