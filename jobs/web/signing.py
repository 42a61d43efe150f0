"""Signatures over what is handed out and comes back: sessions and upload addresses.

HMAC-SHA256 under a key of the installation. What is signed is named by its purpose, so that nothing signed for one can
be shown for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.errors import SettingsInvalid
from jobs.settings import Settings

KEY_FILE = "serve.key"
LEAST_CHARACTERS = 32
_MOST_SIGNED = 4096


class Signer:
    """Signs small pieces of plain data, and reads back only what it has signed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> Signer:
        """The key of the settings, or that of home, which is made when it is missing. Raises SettingsInvalid."""
        given = settings.serve_secret.get_secret_value()
        if given and len(given) < LEAST_CHARACTERS:
            raise SettingsInvalid(
                f"PORTRAITS_SERVE_SECRET has {len(given)} characters, wanted {LEAST_CHARACTERS} at least; take "
                "`openssl rand -base64 32`, or leave it empty"
            )
        return cls(given.encode() if given else _key_of_home(settings.home / KEY_FILE))

    def sign(self, purpose: str, data: dict[str, Any]) -> str:
        """The data and its signature as one text for cookies and addresses; anybody can read the data."""
        told = _encode(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
        return f"{told}.{_encode(self._mac(purpose, told))}"

    def read(self, purpose: str, text: str) -> dict[str, Any] | None:
        """The data of a text that was signed here for this purpose; None for any other text."""
        told, dot, mac = text.partition(".")
        if not dot or len(text) > _MOST_SIGNED or not text.isascii():
            return None
        if not hmac.compare_digest(mac, _encode(self._mac(purpose, told))):
            return None
        data: dict[str, Any] = json.loads(base64.urlsafe_b64decode(told + "=" * (-len(told) % 4)))
        return data

    def _mac(self, purpose: str, told: str) -> bytes:
        return hmac.new(self._key, f"{purpose}\n{told}".encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _key_of_home(file: Path) -> bytes:
    """The key in a file that only its owner reads; of several processes that make it at once, one wins."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        if not file.exists():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as opened:
                opened.write(secrets.token_urlsafe(48))
            with suppress(FileExistsError):
                os.link(temporary, file)
            temporary.unlink()
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise SettingsInvalid(f"{file} cannot be read or made ({told}); set PORTRAITS_SERVE_SECRET instead") from error
    if len(key) < LEAST_CHARACTERS:
        raise SettingsInvalid(f"{file} holds {len(key)} characters, wanted {LEAST_CHARACTERS} at least; remove it")
    return key.encode()
