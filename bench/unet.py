#!/usr/bin/env python
"""A denoising step of the UNet, over batches, beside diffusers eager and compiled.

    python bench/unet.py                                          the mini pack's sizes on a CPU
    python bench/unet.py --device cuda                            SDXL with random weights, 1024 pixels, half precision
    python bench/unet.py --ways diffusers,blocks --batches 1,8    fewer ways and shapes: compiling takes most time
    python bench/unet.py --parts compile --compiled blocks,whole  only how long compiling takes, cold and with a cache

A step is one pass for a batch with guidance: two rows a picture. All ways take their turns. Operations are counted by
PyTorch, once for all ways: TFLOP/s is useful work a second. The peak is that of a large product in the same run. What
is computed once a batch (keys and values of the text) stands beside the step. The ways:

    diffusers, diffusers-compiled     diffusers' UNet as it is; channels last and compiled as a whole
    off, blocks, whole                our engine: eager, repeated blocks compiled, all compiled
    ...-fused                         queries, keys and values by one product
    ...-text-each-step                keys and values of the text computed anew in every step

At last people are swapped, drawn for one step each, and what was compiled meanwhile is counted: nothing should be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from bench import common, unet_parts
from bench.random_models import GEOMETRIES, TOY, Geometry
from bench.unet_ways import WAYS, Ours, Runner, runner
from hyperlora.shapes import Shape
from worker.quiet import quiet_libraries

PARTS = ("steps", "attention", "compile", "swaps")
DEFAULT_WAYS = ("diffusers", "diffusers-compiled", "off", "off-fused", "off-text-each-step", "blocks", "whole")
SWAP_PIXELS = 512
"""Of the pictures that are stepped while people are swapped: what is compiled does not depend on it."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The parts that are asked for."""
    geometry = TOY if options.toy else GEOMETRIES[options.model]
    size = options.pixels or geometry.size
    found: dict[str, Any] = {"size": size, "backend": options.backend, "unit": "seconds of a step, with guidance"}
    found["tflop_a_row"] = unet_parts.operations(geometry, size) / 1e12
    found["peak_tflops"] = unet_parts.matrix_peak(options.device, options.dtype)
    if "steps" in options.parts:
        found["batches"] = _steps(geometry, size, found, options)
    if "attention" in options.parts:
        rows = 2 * max(batch for batch in options.batches if batch <= 8 or batch == min(options.batches))
        found["attention_rows"] = rows
        found["attention_ms"] = unet_parts.attention(geometry, size, rows, options.device, options.dtype)
    if "compile" in options.parts:
        found["compile_seconds"] = {
            name: unet_parts.compile_seconds(_child_lines(name, size, options)) for name in options.compiled
        }
    if "swaps" in options.parts:
        ours = runner(WAYS[options.swapped], geometry, options.device, options.dtype, options.backend)
        assert isinstance(ours, Ours)
        pixels = min(size, SWAP_PIXELS)
        found["recompilations"] = {
            "way": options.swapped,
            **unet_parts.recompilations(ours, geometry, Shape(pixels, pixels, 2, unet_parts.TOKENS), options.swaps),
        }
    return found


def _steps(geometry: Geometry, size: int, told: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """For every batch the ways in turn; a way that is compiled as a whole only for --whole-batches."""
    device = options.device
    made: dict[str, Runner] = {
        name: runner(WAYS[name], geometry, device, options.dtype, options.backend) for name in options.ways
    }
    rows = []
    for batch in options.batches:
        shape = Shape(size, size, 2 * batch, unet_parts.TOKENS)
        here = [name for name in made if WAYS[name].compile != "whole" or batch in options.whole_batches]
        compiled = {name: made[name].ready(shape) for name in here}
        once: dict[str, list[float]] = {name: [] for name in here}

        def stepped(name: str, shape: Shape = shape, once: dict[str, list[float]] = once) -> float:
            seconds, before = made[name].step(shape, options.steps)
            once[name].append(before)
            return seconds

        turns = common.take_rounds({name: (lambda name=name: stepped(name)) for name in here}, options)
        work = told["tflop_a_row"] * shape.rows
        rows.append({"batch": batch, "ways": {name: _row(name, turns, once, compiled, work, told) for name in here}})
    return rows


def _row(
    name: str,
    turns: common.Turns,
    once: dict[str, list[float]],
    compiled: dict[str, float],
    work: float,
    told: dict[str, Any],
) -> dict[str, Any]:
    spread = turns.spread(name)
    row: dict[str, Any] = {
        "step_seconds": spread,
        "tflops": spread.inverse(work),
        "share_of_peak": work / spread.median / told["peak_tflops"].median,
        "once_a_batch_seconds": common.Spread.of(once[name]),
        "ready_seconds": compiled[name],
    }
    if "diffusers" in turns.seconds:
        row["faster_than_diffusers"] = turns.faster(name, "diffusers")
    return row


def _child_lines(name: str, size: int, options: argparse.Namespace) -> list[str]:
    dtype = str(options.dtype).removeprefix("torch.")
    lines = ["--device", options.device.type, "--dtype", dtype, "--model", options.model, "--pixels", str(size)]
    lines += ["--toy"] if options.toy else []
    return [*lines, "--batches", str(options.compiled_batch), "--backend", options.backend, "--child", name]


def _child(options: argparse.Namespace) -> None:
    """The process in which compiling is measured: prints its answer as JSON."""
    geometry, size = TOY if options.toy else GEOMETRIES[options.model], options.pixels
    made = runner(WAYS[options.child], geometry, options.device, options.dtype, options.backend)
    seconds = made.ready(Shape(size, size, 2 * options.batches[0], unet_parts.TOKENS))
    print(json.dumps({"compile_seconds": seconds}))


def markdown(found: dict[str, Any]) -> str:
    """The tables of a result."""
    parts = [
        f"{found['size']} px, {found['tflop_a_row']:.4g} TFLOP a row; a large product: "
        f"{found['peak_tflops'].told()} TFLOP/s; medians, in brackets quartiles"
    ]
    if "batches" in found:
        head = ("batch", "way", "step, ms", "TFLOP/s", "of the peak", "times diffusers", "once a batch, ms", "ready, s")
        rows = [_cells(each["batch"], name, row) for each in found["batches"] for name, row in each["ways"].items()]
        parts.append(common.table(head, rows))
    if "attention_ms" in found:
        kernels = list(next(iter(found["attention_ms"].values())))
        lines = [
            (name, *("cannot" if ms[each] is None else ms[each].told(3) for each in kernels))
            for name, ms in found["attention_ms"].items()
        ]
        parts.append(f"Attention kernels, {found['attention_rows']} rows, ms:")
        parts.append(common.table(("attention", *kernels), lines))
    if "compile_seconds" in found:
        rows = [(name, f"{s['cold']:.1f}", f"{s['warm']:.1f}") for name, s in found["compile_seconds"].items()]
        parts.append(common.table(("compiling", "nothing on disk, s", "second process, s"), rows))
    if "recompilations" in found:
        seen = found["recompilations"]
        parts.append(
            f"{seen['swaps']} people, one after another, way {seen['way']}: {seen['compilations']} graphs compiled, "
            f"{seen['missed']} steps ran without compiled code."
        )
    return "\n\n".join(parts)


def _cells(batch: int, name: str, row: dict[str, Any]) -> tuple[object, ...]:
    against = row["faster_than_diffusers"].told() if "faster_than_diffusers" in row else "-"
    return (
        batch,
        name,
        row["step_seconds"].scaled(1000).told(),
        row["tflops"].told(3),
        f"{100 * row['share_of_peak']:.0f} %",
        against,
        row["once_a_batch_seconds"].scaled(1000).told(),
        f"{row['ready_seconds']:.1f}",
    )


def _names(known: Sequence[str]) -> Any:
    def read(text: str) -> list[str]:
        names = [each for each in text.split(",") if each]
        if unknown := [each for each in names if each not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}, known: {', '.join(known)}")
        return list(dict.fromkeys(names))

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown, write JSON."""
    ours = [name for name, way in WAYS.items() if way.ours]
    made = common.parser(__doc__, repeat=5)
    made.add_argument("--ways", type=_names(list(WAYS)), default=list(DEFAULT_WAYS), help=f"of {','.join(WAYS)}")
    made.add_argument("--parts", type=_names(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)}")
    made.add_argument("--batches", type=common.numbers, default=[1, 2, 4, 8, 16], help="pictures in a batch")
    made.add_argument("--whole-batches", type=common.numbers, default=[8], help="those for which wholes are compiled")
    made.add_argument("--pixels", type=int, help="width and height; default: what the model is made for")
    made.add_argument("--steps", type=int, default=5, help="in one turn")
    made.add_argument("--backend", default="inductor", help="of torch.compile")
    made.add_argument("--compiled", type=_names(list(WAYS)), default=["blocks", "whole"], help="ways to compile anew")
    made.add_argument("--compiled-batch", type=int, default=8)
    made.add_argument("--swaps", type=int, default=1000, help="people")
    made.add_argument("--swapped", choices=ours, default="blocks", help="the way that people are swapped in")
    made.add_argument("--child", help=argparse.SUPPRESS)
    options = common.parsed(made, arguments)
    quiet_libraries()
    if options.toy:
        options.ways, options.batches, options.whole_batches = ["diffusers", "off-fused", "blocks"], [1], []
        options.steps, options.swaps, options.backend, options.pixels = 1, 20, "eager", 64
        options.compiled, options.compiled_batch = ["blocks"], 1
        options.parts = [part for part in options.parts if part != "compile"]  # two processes more
    if options.child:
        _child(options)
        return 0
    found = measure(options)
    common.finish("unet", found, markdown(found), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
