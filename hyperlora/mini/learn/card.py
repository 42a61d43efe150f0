"""The model card of a trained mini pack: how it was made, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperlora.mini.learn.checks import shown
from hyperlora.mini.learn.sizes import Sizes

_CARD = """---
license: apache-2.0
tags: [hyperlora, text-to-image]
---
# mini-{name}: a small trained world

Every network here was trained from nothing on people who do not exist, drawn by `hyperlora.mini`, in the configuration
`{name}`: pictures of {side} x {side} pixels, {people:,} people drawn {each} times each. Nothing was downloaded, no
photograph of anybody was used. Made again by `make mini-pack MINI_SIZE={name}`.

Training people have seeds below 1,000,000; validation people begin at 1,000,000 and test people at 2,000,000, and no
network of this pack has seen them. The judge that measures identity was trained on other people than these networks
({judge} people from seed 500,000) and is not part of the pack.

## How long each slot took

{device}

| slot | seconds |
|---|---|
{seconds}

## What was measured on the way

The judge's rank-1 among validation people, after each slot: of portraits that went through the autoencoder, of pictures
drawn from whole captions (age, hair and beard in words), from captions that say "a person", and from one photo each.

{measured}

The whole table on held-out people: `portraits evaluate`.
"""


def card_of(sizes: Sizes, record: Mapping[str, Any]) -> str:
    """The card from what the slots noted."""
    seconds = record.get("seconds", {})
    rows = [f"| {name} | {value:,.0f} |" for name, value in seconds.items()]
    rows.append(f"| **together** | {sum(seconds.values()):,.0f} |")
    return _CARD.format(
        name=sizes.name,
        side=sizes.side,
        people=sizes.people,
        each=sizes.each,
        judge=f"{sizes.judge_people:,}",
        device=f"On {record.get('device', 'cpu')}.",
        seconds="\n".join(rows),
        measured="\n".join(_measured(record.get("slots", {}), record.get("checks", {}))),
    )


def _measured(slots: Mapping[str, Any], checks: Mapping[str, Any]) -> list[str]:
    lines = []
    psnr = slots.get("vae", {}).get("validation_psnr_db")
    if psnr is not None:
        lines.append(f"- autoencoder: {psnr:.1f} dB on validation people")
    for name, found in checks.items():
        lines += [f"- {name}, {what}: {shown(told)}" for what, told in found.items()]
    for name, told in slots.items():
        losses = told.get("losses")
        if losses:
            parts = ", ".join(f"{part} {value:.4f}" for part, value in losses.items())
            lines.append(f"- {name}: {told['steps']:,} steps; last losses {parts}")
    return lines
