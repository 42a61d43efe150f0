"""Write docs/reference/cli.md from the commands themselves: `python scripts/cli_reference.py [--check]`."""

from __future__ import annotations

import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from worker.cli.app import app
from worker.cli.exits import MEANING, Exit

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Every command of `portraits`, as `--help` tells it; settings are in [their own table](../settings.md). `--json` gives
JSON on stdout wherever it helps, for errors too. This page is written by `scripts/cli_reference.py`.
"""
_MARKUP = re.compile(r"\[/?(?:bold|dim|italic|red|green|yellow|cyan)?\]")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    yield from _below("portraits", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, one in inner.items():
        if not one.hidden:
            yield from _below(f"{name} {word}", one)


def options_of(command: Any) -> set[str]:
    """Every spelling of a command's options, such as `--json`."""
    return {text for one in command.params for text in (*one.opts, *one.secondary_opts) if text.startswith("-")} | {
        "--help",
        "-h",
    }


def page() -> str:
    """The whole page."""
    found = list(commands())
    parts = [HEAD, "\n"]
    parts += [f"- [`{name}`](#{name.replace(' ', '-')}): {_first_line(one)}\n" for name, one in found]
    parts += [_section(name, one) for name, one in found]
    parts.append("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
    parts += [f"| {Exit(code):d} | {meaning} |\n" for code, meaning in MEANING.items()]
    return "".join(parts)


def _first_line(command: Any) -> str:
    return _plain(inspect.cleandoc(command.help or "").split("\n\n")[0])


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not getattr(one, "hidden", False)]
    line = " ".join([name, *(_metavar(one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"\n## {name}\n\n```\n{line}\n```\n\n{_text(command)}\n"]
    if rows := [_row(one) for one in (*arguments, *options)]:
        parts += ["\n| | meaning | default |\n|---|---|---|\n", *rows]
    return "".join(parts)


def _text(command: Any) -> str:
    paragraphs = inspect.cleandoc(command.help or "").replace("\b", "").split("\n\n")
    return "\n\n".join(_plain(one) for one in paragraphs)


def _plain(text: str) -> str:
    return _MARKUP.sub("", " ".join(text.split())).replace("<", "&lt;")


def _metavar(argument: Any) -> str:
    name = argument.metavar or str(argument.name).upper()
    shown = name if argument.required or name.startswith("[") else f"[{name}]"
    return f"{shown}..." if argument.nargs == -1 and "..." not in shown else shown


def _row(one: Any) -> str:
    if one.param_type_name == "argument":
        name = _metavar(one)
    else:
        name = ", ".join((*one.opts, *one.secondary_opts))
        if not one.is_flag and not one.count:
            name += f" {one.metavar or _kind(one)}"
    default = _default(one)
    meaning = _plain(getattr(one, "help", None) or "").replace("|", "\\|")
    return f"| `{name.replace('|', chr(92) + '|')}` | {meaning} | {default} |\n"


def _kind(option: Any) -> str:
    """The word that stands for the option's value: that of its type, or the values that there are."""
    kinds = typing.get_args(option.type_descriptor.annotation) or (option.type_descriptor.annotation,)
    kind = next(one for one in kinds if one is not type(None))
    if isinstance(kind, enum.EnumType):
        return "/".join(str(one.value) for one in kind)
    return {"int": "NUMBER", "float": "NUMBER", "Path": "PATH"}.get(kind.__name__, "TEXT")


def _default(one: Any) -> str:
    value = one.default
    if (
        value is None
        or value is False
        or value == ()
        or one.required
        or callable(value)
        or "UNSET" in repr(value).upper()
    ):
        return ""
    return f"`{getattr(value, 'value', value)}`"


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page(), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page():
        sys.exit("docs/reference/cli.md is not what the commands say; run python scripts/cli_reference.py")
