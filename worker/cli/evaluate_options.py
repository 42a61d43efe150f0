"""The options of `portraits evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EXTENT, _WHAT, _WHO = "How much", "What is evaluated", "Who judges"

Pack = Annotated[Path | None, typer.Option("--pack", help="A model pack with pack.json.", rich_help_panel=_WHAT)]
Profile = Annotated[str | None, typer.Option("--profile", help="Else a profile's weights.", rich_help_panel=_WHAT)]
Photos = Annotated[
    Path | None,
    typer.Option("--photos", help="A folder of people, a subfolder each; else drawn.", rich_help_panel=_WHAT),
]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", help="With --photos: a prompt per line.", rich_help_panel=_WHAT)
]
Claims = Annotated[
    str | None,
    typer.Option("--claims", help="Only these, with commas, of the mini world's claims.", rich_help_panel=_WHAT),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", help="Compare methods, with commas: hyperlora-id, hyperlora-full, sdxl.", rich_help_panel=_WHAT
    ),
]
Grid = Annotated[bool, typer.Option("--grid", help="Write the methods' pictures side by side.", rich_help_panel=_WHAT)]
Twin = Annotated[
    Path | None,
    typer.Option("--twin", help="A checkpoint trained without Base-LoRA, for the leak.", rich_help_panel=_WHAT),
]
JudgeSpec = Annotated[
    str | None,
    typer.Option("--judge", help="sface, insightface:FOLDER, or a mini judge's folder.", rich_help_panel=_WHO),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="A CLIP model with both towers, for CLIP-I and CLIP-T.", rich_help_panel=_WHO),
]
People = Annotated[
    int | None,
    typer.Option(
        "--people",
        min=1,
        help="How many persons; default: 100 for claims, all of a folder, 4 drawn ones for methods.",
        rich_help_panel=_EXTENT,
    ),
]
PromptsEach = Annotated[
    int, typer.Option("--prompts-each", min=1, help="Pictures of each drawn person.", rich_help_panel=_EXTENT)
]
PhotosEach = Annotated[
    int,
    typer.Option("--photos-each", min=1, max=8, help="Photos given of each drawn person.", rich_help_panel=_EXTENT),
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="With --photos: pictures for each prompt.", rich_help_panel=_EXTENT)
]
RefinePeople = Annotated[
    int, typer.Option("--refine-people", min=0, help="Persons to fine-tune for; slow.", rich_help_panel=_EXTENT)
]
Weight = Annotated[float | None, typer.Option("--weight", help="Of the LoRA; default 0.8.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Of sampling; default: the pack's.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures at once.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="For tables, plots and pictures; what is finished is kept there.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 where a bar is missed.")]
