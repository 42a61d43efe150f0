"""Secrets from files, as Docker and Kubernetes hand them to a container: no environment variable holds them.

For every secret setting, such as `PORTRAITS_DATABASE_URL`:

1. `PORTRAITS_DATABASE_URL_FILE` names its file, in the environment or in `.env`
2. or the file `portraits_database_url` lies in `PORTRAITS_SECRETS_DIR`, by default `/run/secrets`

What is set in the environment comes before what is set in `.env`, and both before the folder. A variable and its
`..._FILE` in one place are refused, since one of the two would be left out unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from jobs.errors import SettingsInvalid

SECRETS_DIR = Path("/run/secrets")
MAX_BYTES = 64 * 1024
Variables = Mapping[str, str | None]


class NamedFiles(PydanticBaseSettingsSource):
    """The secrets whose files are named by variables, in the environment or in `.env`; their names in small letters."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Variables) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret of one field, None where no file is named. Raises SettingsInvalid."""
        return self._secret(field_name)[1], field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every secret that such a file holds. Raises SettingsInvalid, which names variable and file, no content."""
        return _known(self._secret(name) for name in secret_fields(self.settings_cls))

    def _secret(self, field_name: str) -> tuple[str, str | None]:
        variable = variable_of(self.settings_cls, field_name)
        file, named = self._variables.get(f"{variable}_file"), f"{variable.upper()}_FILE"
        if not file:
            return field_name, None
        if self._variables.get(variable):
            raise SettingsInvalid(f"{variable.upper()} and {named} are both set; wanted one of them, remove the other")
        return field_name, _content(Path(file), named)


class SecretsFolder(PydanticBaseSettingsSource):
    """The secrets that lie as files in one folder, each under its variable's name in small letters."""

    def __init__(self, settings_cls: type[BaseSettings], *variables: Variables) -> None:
        """The first of `variables` that names the folder decides."""
        super().__init__(settings_cls)
        told = f"{settings_cls.model_config.get('env_prefix', '')}secrets_dir".lower()
        named = next((folder for known in variables if (folder := known.get(told))), None)
        self._folder = Path(named) if named else SECRETS_DIR

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret of one field, None where there is no such file. Raises SettingsInvalid."""
        return self._secret(field_name)[1], field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every secret in the folder. Raises SettingsInvalid, which names the file, no content."""
        return _known(self._secret(name) for name in secret_fields(self.settings_cls))

    def _secret(self, field_name: str) -> tuple[str, str | None]:
        variable = variable_of(self.settings_cls, field_name)
        file = self._folder / variable
        return field_name, _content(file, variable.upper()) if file.is_file() else None


def secret_fields(settings_cls: type[BaseSettings]) -> Iterator[str]:
    """The names of the settings that hold secrets."""
    return (name for name, field in settings_cls.model_fields.items() if field.annotation is SecretStr)


def variable_of(settings_cls: type[BaseSettings], field_name: str) -> str:
    """The environment variable of a setting, in small letters."""
    return f"{settings_cls.model_config.get('env_prefix', '')}{field_name}".lower()


def _known(secrets: Iterator[tuple[str, str | None]]) -> dict[str, Any]:
    return {name: secret for name, secret in secrets if secret is not None}


def _content(file: Path, variable: str) -> str:
    """The file's text without the line end that editors add. Raises SettingsInvalid."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        text = data.decode().strip()
    except OSError as error:
        raise SettingsInvalid(
            f"{variable}: {file} cannot be read ({error.strerror}); let this user read it, or name another file"
        ) from None
    except UnicodeDecodeError:
        raise SettingsInvalid(f"{variable}: {file} is no text in UTF-8; wanted the secret as one line") from None
    if len(data) > MAX_BYTES or not text or not text.isprintable():
        found = f"more than {MAX_BYTES} bytes" if len(data) > MAX_BYTES else "more than that" if text else "nothing"
        raise SettingsInvalid(f"{variable}: wanted the secret as one line of text, {file} holds {found}")
    return text
