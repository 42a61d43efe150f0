"""What the benchmarks share: the lines of their commands, the device, and how a result is written.

    parser = common.parser(__doc__, repeat=3)             # --device --dtype --model --toy --repeat --json --out
    options = common.parsed(parser, arguments)            # with .device and .dtype of torch
    turns = common.take_rounds({"ours": act, "theirs": act}, options)  # ways in turn, in an order that rotates
    common.finish("job", {...}, "| a table |", options)   # prints Markdown, writes NAME.json and NAME.md

Those that go through the product take `common.add_profile_lines(parser)` too, and `common.settings(options, home)`.
Every result is one JSON object: `bench`, `machine` (see `bench.facts`), `asked` (the command's lines), and what was
found, numbers in the units that their names say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.facts import facts, told
from bench.turns import Spread, Turns, take_turns, timed, wait
from jobs.settings import Settings

__all__ = [
    "DTYPES",
    "RESULTS",
    "Spread",
    "Turns",
    "add_profile_lines",
    "finish",
    "numbers",
    "parsed",
    "parser",
    "settings",
    "table",
    "take_rounds",
    "take_turns",
    "timed",
    "wait",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NO_DEVICE = 3
"""Exit code: what is asked for is not here."""


def parser(doc: str | None, *, repeat: int = 3) -> argparse.ArgumentParser:
    """The lines that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="auto", help="cuda, cpu, or auto: a GPU where there is one")
    made.add_argument("--dtype", choices=tuple(DTYPES), help="default: float16 on a GPU, float32 on a CPU")
    made.add_argument("--model", choices=("mini", "sdxl"), help="sizes of the networks; default: sdxl on a GPU")
    made.add_argument("--toy", action="store_true", help="as little as shows that the program works")
    made.add_argument("--repeat", type=int, default=repeat, help="rounds that are measured")
    made.add_argument("--warm-up", type=int, default=1, help="rounds before that")
    made.add_argument("--json", type=Path, help="write the result into this file")
    made.add_argument("--out", type=Path, help="write NAME.json and NAME.md into this folder")
    return made


def add_profile_lines(made: argparse.ArgumentParser) -> None:
    """The lines of those that load a profile as a worker does; without a name it follows --model."""
    made.add_argument("--profile", help="default: mini, or with --model sdxl a full-size one with random weights")
    made.add_argument("--profiles-file", type=Path)
    made.add_argument("--random", type=Path, help="where the random full-size models lie, or are made (10 GB)")


def parsed(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The lines read: device, number type and model chosen. Ends the program with 3 where there is no such device."""
    options = made.parse_args(arguments)
    options.device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print("a CUDA device is asked for, none is here; --device cpu --toy runs anywhere", file=sys.stderr)
        raise SystemExit(NO_DEVICE)
    on_gpu = options.device.type == "cuda"
    options.dtype = DTYPES[options.dtype or ("float16" if on_gpu else "float32")]
    options.model = options.model or ("sdxl" if on_gpu and not options.toy else "mini")
    if options.toy:
        options.repeat, options.warm_up = 1, 0
    return options


def settings(options: argparse.Namespace, home: Path) -> Settings:
    """For a worker with a home, database and storage of its own; sets `options.profile`.

    Random full-size models are made where they are asked for and missing.
    """
    if options.profile is None and options.model == "sdxl":
        from bench.random_pack import random_profile

        options.profile, options.profiles_file = random_profile(
            options.random or ROOT / ".portraits" / "random", options
        )
    options.profile = options.profile or "mini"
    return Settings(home=home, profile=options.profile, profiles_file=options.profiles_file, device=options.device.type)


def take_rounds(ways: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> Turns:
    """As many rounds as the command's lines say; see `bench.turns`."""
    return take_turns(ways, repeat=options.repeat, warm_up=options.warm_up, device=options.device)


def numbers(text: str) -> list[int]:
    """`1,2,4` of a command line."""
    return [int(each) for each in text.split(",")]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def finish(name: str, found: Mapping[str, Any], told_as: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print what was found as Markdown, and write it where the command says; answers with the whole result."""
    machine = facts(options.device)
    asked = {key: _plain(value) for key, value in vars(options).items() if key not in ("json", "out")}
    result = {"bench": name, "machine": machine, "asked": asked, **_plain(dict(found))}
    text = f"{told(machine)}\n\n{told_as}\n"
    print(text)
    for file in _files(name, options):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = text if file.suffix == ".md" else json.dumps(result, indent=1, allow_nan=False) + "\n"
        file.write_text(content, encoding="utf-8")
        print(f"written: {file}", file=sys.stderr)
    return result


def _files(name: str, options: argparse.Namespace) -> list[Path]:
    beside = [] if options.out is None else [options.out / f"{name}.json", options.out / f"{name}.md"]
    return beside if options.json is None else [options.json, *beside]


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, Spread):
        return value.json()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
