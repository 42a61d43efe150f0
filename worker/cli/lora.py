"""`portraits lora`: LoRA files, without a job and without a database."""

from __future__ import annotations

import typer

from worker.cli import lora_files, lora_make, lora_refine, lora_strip

commands = typer.Typer(
    help="LoRA files: make them from photos, mix people, make sliders, refine, convert and inspect.",
    no_args_is_help=True,
)
commands.command("generate")(lora_make.generate)
commands.command("mix")(lora_make.mix)
commands.command("slide")(lora_make.slide)
commands.command("convert")(lora_files.convert)
commands.command("inspect")(lora_files.inspect)
commands.command("refine")(lora_refine.refine)
commands.command("strip")(lora_strip.strip)
