#!/usr/bin/env python
"""A change of identity in the UNet's weights, beside what it was before and what peft and diffusers do.

    python bench/swap.py                                     the mini pack's sizes on a CPU
    python bench/swap.py --device cuda --json out.json       SDXL's sizes: 30 GB of GPU memory in half precision
    python bench/swap.py --model sdxl --ways stacked,single  fewer ways, fewer UNets in memory

Weights are random, as a swap costs the same whatever they say. Every way has a UNet of its own; all take their turns in
every round, and ratios are of the same round. What is compared:

    stacked     WeightMerger: one product for each shape of projection, one copy to restore
    single      the same arithmetic by a product, a copy and a check for each projection
    attached    load_lora_weights: peft's layers beside the projections (each forward pass then costs more)
    fused       load_lora_weights and fuse_lora; unfuse_lora and unload to restore

Mixing a person's LoRA from the bases is the same for all, and part of a change. The last two take a LoRA off before the
next comes on. At the end all are restored, and what is left of everybody is looked for.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bench import common
from bench.common import Spread, timed
from bench.random_models import GEOMETRIES, random_hyperlora, random_unet
from hyperlora.lora import LoRA
from hyperlora.merge import WeightMerger, attention_projections
from hyperlora.mini import models
from hyperlora.network import HyperLoRA
from worker.quiet import quiet_libraries

WEIGHT = 0.8
STEPS = ("mix", "merge", "restore", "change")


class Stacked:
    """The product."""

    def __init__(self, unet: Any) -> None:
        self._merger = WeightMerger(unet)

    def merge(self, lora: LoRA) -> None:
        """Over whoever was merged before."""
        self._merger.merge([(lora, WEIGHT)])

    def change(self, lora: LoRA) -> None:
        """Nothing needs to be restored before."""
        self.merge(lora)

    def restore(self) -> None:
        """Pristine weights."""
        self._merger.restore()


class Single:
    """One projection after the other: check the LoRA, add in float32, round, check the result; one transfer each."""

    def __init__(self, unet: Any) -> None:
        self._modules = attention_projections(unet)
        self._pristine = {name: module.weight.detach().clone() for name, module in self._modules.items()}

    def merge(self, lora: LoRA) -> None:
        """Over whoever was merged before."""
        layers = lora.layers
        finite = [torch.isfinite(each.down).all() & torch.isfinite(each.up).all() for each in layers.values()]
        if not all(torch.stack(finite).tolist()):
            raise ValueError("the LoRA is not finite")
        scratch: dict[torch.Size, torch.Tensor] = {}
        extremes = []
        for name, layer in layers.items():
            pristine, weight = self._pristine[name], self._modules[name].weight
            sums = scratch.setdefault(pristine.shape, torch.empty_like(pristine, dtype=torch.float32))
            up, down = WEIGHT * layer.scale * layer.up.to(sums), layer.down.to(sums)
            weight.copy_(sums.copy_(pristine).addmm_(up, down))
            extremes.append(torch.stack(torch.aminmax(weight)))
        if not torch.isfinite(torch.stack(extremes)).all(dim=1).all().item():
            raise ValueError("the merged weights are not finite")

    def change(self, lora: LoRA) -> None:
        """Nothing needs to be restored before."""
        self.merge(lora)

    def restore(self) -> None:
        """Pristine weights."""
        for name, module in self._modules.items():
            module.weight.copy_(self._pristine[name])


class Attached:
    """What `load_lora_weights` does with a LoRA's UNet part, given tensors in peft's names."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        paths = {module: path for path, module in unet.named_modules()}
        self._paths = {name: paths[module] for name, module in attention_projections(unet).items()}

    def merge(self, lora: LoRA) -> None:
        """Onto a UNet without a LoRA."""
        self._attach(lora)
        self._unet.set_adapters("person", WEIGHT * next(iter(lora.layers.values())).scale)

    def change(self, lora: LoRA) -> None:
        """One off, the next on."""
        self.restore()
        self.merge(lora)

    def restore(self) -> None:
        """Without a LoRA."""
        self._unet.unload_lora()

    def _attach(self, lora: LoRA) -> None:
        state = {}
        for name, layer in lora.layers.items():
            state[f"unet.{self._paths[name]}.lora_A.weight"] = layer.down
            state[f"unet.{self._paths[name]}.lora_B.weight"] = layer.up
        self._unet.load_lora_adapter(state, prefix="unet", adapter_name="person")


class Fused(Attached):
    """The same, then into the weights and out again by subtraction."""

    def merge(self, lora: LoRA) -> None:
        """Onto a UNet without a LoRA."""
        self._attach(lora)
        self._unet.fuse_lora(lora_scale=WEIGHT * next(iter(lora.layers.values())).scale)

    def restore(self) -> None:
        """Without a LoRA, but for rounding."""
        self._unet.unfuse_lora()
        super().restore()


WAYS: dict[str, Callable[[Any], Stacked | Single | Attached]] = {
    "stacked": Stacked,
    "single": Single,
    "attached": Attached,
    "fused": Fused,
}


@torch.no_grad()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everybody's turn in every round; medians of the milliseconds, and of the ratios within a round."""
    device = options.device
    # 1. The networks: one hypernetwork, and a UNet for each way.
    unet, network = _models(options.model, device, options.dtype)
    plain = {name: tensor.clone() for name, tensor in _attention(unet).items()}
    unets = {name: unet if not place else copy.deepcopy(unet) for place, name in enumerate(options.ways)}
    ways = {name: WAYS[name](each) for name, each in unets.items()}
    dice = torch.Generator().manual_seed(1)
    people = [
        torch.nn.functional.normalize(torch.randn(network.config.tokens, network.config.bases, generator=dice), dim=-1)
        for _ in range(4)
    ]
    people = [person.to(device) for person in people]
    # 2. The rounds; the first ones warm up.
    taken: dict[str, dict[str, list[float]]] = {name: {step: [] for step in STEPS} for name in ways}
    for turn in range(options.repeat + options.warm_up):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            seconds = _turn(ways[name], network, people[turn % 4], people[(turn + 1) % 4], device)
            if turn >= options.warm_up:
                for step, value in seconds.items():
                    taken[name][step].append(1000 * value)
    # 3. What is left when nobody is there, and the answer.
    left = {}
    for name, each in unets.items():
        now = _attention(each)
        left[name] = max((now[key].double() - plain[key].double()).abs().max().item() for key in plain)
    first = next(iter(ways))
    milliseconds = {name: {step: Spread.of(each) for step, each in steps.items()} for name, steps in taken.items()}
    return {
        "first": first,
        "projections": len(plain),
        "shapes": len({tensor.shape for tensor in plain.values()}),
        "rank": network.config.rank,
        "milliseconds": milliseconds,
        "change_against_first": {
            name: Spread.of(
                [theirs / ours for theirs, ours in zip(steps["change"], taken[first]["change"], strict=True)]
            )
            for name, steps in taken.items()
        },
        "swaps": 2 * (options.repeat + options.warm_up),
        "left_behind": left,
    }


def _turn(
    way: Stacked | Single | Attached, network: HyperLoRA, one: torch.Tensor, other: torch.Tensor, device: torch.device
) -> dict[str, float]:
    """Seconds of each step, beginning and ending with nobody merged."""
    made: list[LoRA] = []
    seconds = {
        "mix": timed(lambda: made.append(network.lora(one)), device),
        "merge": timed(lambda: way.merge(made[0]), device),
        "restore": timed(way.restore, device),
    }
    way.merge(made[0])
    seconds["change"] = timed(lambda: way.change(network.lora(other)), device)
    way.restore()
    return seconds


def _models(model: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, HyperLoRA]:
    """A UNet and a hypernetwork for it, with random weights of which LoRAs are about as strong as learned ones."""
    if model == "mini":
        unet = models.untrained_unet(torch.Generator().manual_seed(1))
        network = models.untrained_hyperlora(torch.Generator().manual_seed(2))
        return unet.to(device, dtype).eval().requires_grad_(False), network.to(device, dtype).requires_grad_(False)
    geometry = GEOMETRIES[model]
    return random_unet(geometry, device, dtype), random_hyperlora(geometry, device, dtype)


def _attention(unet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.weight.detach() for name, module in attention_projections(unet).items()}


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    first = found["first"]
    head = (
        f"{found['projections']} projections of {found['shapes']} shapes, rank {found['rank']}; ms, medians and in "
        "brackets quartiles"
    )
    rows = [
        (
            name,
            *(steps[step].told() for step in STEPS),
            found["change_against_first"][name].told(1),
            f"{found['left_behind'][name]:.1e}",
        )
        for name, steps in found["milliseconds"].items()
    ]
    titles = ("way", *STEPS, f"change against {first}", f"left after {found['swaps']} swaps")
    return f"{head}\n\n{common.table(titles, rows)}"


def _ways(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in WAYS]:
        raise argparse.ArgumentTypeError(f"unknown way {unknown[0]!r}, known: {', '.join(WAYS)}")
    return list(dict.fromkeys(names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown, write JSON."""
    made = common.parser(__doc__, repeat=8)
    made.add_argument("--ways", type=_ways, default=list(WAYS), help=f"of {','.join(WAYS)}; ratios are to the first")
    options = common.parsed(made, arguments)
    quiet_libraries()
    found = measure(options)
    common.finish("swap", found, markdown(found), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
