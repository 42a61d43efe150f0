#!/usr/bin/env python
"""Memory: what the model of docs/memory.md foretells, beside what the device counts.

    python bench/memory.py --toy                               the mini pack on a CPU, in a minute
    python bench/memory.py --device cuda --out bench/results   SDXL with random weights: parts, then whole workers
    python bench/memory.py --device cuda --limits 8,12         fewer workers

First the work of single parts (a step of some batches, decoding), and a change of person with bases and pristine
weights on the device and in host memory. Then for each limit a whole worker: its profile is loaded under --vram-gb, a
person is made and a full batch is drawn, and the most memory that PyTorch held is put beside the plan's figure. On a
GPU that is `torch.cuda.max_memory_allocated` and `max_memory_reserved`; on a CPU tensors are counted as the model
counts them, without an allocator, so that only the program is tried.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from hyperlora.coefficients import normalise
from hyperlora.components import SDXLComponents
from hyperlora.errors import MemoryTooSmall
from hyperlora.memory import GIB, Measure, ModelFacts
from hyperlora.memory.live import live_bytes
from hyperlora.merge import WeightMerger
from hyperlora.network import HyperLoRA
from jobs.profiles import Profile, find_profile
from jobs.settings import Settings
from worker.quiet import quiet_libraries
from worker.renderer import Sample, Setting
from worker.sdxl import SdxlRenderer
from worker.vram import plan_of

Run = Callable[[], object]
TOKENS = 77


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most that tensors made by `run` took at one time."""
    if device.type != "cuda":
        return live_bytes(run)
    with torch.inference_mode():
        run()  # libraries' scratch memory, which stays
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def seconds_of(run: Run, options: argparse.Namespace) -> common.Spread:
    """Seconds of `run`, the first time not counted."""
    return common.take_turns({"run": run}, repeat=options.repeat, device=options.device).spread("run")


def parts(profile: Profile, facts: ModelFacts, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What single parts were foretold to take and took, in bytes."""
    device, dtype, side = options.device, options.dtype, facts.size
    components = SDXLComponents.load(profile.base, device=device, dtype=dtype)
    unet, vae = components.unet, components.vae
    latent, width = int(unet.config.sample_size), int(unet.config.cross_attention_dim)
    pooled = int(unet.config.projection_class_embeddings_input_dim) - 6 * int(unet.config.addition_time_embed_dim)
    found: dict[str, dict[str, float]] = {}

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    def note(name: str, foretold: float, run: Run) -> None:
        found[name] = {"foretold": foretold, "counted": peak_bytes(run, device)}

    for batch in options.batches:
        rows = 2 * batch
        latents, when = zeros(rows, unet.config.in_channels, latent, latent), torch.tensor(500.0, device=device)
        texts: dict[str, Any] = {
            "encoder_hidden_states": zeros(rows, TOKENS, width),
            "added_cond_kwargs": {"text_embeds": zeros(rows, pooled), "time_ids": zeros(rows, 6)},
        }
        note(
            f"a step of {batch}", facts.step * rows * side**2, partial(unet, latents, when, return_dict=False, **texts)
        )
    one = zeros(1, vae.config.latent_channels, latent, latent)
    note("decoding one", facts.decode * side**2, lambda: vae.decode(one, return_dict=False)[0].to(torch.float32))
    return found


def swaps(profile: Profile, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Mixing and merging, with bases and pristine weights on the device and in host memory: seconds, bytes of work."""
    device, dtype = options.device, options.dtype
    network = HyperLoRA.from_pretrained(profile.hyperlora, device=device, dtype=dtype)
    shape = (1, network.config.tokens, network.config.bases)
    coefficients_QK = normalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)))[0].to(device)
    bank, found = network.id_bases, dict[str, dict[str, Any]]()

    def note(name: str, run: Run) -> None:
        with torch.no_grad():
            found[name] = {"counted": peak_bytes(run, device), "seconds": seconds_of(run, options)}

    note("mixing, bases on the device", partial(bank.mix, coefficients_QK))
    lora = network.lora(coefficients_QK)
    bank.stream(device)
    note("mixing, bases streamed", partial(bank.mix, coefficients_QK))
    unet = SDXLComponents.load(profile.base, device=device, dtype=dtype).unet
    for place, on_host in (("on the device", False), ("in host memory", True)):
        merger = WeightMerger(unet, pristine_on_host=on_host)
        note(f"merging, pristine weights {place}", partial(merger.merge, [(lora, 0.8)]))
        merger.restore()
    return found


def workers(options: argparse.Namespace, home: Path) -> dict[str, dict[str, Any]]:
    """For each limit a whole worker: what it does to keep to it, what was foretold and what was taken."""
    base = common.settings(options, home)
    found: dict[str, dict[str, Any]] = {}
    for limit in options.limits:
        try:
            found[f"{limit:g} GB"] = _worker(base.model_copy(update={"vram_gb": limit}), options)
        except MemoryTooSmall as error:
            found[f"{limit:g} GB"] = {"refused": str(error)}
    return found


def _worker(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    device, began = options.device, time.perf_counter()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    renderer = SdxlRenderer.load_profile(find_profile(settings, settings.profile), settings)
    plan = renderer.room.plan
    assert plan is not None
    loaded = time.perf_counter() - began
    side, batch = renderer.default_size, renderer.batch_size
    people = renderer.stand_ins(batch)
    samples = [Sample(f"portrait photo of a person, {number}", "", number, 5.0) for number in range(batch)]
    setting = Setting(side, side, options.steps, "dpmpp_2m_karras")
    renderer.apply(((people[0], 0.8),))
    merged = renderer.draw(samples, setting)
    renderer.draw(samples, setting, stacks=[((person, 0.8),) for person in people])
    told: dict[str, Any] = {
        "measures": [str(each) for each in Measure if each in plan.measures],
        "batch": batch,
        "foretold": plan.peak_bytes(batch, rank=plan.facts.rank),
        "seconds_loading": loaded,
        "seconds_denoise": merged.seconds_denoise,
        "seconds_decode": merged.seconds_decode,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        told |= {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
            "on_the_card": total - free,
        }
    return told


def tables(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = [
        (name, _gb(each["foretold"]), _gb(each["counted"]), f"{each['counted'] / each['foretold']:.2f}")
        for name, each in result["parts"].items()
    ]
    swap_rows = [
        (name, _gb(each["counted"]), each["seconds"].scaled(1e3).told(1)) for name, each in result["swaps"].items()
    ]
    worker_rows = [
        (limit, "-", "-", "-", "-", each["refused"])
        if "refused" in each
        else (
            limit,
            each["batch"],
            _gb(each["foretold"]),
            _gb(each["reserved"]) if "reserved" in each else "not counted on a CPU",
            _gb(each["on_the_card"]) if "on_the_card" in each else "-",
            "; ".join(each["measures"]) or "nothing",
        )
        for limit, each in result["workers"].items()
    ]
    return "\n\n".join(
        [
            common.table(("work", "foretold, GB", "counted, GB", "counted / foretold"), rows),
            common.table(("change of person", "work, GB", "ms"), swap_rows),
            common.table(("limit", "batch", "foretold, GB", "PyTorch, GB", "whole card, GB", "measures"), worker_rows),
        ]
    )


def _gb(size: float) -> str:
    return f"{size / GIB:.4f}" if size < GIB / 100 else f"{size / GIB:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and tell."""
    parser = common.parser(__doc__, repeat=5)
    common.add_profile_lines(parser)
    parser.add_argument("--batches", type=common.numbers, help="default: 1,2,4,8 on a GPU, else 1,2")
    parser.add_argument("--limits", type=_limits, help="in GB; default: 8,12,24,80 on a GPU, else what is tight")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a worker's batch")
    options = common.parsed(parser, arguments)
    quiet_libraries()
    on_gpu = options.device.type == "cuda"
    options.batches = options.batches or ([1, 2, 4, 8] if on_gpu else [1, 2])
    if options.toy:
        options.steps = 2
    with tempfile.TemporaryDirectory(prefix="portraits-memory-") as folder:
        settings = common.settings(options, Path(folder))
        profile = find_profile(settings, settings.profile)
        plan = plan_of(profile, settings, options.dtype)
        if options.limits is None:
            options.limits = [8.0, 12.0, 24.0, 80.0] if on_gpu else [plan.peak_bytes(1) / GIB - 0.02, 8.0]
        result = {
            "parts": parts(profile, plan.facts, options),
            "swaps": swaps(profile, options),
            "workers": workers(options, Path(folder)),
        }
    common.finish("memory", result, tables(result), options)
    return 0


def _limits(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
