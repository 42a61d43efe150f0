#!/usr/bin/env python
"""Every benchmark, the most important first, each in a process of its own with a limit of its own.

    python bench/all.py --out results/h100        a GPU: SDXL with random weights, about ten minutes
    python bench/all.py --toy                     a CPU: all of them as small as can be, a few minutes
    python bench/all.py --out FOLDER --only unet,job --seconds 300

On a GPU tests/gpu comes first. Results lie in the folder as they come, with each one's output beside: what was cut off
keeps what was done before. `index.md` tells what ran, `targets.md` what was reached of what is wanted of an H100.
Ends with 1 where something failed or was cut off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import common, targets

LEAST_SECONDS = 15
"""With less time left nothing is begun."""
GRACE_SECONDS = 5


@dataclass(frozen=True)
class Step:
    """One program: its lines at full size and at toy size (None: not run there), and how long it may take on a GPU.

    `{out}` and `{random}` stand for the folders of results and of random models.
    """

    name: str
    lines: tuple[str, ...] | None
    toy: tuple[str, ...] | None
    seconds: int


def _bench(file: str, *full: str, seconds: int, name: str = "", profile: bool = False, out: str = "{out}") -> Step:
    """A benchmark of this folder; `profile` for those that load one, which must lie on disk."""
    program = (str(Path(__file__).with_name(f"{file}.py")),)
    random = ("--random", "{random}") if profile else ()
    toy = None if name else (*program, "--toy", "--out", "{out}")
    return Step(name or file, (*program, "--device", "cuda", "--out", out, *random, *full), toy, seconds)


STEPS = (
    Step("tests", ("-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider"), None, 90),
    Step(
        "random-models",
        (str(Path(__file__).with_name("random_pack.py")), "{random}", "--device", "cuda", "--model", "sdxl"),
        (str(Path(__file__).with_name("random_pack.py")), "{random}", "--model", "mini"),
        90,
    ),
    _bench(
        "unet", "--ways", "diffusers,off,off-fused,blocks", "--batches", "1,4,8", "--parts", "steps,attention,swaps",
        seconds=150,
    ),
    _bench(
        "job", "--people", "2", "--prompts", "8", "--loop-people", "1", "--repeat", "1", seconds=200, profile=True,
    ),
    _bench("swap", "--repeat", "20", seconds=60),
    _bench("mixed", "--each", "1,2,4,20", "--pictures", "16", "--repeat", "1", seconds=120, profile=True),
    _bench("people", "--repeat", "3", seconds=60),
    _bench(
        "lossy", "--ways", "exact,fp8,int8,cache-2", "--people", "2", "--prompts", "4", "--steps", "20",
        "--repeat", "1", seconds=120, profile=True,
    ),
    _bench("memory", seconds=120, profile=True),
    _bench("first", "--repeat", "1", seconds=200, profile=True),
    _bench(
        "scale", "--people", "1", "--prompts", "4", "--steps", "8", "--repeat", "1", seconds=120, profile=True,
    ),
    _bench(
        "job", "--people", "2", "--prompts", "8", "--loop-people", "0", "--steps", "30", "--repeat", "1",
        name="job-30-steps", seconds=120, profile=True, out="{out}/job-30-steps",
    ),
    _bench("unet", "--parts", "compile", name="unet-compile", seconds=400, out="{out}/unet-compile"),
    _bench(
        "unet", "--ways", "diffusers,diffusers-compiled,blocks,whole", "--batches", "8", "--parts", "steps",
        name="unet-whole", seconds=400, out="{out}/unet-whole",
    ),
    _bench("plan", seconds=60),
    _bench("queues", "--sizes", "1000,10000", "--images", "40", "--repeat", "3", seconds=120),
)  # fmt: skip


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The steps, one after another, until the time is up; what is known is written after each."""
    ends = time.monotonic() + options.seconds
    done: list[dict[str, Any]] = []
    for step in (each for each in STEPS if not options.only or each.name in options.only):
        lines = step.toy if options.toy else step.lines
        if lines is None:
            continue
        left = ends - time.monotonic()
        if left < LEAST_SECONDS:
            done.append({"name": step.name, "state": "no time left", "seconds": 0.0})
        else:
            done.append(_run(step.name, lines, min(left, options.seconds if options.toy else step.seconds), options))
        _write(done, options.out)
    return done


def _run(name: str, lines: Sequence[str], limit: float, options: argparse.Namespace) -> dict[str, Any]:
    """One step in a process group of its own, which is ended as a whole when its time is up."""
    places = {"out": str(options.out), "random": str(options.random)}
    command = [sys.executable, *(line.format(**places) for line in lines)]
    began = time.monotonic()
    print(f"{name}: {' '.join(command)}", flush=True)
    with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=common.ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(options),
        )
        try:
            code = process.wait(limit)
            state = "done" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            _end(process)
            state = "cut off"
    seconds = round(time.monotonic() - began, 1)
    print(f"{name}: {state} after {seconds} s", flush=True)
    return {"name": name, "state": state, "seconds": seconds, "limit_seconds": round(limit, 1)}


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """What is compiled is kept for the steps that follow, unless the caller keeps it elsewhere."""
    kept = options.random / "compiled"
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"), "TRITON_CACHE_DIR": str(kept / "triton")}
    path = os.pathsep.join(filter(None, (str(common.ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**caches, **os.environ, "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make it."""
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(done: Sequence[dict[str, Any]], out: Path) -> None:
    """The index and the targets as they stand."""
    rows = [(each["name"], each["state"], each["seconds"], each.get("limit_seconds", "-")) for each in done]
    (out / "index.json").write_text(json.dumps(list(done), indent=1) + "\n", encoding="utf-8")
    index = common.table(("what", "state", "seconds", "limit, s"), rows)
    (out / "index.md").write_text(index + "\n", encoding="utf-8")
    results = [each for folder in (out, *(f for f in out.iterdir() if f.is_dir())) for each in targets.read(folder)]
    (out / "targets.md").write_text(targets.table(results)[0] + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the index and the targets."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--toy", action="store_true", help="as little as shows that all of them work; on a CPU")
    made.add_argument("--out", type=Path, help="folder of the results; default: a new one")
    made.add_argument(
        "--random", type=Path, help="where the random models lie, or are made; default: beside the results"
    )
    made.add_argument("--seconds", type=float, default=580, help="for all of it")
    made.add_argument("--only", type=lambda text: text.split(","), help="names, with commas")
    options = made.parse_args(arguments)
    known = [step.name for step in STEPS]
    if unknown := [name for name in options.only or () if name not in known]:
        made.error(f"unknown step {unknown[0]!r}, known: {', '.join(known)}")
    if not options.toy and not torch.cuda.is_available():
        print("full size needs a CUDA device, none is here; --toy runs anywhere", file=sys.stderr)
        return common.NO_DEVICE
    options.out = (options.out or Path(tempfile.mkdtemp(prefix="portraits-bench-"))).resolve()
    options.random = (options.random or options.out.with_name(f"{options.out.name}-models")).resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    done = run(options)
    print(f"\n{(options.out / 'index.md').read_text()}\n{(options.out / 'targets.md').read_text()}\n{options.out}")
    return 0 if all(each["state"] == "done" for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
