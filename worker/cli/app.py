"""The commands put together, and what happens to their errors: one clear message and a documented exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from worker.cli import (
    archive,
    calibrate,
    changes,
    check,
    clerk,
    control,
    dataset,
    db,
    demo,
    doctor,
    drain,
    enqueue,
    evaluate,
    forget,
    gallery,
    health,
    inspect,
    lora,
    models,
    privacy,
    results,
    serve,
    status,
    sweep,
    tenants,
    tokens,
    train,
    verify,
    watch,
    webhooks,
    worker,
)
from worker.cli.exits import Exit, epilog, exit_code_of
from worker.cli.output import err, print_json, say
from worker.errors import INTERNAL, code_of

SHOWN_FAULTS = 20


class Portraits(TyperGroup):
    """The command group; errors of the three packages become messages here, tracebacks are for faults of ours."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command and exit with its code."""
        asked = list(sys.argv[1:] if args is None else args)
        own = asked[: asked.index("--")] if "--" in asked else asked
        try:
            _require_text(asked)
            code = super().main(asked, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:  # noqa: BLE001 - the last door: everything becomes a message and a code
            code = _report(error, as_json="--json" in own, all_faults="--all-faults" in own)
        sys.exit(code if isinstance(code, int) else 0)


def _require_text(arguments: Sequence[str]) -> None:
    """Raises BadParameter for bytes that are no text: neither a database nor JSON can hold them."""
    for argument in arguments:
        if not argument.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise typer.BadParameter(f"{argument!a} is no text in UTF-8; name it otherwise")


def _report(error: Exception, *, as_json: bool, all_faults: bool) -> int:
    """Tell the error in the form that was asked for; returns the exit code."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the arguments were not understood
        if as_json:
            print_json({"error": {"code": "usage", "message": error.format_message()}})
        else:
            from typer.rich_utils import rich_format_error

            rich_format_error(error)  # type: ignore[arg-type]  # by its attributes: the class moved between versions
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return Exit.INTERRUPTED
    code = code_of(error)
    if code == INTERNAL:
        traceback.print_exception(error)
    faults = getattr(error, "faults", None)
    if as_json:
        print_json({"error": _as_data(error, code, faults)})
    elif faults is not None:
        _tell_faults(error, faults, all_faults)
    else:
        _tell(f"{_message(error, code)} ({code})")
    return exit_code_of(error)


def _message(error: Exception, code: str) -> str:
    return f"unforeseen {type(error).__name__}: {error}" if code == INTERNAL else str(error)


def _as_data(error: Exception, code: str, faults: Sequence[Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"code": code, "message": _message(error, code).splitlines()[0]}
    if faults is not None:
        told["faults"] = [{name: getattr(f, name) for name in ("source", "line", "field", "message")} for f in faults]
        told["faults_total"] = getattr(error, "total", len(faults))
    return told


def _tell_faults(error: Exception, faults: Sequence[Any], all_faults: bool) -> None:
    """The first line of the error, then a line for each fault."""
    _tell(f"{str(error).splitlines()[0]} ({code_of(error)})")
    shown = faults if all_faults else faults[:SHOWN_FAULTS]
    for fault in shown:
        _tell(f"  {fault}", "")
    rest = getattr(error, "total", len(faults)) - len(shown)
    if rest and all_faults:
        _tell(f"  and {rest} more, which were counted but not kept", "dim")
    elif rest:
        _tell(f"  and {rest} more; --all-faults shows them", "dim")


def _tell(message: str, style: str | None = None) -> None:
    from rich.text import Text

    from worker.cli.output import clean

    line = Text() if style is not None else Text("error: ", style="bold red")
    err().print(line.append(clean(message), style=style or ""), soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            say(f"portraits {version('hyperlora-portraits')}")
        except PackageNotFoundError:
            say("portraits (not installed: run from a checkout)")
        raise typer.Exit


app = typer.Typer(
    name="portraits",
    cls=Portraits,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(),
)


@app.callback()
def portraits(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Faces become portraits: enqueue people and prompts, draw them with workers, fetch the pictures.

    Settings are read from PORTRAITS_* variables or a .env file; `portraits doctor` shows them.
    """
    del version


_ASKING, _LOOKING, _RUNNING = "Ask for pictures", "See and fetch them", "Run it"
_FILES = "LoRA files"
_LEARNING = "Train and measure"
app.command("enqueue", rich_help_panel=_ASKING)(enqueue.enqueue)
app.command("check", rich_help_panel=_ASKING)(check.check)
app.command("cancel", rich_help_panel=_ASKING)(changes.cancel)
app.command("pause", rich_help_panel=_ASKING)(control.pause)
app.command("resume", rich_help_panel=_ASKING)(control.resume)
app.command("retry", rich_help_panel=_ASKING)(changes.retry)
app.command("rerun", rich_help_panel=_ASKING)(changes.rerun)
app.command("status", rich_help_panel=_LOOKING)(status.status)
app.command("watch", rich_help_panel=_LOOKING)(watch.watch)
app.command("results", rich_help_panel=_LOOKING)(results.results)
app.command("inspect", rich_help_panel=_LOOKING)(inspect.inspect)
app.command("gallery", rich_help_panel=_LOOKING)(gallery.gallery)
app.add_typer(lora.commands, name="lora", rich_help_panel=_FILES)
app.add_typer(dataset.commands, name="dataset", rich_help_panel=_LEARNING)
app.command("train", rich_help_panel=_LEARNING)(train.train)
app.command("evaluate", rich_help_panel=_LEARNING)(evaluate.evaluate)
app.command("worker", rich_help_panel=_RUNNING)(worker.worker)
app.command("serve", rich_help_panel=_RUNNING)(serve.serve)
app.command("clerk", rich_help_panel=_RUNNING)(clerk.clerk)
app.command("drain", rich_help_panel=_RUNNING)(drain.drain)
app.command("health", rich_help_panel=_RUNNING)(health.health)
app.command("calibrate", rich_help_panel=_RUNNING)(calibrate.calibrate)
app.command("doctor", rich_help_panel=_RUNNING)(doctor.doctor)
app.command("archive", rich_help_panel=_RUNNING)(archive.archive)
app.command("verify", rich_help_panel=_RUNNING)(verify.verify)
app.command("sweep", rich_help_panel=_RUNNING)(sweep.sweep)
app.command("demo", rich_help_panel=_RUNNING)(demo.demo)
app.command("forget", rich_help_panel=_RUNNING)(forget.forget)
app.add_typer(privacy.commands, name="privacy", rich_help_panel=_RUNNING)
app.add_typer(models.commands, name="models", rich_help_panel=_RUNNING)
app.add_typer(tenants.commands, name="tenants", rich_help_panel=_RUNNING)
app.add_typer(tokens.commands, name="tokens", rich_help_panel=_RUNNING)
app.add_typer(webhooks.commands, name="webhooks", rich_help_panel=_RUNNING)
app.add_typer(db.commands, name="db", rich_help_panel=_RUNNING)
