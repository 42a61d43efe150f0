"""`portraits calibrate`: what drawing costs on this device, so that workers know when people should share a batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import facts, hint, print_json


def calibrate(
    profile: Annotated[str | None, typer.Option("--profile", help="What is measured; default: PORTRAITS_PROFILE.")] = (
        None
    ),
    size: Annotated[
        int | None, typer.Option("--size", min=64, help="Pixels of a side; default: the profile's.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, max=100, help="Turns, of which the medians count.")] = 5,
    ways: Annotated[
        bool | None,
        typer.Option(
            "--ways/--no-ways", help="Find the fastest way to run the UNet too: eager or compiled. Default: on GPUs."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a step of one person's pictures and of several people's, and keep it for the workers of this home.

    On a GPU the ways of running the UNet are compared first: eager, its repeated blocks compiled, the whole compiled.

    Run it alone on the machine, on each kind of device, and again after a change of model, batch size or versions.
    """
    need_worker_extra("`portraits calibrate`")
    settings = load_settings()
    from jobs.profiles import find_profile
    from worker.calibration import Asked, measure_costs, measure_way
    from worker.costs import save_costs
    from worker.engine_choice import choose, save_choice
    from worker.errors import CalibrationImpossible
    from worker.quiet import quiet_libraries
    from worker.sdxl import SdxlRenderer

    found = find_profile(settings, profile or settings.profile)
    if found.renderer != "hyperlora":
        raise CalibrationImpossible(f"the profile {found.name} has no model (its renderer is {found.renderer})")
    quiet_libraries()
    renderer = SdxlRenderer.load_profile(found, settings)
    drawing = found.drawing()
    asked = Asked(
        size=size or int(drawing.get("size", renderer.default_size)),
        scheduler=str(drawing.get("scheduler", "dpmpp_2m_karras")),
        guidance=float(drawing.get("guidance", 5.0)),
        repeat=repeat,
    )
    way = renderer.way
    if ways if ways is not None else settings.compile == "auto" and not renderer.device.startswith("cpu"):
        way = choose(lambda options: measure_way(renderer, options, asked, hint))
        renderer.run_with(way, side=asked.size)
        save_choice(settings.home, renderer.device, way)
    costs = measure_costs(renderer, asked, hint)
    file = save_costs(settings.home, renderer, costs)
    most, steps = renderer.batch_size, int(drawing.get("steps", 30))
    pay = [count for count in range(1, most) if costs.pays(count, most, steps, costs.pixels)]
    if as_json:
        told = {"compile": way.compile, "fuse_qkv": way.fuse_qkv, "room": way.room}
        print_json(
            {**asdict(costs), **told, "device": renderer.device, "batch_size": most, "shared_below": pay, "file": file}
        )
        return
    facts(
        {
            "device": renderer.device,
            "memory": renderer.room.told,
            "compiled": {"off": "nothing", "blocks": "the UNet's repeated blocks", "whole": "the whole UNet"}[
                way.compile
            ],
            "a step": f"{1e3 * (costs.base + costs.each):.1f} ms of 1 picture, "
            f"{1e3 * (costs.base + most * costs.each):.1f} ms of {most}",
            "people together": f"{costs.dearer:.0%} dearer a step, {1e3 * costs.own:.1f} ms a picture beforehand",
            "merging": f"{1e3 * costs.merge:.1f} ms a person",
            "shared": f"batches with {_listed(pay)} of {most} pictures"
            if pay
            else "no batch: merging is always cheaper",
            "kept in": file,
        }
    )


def _listed(counts: list[int]) -> str:
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
