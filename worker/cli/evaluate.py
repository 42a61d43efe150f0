"""`portraits evaluate`: what a model is worth, by an independent judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from worker.cli.evaluate_options import (
    BatchSize,
    Claims,
    Clip,
    Grid,
    JudgeSpec,
    Method,
    Out,
    Pack,
    People,
    Photos,
    PhotosEach,
    Profile,
    Prompts,
    PromptsEach,
    RefinePeople,
    Seeds,
    Steps,
    Strict,
    Twin,
    Weight,
)
from worker.cli.exits import Exit
from worker.cli.extras import missing_modules, need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import err, hint, out, print_json, say, table, warn

if TYPE_CHECKING:
    from hyperlora.evaluation.compare import Scores, Subject
    from hyperlora.evaluation.judges import Judge
    from hyperlora.evaluation.model import PortraitModel
    from hyperlora.evaluation.report import Report
    from hyperlora.evaluation.rows import ClaimResult
    from jobs.settings import Settings

Progress = Callable[[str, int, int], None]
PLOTS_HINT = "plots need matplotlib: pip install 'hyperlora-portraits[evaluate]'"
COMPARED_PEOPLE = 4
SECONDS_BETWEEN_LINES = 30.0


def evaluate(
    pack: Pack = None,
    profile: Profile = None,
    photos: Photos = None,
    prompts: Prompts = None,
    claims: Claims = None,
    method: Method = None,
    grid: Grid = False,
    twin: Twin = None,
    judge: JudgeSpec = None,
    clip: Clip = None,
    people: People = None,
    prompts_each: PromptsEach = 8,
    photos_each: PhotosEach = 4,
    seeds: Seeds = 1,
    refine_people: RefinePeople = 4,
    weight: Weight = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    folder: Out = Path("portraits-evaluation"),
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on people it has never seen, by a recogniser that has no part in it.

    A mini pack is measured on drawn people, claim by claim. Any other model is measured on a folder of photos. With
    --method the methods are compared side by side, with their milliseconds.
    """
    need_worker_extra("`portraits evaluate`")
    settings = load_settings()
    from worker.quiet import quiet_libraries

    quiet_libraries()
    # 1. What is evaluated, and by whom.
    model = _model(settings, pack, profile, {"weight": weight, "steps": steps, "batch_size": batch_size})
    ask = _Ask(settings, model, photos, claims, method, people, prompts_each, photos_each)
    chosen = _judge(ask, judge)
    began = time.monotonic()
    with _progress() as on_progress:
        # 2. Methods side by side, or the claims.
        if ask.compares:
            compared = _compare(ask, chosen, clip, prompts, seeds, on_progress, folder if grid else None)
            results: list[ClaimResult] = []
        else:
            compared = []
            results = _claims(ask, chosen, twin, refine_people, on_progress, folder)
    # 3. The report.
    report = _report(ask, chosen, clip, results, compared, folder, time.monotonic() - began)
    _answer(report, folder, as_json=as_json)
    if strict and report.missed:
        raise typer.Exit(Exit.PROBLEM)


@dataclass(frozen=True)
class _Ask:
    """What was asked for, and the model."""

    settings: Settings
    model: PortraitModel
    photos: Path | None
    claims: str | None
    method: str | None
    people: int | None
    prompts_each: int
    photos_each: int

    @property
    def compares(self) -> bool:
        """Methods are compared with --method, and always on photographs."""
        return self.method is not None or self.photos is not None

    def __post_init__(self) -> None:
        from worker.evaluation import is_mini

        if self.claims is not None and self.compares:
            raise typer.BadParameter(
                "the claims are measured on drawn people and by themselves; leave --claims away, or --method and "
                "--photos"
            )
        if self.photos is None and not is_mini(self.model):
            raise typer.BadParameter(
                f"{self.model.name} is no pack of the mini world, whose people are drawn; give --photos FOLDER with a "
                "subfolder of photos for each person"
            )


def _model(settings: Settings, pack: Path | None, profile: str | None, changes: dict[str, Any]) -> PortraitModel:
    from worker.evaluation import load_model

    if pack is not None and profile is not None:
        raise typer.BadParameter("--pack and --profile both say what is evaluated; give one of them")
    given = {name: value for name, value in changes.items() if value is not None}
    return load_model(settings, pack=pack, profile=profile, changes=given)


def _judge(ask: _Ask, spec: str | None) -> Judge:
    from hyperlora.evaluation.judges import load_judge
    from worker.evaluation import MINI_JUDGE

    if spec is None and ask.photos is None:
        if not MINI_JUDGE.is_dir():
            raise typer.BadParameter(
                f"the mini world's judge is not at {MINI_JUDGE}: it lies in a checkout of the repository, under "
                "tests/assets/mini-judge; name its folder, or another judge, with --judge"
            )
        spec = str(MINI_JUDGE)
    return load_judge(spec or "sface", conditioning=ask.model.analyzer)


def _claims(
    ask: _Ask, judge: Judge, twin: Path | None, refine_people: int, on_progress: Progress, folder: Path
) -> list[ClaimResult]:
    from hyperlora.evaluation.run import run_claims
    from hyperlora.evaluation.study import Extent, MiniStudy
    from hyperlora.network import HyperLoRA

    extent = Extent(ask.people or 100, ask.prompts_each, ask.photos_each, refine_people)
    other = HyperLoRA.from_pretrained(twin, device=ask.model.pipeline.device) if twin is not None else None
    study = MiniStudy(ask.model, judge, extent, folder / "kept", other, on_progress)
    wanted = [name.strip() for name in ask.claims.split(",")] if ask.claims is not None else None
    return run_claims(study, wanted, pictures=folder / "pictures", on_claim=_tell_claim)


def _tell_claim(result: ClaimResult) -> None:
    bars = [row for row in result.rows if row.reached is not None]
    reached = f", {sum(bool(row.reached) for row in bars)} of {len(bars)} bars reached" if bars else ""
    hint(f"{result.claim}: {len(result.rows)} rows in {result.seconds:.1f} s{reached}")


def _compare(
    ask: _Ask,
    judge: Judge,
    clip: str | None,
    prompts: Path | None,
    seeds: int,
    on_progress: Progress,
    grid_folder: Path | None,
) -> list[Scores]:
    from hyperlora.evaluation.clip_scores import ClipScores
    from hyperlora.evaluation.compare import Comparison
    from hyperlora.evaluation.methods import PlainSDXL, make_method

    names = _method_names(ask)
    methods = [make_method(name, ask.model) for name in names]
    scores_by = ClipScores.from_pretrained(clip, device=ask.model.pipeline.device) if clip is not None else None
    subjects = _subjects(ask, prompts, seeds)
    comparison = Comparison(subjects, judge, PlainSDXL(ask.model), scores_by, on_progress)
    scores = [comparison.scores(method) for method in methods]
    if grid_folder is not None:
        grid_folder.mkdir(parents=True, exist_ok=True)
        comparison.grid().draw().save(grid_folder / "methods.png")
    return scores


def _method_names(ask: _Ask) -> list[str]:
    if ask.method is not None:
        return list(dict.fromkeys(name.strip() for name in ask.method.split(",") if name.strip()))
    full = ["hyperlora-full"] if "base" in ask.model.network.config.branches else []
    return ["hyperlora-id", *full, "sdxl"]


def _subjects(ask: _Ask, prompts: Path | None, seeds: int) -> Sequence[Subject]:
    from worker.evaluation import drawn_subjects, photographed_subjects, read_prompts

    if ask.photos is not None:
        texts = read_prompts(prompts)
        return photographed_subjects(ask.photos, ask.settings, prompts=texts, seeds=seeds, people=ask.people)
    return drawn_subjects(
        ask.model, people=ask.people or COMPARED_PEOPLE, prompts=ask.prompts_each, photos=ask.photos_each
    )


def _report(
    ask: _Ask,
    judge: Judge,
    clip: str | None,
    results: list[ClaimResult],
    compared: list[Scores],
    folder: Path,
    seconds: float,
) -> Report:
    from hyperlora.evaluation.report import Report
    from worker.sdxl import device_name

    setting = ask.model.setting
    about = {
        "model": ask.model.name,
        "fingerprint": ask.model.fingerprint[:16],
        "judge": judge.name,
        "conditioned_by": ask.model.analyzer.name,
        "clip": clip or "none",
        "drawn": f"{setting.size} px, {setting.steps} steps, {setting.scheduler}, guidance {setting.guidance:g}, "
        f"LoRA weight {setting.weight:g}",
        "device": device_name(str(ask.model.pipeline.device)),
        "seconds": round(seconds, 1),
    }
    files = sorted(str(file.relative_to(folder)) for file in (folder / "pictures").glob("*.png")) if results else []
    files += ["methods.png"] if compared and (folder / "methods.png").is_file() else []
    if results and not missing_modules(("matplotlib",)):
        from hyperlora.evaluation.plots import write_plots

        files += [file.name for file in write_plots(results, folder)]
    elif results:
        warn(PLOTS_HINT)
    report = Report(about, results, compared, files)
    report.write(folder)
    return report


def _answer(report: Report, folder: Path, *, as_json: bool) -> None:
    from hyperlora.evaluation.report import HEADS, METHOD_HEADS, claim_cells, method_cells

    if as_json:
        print_json({**report.to_data(), "out": folder})
        return
    say(f"{report.about['model']}, judged by {report.about['judge']}")
    if report.claims:
        out().print(table(None, HEADS, [claim_cells(row) for row in report.rows], right="people"))
        for row in report.rows:
            if row.note:
                say(f"  {row.measure.strip()}: {row.note}", "dim")
    if report.methods:
        rows = [method_cells(scores) for scores in report.methods]
        out().print(table(None, METHOD_HEADS, rows))
    say(f"written to {folder}: evaluation.json, evaluation.md{''.join(f', {file}' for file in report.files)}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line now and then."""
    from rich.progress import Progress as Bar

    console = err()
    if console.is_terminal:
        with Bar(console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
        return
    told = [time.monotonic()]

    def line(what: str, done: int, total: int) -> None:
        if time.monotonic() - told[0] > SECONDS_BETWEEN_LINES:
            told[0] = time.monotonic()
            hint(f"{what}: {done} of {total}")

    yield line
