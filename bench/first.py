#!/usr/bin/env python
"""Seconds from enqueueing to the first recorded picture: in a new process, in a restarted one, in one that has drawn.

    python bench/first.py                      toy size: the mini pack on a CPU
    python bench/first.py --device cuda        SDXL with random weights

    cold         a process that starts when the job is enqueued; nothing compiled on disk
    restarted    the same once more, with what the first one left on disk
    warm         a worker that has drawn such a job before

The first two count from before Python starts: imports, weights, and compiling what a worker compiles that is told
nothing else, are part of them. What comes first is a batch, so a larger one comes later.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import common
from bench.product import Product, add_job_lines
from worker.quiet import quiet_libraries

WAYS = ("cold", "restarted", "warm")
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Where the compiler keeps what it made, unless the worker says otherwise."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Two processes one after the other with one home, and jobs in this one."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        common.settings(options, home)  # makes the random models, which are nobody's first picture
        found = {name: _in_a_process(options, home) for name in ("cold", "restarted")}
        product = Product(options, Path(folder) / "warm")
        asked = product.asked(options)
        seconds = [product.job(asked).first_seconds for _ in range(options.warm_up + options.repeat)][options.warm_up :]
        product.close()
    return {
        "profile": options.profile,
        "size": asked.size,
        "steps": asked.steps,
        "batch": asked.batch,
        "seconds": {**found, "warm": common.Spread.of(seconds)},
    }


def _in_a_process(options: argparse.Namespace, home: Path) -> float:
    """Seconds until a process that begins now has recorded a picture."""
    caches = {name: str(home / "compiled" / name.partition("_")[0].lower()) for name in CACHES}
    asked = ["--device", options.device.type, "--profile", options.profile, "--people", str(options.people)]
    asked += ["--prompts", str(options.prompts), "--photos", str(options.photos)]
    for name in ("profiles_file", "pixels", "steps", "batch"):
        value = getattr(options, name)
        asked += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    command = [sys.executable, str(Path(__file__).resolve()), *asked, "--child", str(home), str(time.time())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **caches})
    return float(json.loads(done.stdout.splitlines()[-1])["first_seconds"])


def _child(options: argparse.Namespace) -> None:
    """The process that is measured: prints its answer as JSON."""
    home, began = options.child
    product = Product(options, Path(home), as_started=True)
    done = product.job(product.asked(options), began=float(began))
    product.close()
    print(json.dumps({"first_seconds": done.first_seconds}))


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    head = (
        f"profile {found['profile']}, {found['size']} px, {found['steps']} steps, batches of {found['batch']}; seconds "
        "from enqueueing to the first recorded picture"
    )
    seconds = found["seconds"]
    cells = [f"{seconds['cold']:.2f}", f"{seconds['restarted']:.2f}", seconds["warm"].told()]
    return f"{head}\n\n{common.table(('cold', 'restarted', 'warm'), [cells])}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    made = common.parser(__doc__, repeat=3)
    add_job_lines(made, people=1, prompts=8)
    made.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = common.parsed(made, arguments)
    quiet_libraries()
    if options.child:
        _child(options)
        return
    if options.toy:
        options.prompts, options.steps = 2, 2
    found = measure(options)
    common.finish("first", found, markdown(found), options)


if __name__ == "__main__":
    main()
