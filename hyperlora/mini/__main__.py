"""`python -m hyperlora.mini sheet|photos|pack|train`: see the mini world, and train it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="python -m hyperlora.mini", description="People who do not exist.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("sheet", help="a contact sheet of people and their portraits")
    one.add_argument("out", type=Path)
    one.add_argument("--people", type=int, default=12)
    one.add_argument("--portraits", type=int, default=6)
    one.add_argument("--first", type=int, default=2_000_000, help="the first person's seed")
    one.add_argument("--style", choices=("plain", "watercolour", "sketch", "cyberpunk"))
    one.add_argument("--size", type=int, default=192)
    two = commands.add_parser("photos", help="the example photographs")
    two.add_argument("folder", type=Path)
    three = commands.add_parser("pack", help="the untrained model pack")
    three.add_argument("folder", type=Path)
    three.add_argument("--seed", type=int, default=0)
    _add_train(commands)
    given = parser.parse_args(arguments)
    if given.command == "sheet":
        from hyperlora.mini.sheet import people_sheet

        people_sheet(given.people, given.portraits, given.first, given.size, given.style).save(given.out)
        print(given.out)
    elif given.command == "photos":
        from hyperlora.mini.photos import write_photos

        for path in write_photos(given.folder):
            print(path)
    elif given.command == "train":
        _train(given)
    else:
        from hyperlora.mini.pack import build_untrained_pack

        print(build_untrained_pack(given.folder, given.seed))


def _add_train(commands: Any) -> None:
    four = commands.add_parser("train", help="train the whole pack from nothing, in slots")
    four.add_argument("--size", choices=("tiny", "full"), default="tiny", help="for two CPU cores, or for a GPU")
    four.add_argument("--work", type=Path, required=True, help="everything that is made on the way")
    four.add_argument("--pack", type=Path, required=True, help="where the finished pack goes")
    four.add_argument("--judge", type=Path, required=True, help="where the judge goes")
    four.add_argument("--slot", action="append", help="only this slot (may be repeated); default: all that are left")
    four.add_argument("--minutes", type=float, default=float("inf"), help="a slot's longest time; it is resumed later")
    four.add_argument("--device", default="cpu")
    four.add_argument("--check", action="store_true", help="only measure again what a finished --slot brought")


def _train(given: argparse.Namespace) -> None:
    """Run the slots in order; one that is not finished in its time ends the run with exit code 1."""
    from hyperlora.mini.learn.sizes import SIZES
    from hyperlora.mini.learn.slots import CHECKED, TWINS, Slots

    slots = Slots(
        SIZES[given.size], given.work, given.pack, given.judge, given.device, 60 * given.minutes,
        tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    wanted = given.slot or ([name for name in CHECKED if name not in TWINS] if given.check else slots.names())
    if unknown := sorted(set(wanted) - {*slots.names(), *TWINS}):
        sys.exit(f"no such slot: {', '.join(unknown)}; there are {', '.join((*slots.names(), *TWINS))}")
    for name in wanted:
        print(f"== {name}", flush=True)
        if given.check:
            slots.check(name)
        elif not slots.run(name):
            sys.exit(f"{name} is not finished; run the same command again to go on")


if __name__ == "__main__":
    main()
