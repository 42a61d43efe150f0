"""docs/lora.md and the README: commands and programs on LoRA files, taken from the pages and run with the mini pack."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_world import CliWorld
from PIL import Image

from jobs.presets import PRESETS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """A page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def folder(cli: CliWorld, pack: Path) -> None:
    """A folder as the pages have it: photos, and the pack."""
    shutil.copytree(ROOT / "examples" / "photos", cli.folder / "photos")
    (cli.folder / "pack").symlink_to(pack, target_is_directory=True)


def run_all(cli: CliWorld, page: str) -> set[str]:
    """Run a page's commands in their order; each must end well and write what it names. The commands that were run."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("portraits lora")]
    commands = [shlex.split(line, comments=True) for line in lines]
    for command in commands:
        cli.run(*command[1:])
        if "--out" in command:
            assert Path(command[command.index("--out") + 1]).stat().st_size > 10_000
    return {command[2] for command in commands}


def test_the_readmes_commands(cli: CliWorld) -> None:
    assert run_all(cli, README) == {"generate", "inspect"}


def test_the_pages_commands_and_programs(cli: CliWorld) -> None:
    # When every command is run, then there is one of each kind
    assert run_all(cli, PAGE) == {"generate", "mix", "slide", "convert", "inspect", "refine", "strip"}

    # And the programs, one after the other
    names: dict[str, Any] = {}
    for who, number in (("ada", 1), ("ada", 2), ("ada", 4), ("alan", 1)):
        names[f"{who}_{number}"] = Image.open(ROOT / "examples" / "photos" / f"{who}-{number}.jpg")
    for program in blocks(PAGE, "python"):
        exec(compile(program, "lora.md", "exec"), names)
    assert names["images"][0].size == (128, 128) and names["full"][0].size == (128, 128)
    assert names["same"].equals(names["ada"])


def test_the_table_of_presets_is_the_codes() -> None:
    found = {}
    for names, scheduler, steps in re.findall(r"^\| (`[a-z0-9-]+`.*?) \| `(\w+)` \| ([\d, ]+) \|$", PAGE, re.MULTILINE):
        for name, count in zip(re.findall(r"`([^`]+)`", names), steps.split(","), strict=True):
            found[name] = (scheduler, int(count))
    assert found == {name: (preset["scheduler"], preset["steps"]) for name, preset in PRESETS.items()}
