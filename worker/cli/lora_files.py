"""`portraits lora convert | inspect`: files that are there already."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.lora_options import Force, Format, need_free, need_lora, save, tell_file
from worker.cli.options import AsJson
from worker.cli.output import facts, print_json, say, warn

if TYPE_CHECKING:
    from worker.lora_tools.look import FileLook


class Dtype(StrEnum):
    """Number types of a file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def convert(
    file: Annotated[Path, typer.Argument(metavar="IN", help="A LoRA in any of the formats.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, .safetensors.")],
    form: Annotated[Format, typer.Option("--format", help="Whose names the tensors get.")],
    dtype: Annotated[Dtype | None, typer.Option("--dtype", help="Number type; default: that of the file.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Give a LoRA file another program's names; the numbers and what the file says about itself stay.

    The format of the file that is read is found by its tensors. peft has no alpha, so the factor alpha / rank is
    multiplied into its second matrix.
    """
    need_free(out, ".safetensors", force)
    need_worker_extra("`portraits lora convert`")
    need_lora(file)
    import torch

    from hyperlora.lora import LoRA

    lora = LoRA.load(file)
    if dtype is not None:
        lora = lora.to(dtype=getattr(torch, dtype.value))
    made = save(lora, out, form)
    if as_json:
        print_json({"file": file, **made})
    else:
        tell_file(made)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA in any of the formats.")],
    as_json: AsJson = False,
) -> None:
    """Say what a LoRA file is: format, ranks, numbers, how it was made, and which base model it fits.

    Exit code 1 if it cannot be used: a number that is not finite, a change beyond float32, numbers that are no
    floating-point ones, or layers that no known base model has.
    """
    need_worker_extra("`portraits lora inspect`")
    need_lora(file)
    from worker.lora_tools.look import look_into

    found = look_into(file)
    if as_json:
        print_json({**asdict(found), "sound": found.sound})
    else:
        _tell(found)
    if not found.sound:
        raise typer.Exit(Exit.PROBLEM)


def _tell(found: FileLook) -> None:
    say(f"{found.file}: {found.format} names, {found.size_bytes / 1000:,.0f} kB, SHA-256 {found.sha256[:12]}...")
    norm = "not a number" if found.norm is None else f"{found.norm:.4g}"
    biggest = f"; most in {', '.join(f'{name} ({size:.3g})' for name, size in found.largest[:1])}"
    facts(
        {
            "layers": f"{found.layers}, {found.parameters:,} numbers",
            "rank": _counts(found.ranks, found.layers),
            "alpha / rank": _counts(found.scales, found.layers),
            "number type": _counts(found.dtypes, found.layers),
            "change at weight 1": norm + (biggest if found.largest else ""),
            "fits": ", ".join(f"{fit.base} ({fit.layers} of {fit.projections})" for fit in found.fits if fit.fits)
            or "no base model that is known here",
        }
    )
    if found.metadata:
        say("it says about itself:")
        facts({name: _short(value) for name, value in found.metadata.items()})
    if found.non_finite:
        where = f"{len(found.non_finite)} layers, first {found.non_finite[0]}"
        warn(f"NaN, infinity or a change beyond float32 in {where}; make the file again")
    if found.not_floating:
        warn(f"no floating-point numbers in {len(found.not_floating)} layers, first {found.not_floating[0]}")
    if not any(fit.fits for fit in found.fits):
        for fit in found.fits:
            warn(f"not for {fit.base}: {fit.misfit}")


def _counts(values: Any, total: int) -> str:
    """One value alone, or each with how often it is there."""
    if len(values) == 1:
        return str(next(iter(values)))
    return ", ".join(f"{value} ({count} of {total})" for value, count in values.items())


def _short(value: Any) -> str:
    """A value of the metadata on one line; photos by the beginning of their hash."""
    if isinstance(value, list) and all(isinstance(one, dict) and "photos" in one for one in value):
        return "; ".join(_source(one) for one in value)
    return str(value)


def _source(one: dict[str, Any]) -> str:
    weight = one.get("weight", 1.0)
    photos = ", ".join(f"{photo[:12]}..." for photo in one["photos"])
    return f"{one.get('role', 'person')}{'' if weight == 1.0 else f' {weight:+g}'}: {photos}"
