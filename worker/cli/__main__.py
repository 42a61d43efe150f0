"""`python -m worker.cli`: the command line for launchers that start modules, such as `accelerate launch -m`."""

from __future__ import annotations

from worker.cli import main

if __name__ == "__main__":
    main()
