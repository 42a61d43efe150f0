"""`portraits lora refine`: ordinary fine-tuning that begins with an emitted LoRA."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.errors import ExtraMissing
from worker.cli.extras import HINT, missing_modules
from worker.cli.lora_options import Force, Format, FormatOption, Profile, begin, need_free, need_lora, save, tell_file
from worker.cli.options import AsJson, Tenant
from worker.cli.output import err, facts, hint, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperlora.lora import LoRA
    from worker.lora_tools.maker import Place
    from worker.lora_tools.photos import Photo
    from worker.lora_tools.stored import StoredSet

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def refine(
    source: Annotated[
        str,
        typer.Argument(metavar="LORA", help="A LoRA file of the person, or the fingerprint of a stored weight set."),
    ],
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Photos of the person, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the refined LoRA to a .safetensors file.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Add it to the database as a weight set (LORA must be a fingerprint then).")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, max=10_000, help="Of training.")] = 50,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="AdamW's, constant.")] = 1e-4,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=64, help="Crops in each step.")] = 4,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help='What the photos are said to show; default: "portrait of a person".')
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides crops, noise and timesteps.")] = 0,
    profile: Profile = None,
    form: FormatOption = Format.DIFFUSERS,
    tenant: Tenant = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a person's LoRA further on their photos, some 50 steps, on the profile's base model.

    The base stays as it is, and so do rank and layers. With --store the answer is the fingerprint of a new weight set,
    which a manifest draws with: `identity: {weight_set: ...}`. A few-step preset of the profile is left away: distilled
    models cannot be trained on.
    """
    stored = _FINGERPRINT.fullmatch(source) is not None and not Path(source).exists()
    if out is None and not store:
        raise typer.BadParameter("say where it goes: --out FILE, --store, or both")
    if store and not stored:
        raise typer.BadParameter(
            "--store needs the fingerprint of a stored weight set as LORA (64 hex digits, column "
            "weight_set_fingerprint of render_metrics), so that it is known whose it is"
        )
    if out is not None:
        need_free(out, ".safetensors", force)
    settings, place = begin("refine", profile)
    if missing := missing_modules(("peft",)):
        raise ExtraMissing(f"`portraits lora refine` needs {HINT}; not installed: {', '.join(missing)}")
    if not stored:
        need_lora(Path(source))
    from hyperlora.lora import LoRA
    from worker.lora_tools.photos import read_photos
    from worker.lora_tools.stored import WeightSetShelf

    found = read_photos(photos, settings)
    shelf = WeightSetShelf(settings, tenant or settings.tenant) if stored else None
    begun: StoredSet | None = shelf.get(source) if shelf else None
    lora = begun.lora if begun else LoRA.load(source)
    options = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    with _progress(steps) as on_step:
        refined, seconds = _train(place, lora, found, on_step, {**options, **({"prompt": prompt} if prompt else {})})
    made = save(refined, out, form) if out is not None else None
    kept = shelf.add_refined(begun, refined, seconds=seconds) if store and shelf and begun else None
    _answer(made, kept, {**options, "seconds": round(seconds, 2)}, as_json=as_json)


def _train(
    place: Place, lora: LoRA, photos: Sequence[Photo], on_step: Callable[[int, int], None], options: dict[str, Any]
) -> tuple[LoRA, float]:
    """The refined LoRA with its provenance, and the seconds of the training."""
    from hyperlora.faces import load_analyzer
    from hyperlora.refine import refine as train
    from worker.lora_tools.drawing import load_pipeline
    from worker.lora_tools.provenance import Source, sources_of, stamped

    pipeline = load_pipeline(place, preset=False)
    analyzer = load_analyzer(place.profile.faces)
    started = time.perf_counter()
    refined = train(pipeline, lora, [photo.image for photo in photos], analyzer=analyzer, on_step=on_step, **options)
    seconds = time.perf_counter() - started
    facts_of = {name: value for name, value in refined.metadata.items() if name.startswith("refined_")}
    sources = [*sources_of(lora), Source("training", [photo.sha256 for photo in photos])]
    return stamped(refined, "refined", sources, {**facts_of, "hyperlora_face_encoder": analyzer.name}), seconds


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal."""
    from rich.progress import Progress

    console = err()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("refining", total=steps)
        yield lambda done, _: bar.update(task, completed=done)


def _answer(
    made: dict[str, Any] | None, kept: tuple[str, bool] | None, training: dict[str, Any], *, as_json: bool
) -> None:
    if as_json:
        stored = {"weight_set": kept[0], "created": kept[1]} if kept else {"weight_set": None, "created": False}
        print_json({"file": made, **stored, "training": training})
        return
    say(f"refined in {training['steps']} steps, {training['seconds']:.1f} s")
    if made is not None:
        tell_file(made)
    if kept is not None:
        facts({"weight set": kept[0] if kept[1] else f"{kept[0]} (it was there already)"})
        hint(f"in a manifest: identity: {{weight_set: {kept[0]}}}")
