"""Every setting as it is in force, with secrets masked."""

from __future__ import annotations

import re
from typing import Any

from pydantic import SecretStr

from jobs.broker import describe_broker
from jobs.database import Database
from jobs.errors import JobsError
from jobs.settings import Settings

_LOGIN = re.compile(r"//[^/@]*@")


def configuration(settings: Settings) -> dict[str, Any]:
    """Every setting with secrets masked."""
    told: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name == "database_url":
            told[name] = _database_name(settings)
        elif name == "broker_url":
            told[name] = describe_broker(settings)
        elif isinstance(value, SecretStr):
            told[name] = "***" if value.get_secret_value() else ""
        else:
            told[name] = _LOGIN.sub("//***@", value) if isinstance(value, str) else value
    return told


def changed(settings: Settings) -> set[str]:
    """The settings that were given, by environment or .env."""
    return set(settings.model_fields_set)


def _database_name(settings: Settings) -> str:
    try:
        return str(Database.from_settings(settings))
    except JobsError:
        return "cannot be read"
