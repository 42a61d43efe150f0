"""Options that several commands share, and the settings they work with."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout, errors too.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose jobs; default: PORTRAITS_TENANT.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Id or key of the job.")]
JobOrNewest = Annotated[str | None, typer.Argument(metavar="[JOB]", help="Id or key of the job; default: the newest.")]


def load_settings(**changes: Any) -> Settings:
    """The settings of this call, with `changes` before the environment.

    Raises: SettingsInvalid naming the variable; the refused value, which may be a secret, is not repeated.
    """
    from pydantic import ValidationError

    from jobs.errors import SettingsInvalid
    from jobs.settings import Settings

    try:
        return Settings(**changes)
    except ValidationError as error:
        faults = [
            f"PORTRAITS_{'_'.join(str(step) for step in detail['loc']).upper()}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise SettingsInvalid("; ".join(faults)) from None


def render_id(text: str) -> uuid.UUID:
    """The id of a picture. Raises BadParameter, which exits with 2."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no render id; `portraits results JOB --format jsonl` lists them"
        ) from None


def of_tenant(tenant: str, settings: Settings) -> str:
    """What a suggested command needs to look at this tenant's jobs; nothing for the tenant of the settings."""
    return "" if tenant == settings.tenant else f" --tenant {tenant}"


def page_key(text: str | None) -> uuid.UUID | None:
    """The id after which a page begins. Raises BadParameter, which exits with 2."""
    try:
        return None if text is None else uuid.UUID(text)
    except ValueError:
        raise typer.BadParameter(f"--after wants the id of the last row that was shown, found {text!r}") from None
