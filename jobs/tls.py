"""TLS to the broker and the store: whose certificates are trusted, and by which one this process is known.

A database's is said in its URL: `?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem`.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jobs.errors import SettingsInvalid
from jobs.settings import Settings

AMQPS, REDISS = "amqps", "rediss"


def readable(path: Path, name: str) -> Path:
    """The file of the setting PORTRAITS_<name>. Raises SettingsInvalid where it cannot be read."""
    found = path.expanduser()
    try:
        with found.open("rb"):
            return found
    except OSError as error:
        raise SettingsInvalid(f"PORTRAITS_{name} names {found}, which cannot be read: {error.strerror}") from error


def broker_tls(settings: Settings) -> dict[str, Any] | None:
    """What Celery's `broker_use_ssl` is set to; None for a broker without TLS, or where its URL says it itself.

    The server's certificate must be trusted and be the host's, whether a file is named or not. Raises SettingsInvalid.
    """
    parts = urlsplit(settings.broker_url.get_secret_value())
    files = {
        name: getattr(settings, f"broker_{name}_file")
        for name in ("ca", "cert", "key")
        if getattr(settings, f"broker_{name}_file") is not None
    }
    if parts.scheme not in (AMQPS, REDISS):
        if files:
            raise SettingsInvalid(
                f"PORTRAITS_BROKER_{next(iter(files)).upper()}_FILE is of no use to a broker at {parts.scheme}://; "
                "wanted rediss:// or amqps://, which are encrypted"
            )
        return None
    if any(name.startswith("ssl") for name in parse_qs(parts.query)):
        return None
    named = {name: str(readable(path, f"BROKER_{name.upper()}_FILE")) for name, path in files.items()}
    if parts.scheme == REDISS:
        told: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
        return told | {f"ssl_{_KEYS[name]}": path for name, path in named.items()}
    told = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname}
    return told | {_KEYS[name]: path for name, path in named.items()}


_KEYS = {"ca": "ca_certs", "cert": "certfile", "key": "keyfile"}
