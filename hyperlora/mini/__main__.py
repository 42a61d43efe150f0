"""`python -m hyperlora.mini sheet|photos|pack`: see the mini world."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    given = parser.parse_args(arguments)
    if given.command == "sheet":
        from hyperlora.mini.sheet import people_sheet

        people_sheet(given.people, given.portraits, given.first, given.size, given.style).save(given.out)
        print(given.out)
    elif given.command == "photos":
        from hyperlora.mini.photos import write_photos

        for path in write_photos(given.folder):
            print(path)
    else:
        from hyperlora.mini.pack import build_untrained_pack

        print(build_untrained_pack(given.folder, given.seed))


if __name__ == "__main__":
    main()
