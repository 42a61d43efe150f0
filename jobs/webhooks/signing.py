"""What is signed and how: https://www.standardwebhooks.com, by that project's own library."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
import secrets
import uuid
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from standardwebhooks import Webhook

from jobs.errors import WebhookRefused

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES, OUR_BYTES = 24, 64, 32


def new_secret() -> str:
    """A fresh secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(OUR_BYTES)).decode()


def check_secret(text: str) -> str:
    """A secret that somebody gives. Raises WebhookRefused, which does not repeat it."""
    wanted = f"a webhook's secret is {PREFIX} and {LEAST_BYTES} to {MOST_BYTES} bytes in base64"
    if not re.fullmatch(PREFIX + r"[A-Za-z0-9+/]+={0,2}", text):
        raise WebhookRefused(f"{wanted}, found something else")
    try:
        size = len(base64.b64decode(text.removeprefix(PREFIX), validate=True))
    except binascii.Error as error:
        raise WebhookRefused(f"{wanted}, found no base64") from error
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise WebhookRefused(f"{wanted}, found {size} bytes")
    return text


def message(delivery_id: uuid.UUID, payload: Mapping[str, Any], secret: str) -> tuple[bytes, dict[str, str]]:
    """A message's body and headers; its id is the same at each try, its timestamp that of this one."""
    body = json.dumps(payload, separators=(",", ":"))
    now, name = dt.datetime.now(dt.UTC), f"msg_{delivery_id.hex}"
    return body.encode(), {
        "content-type": "application/json",
        "user-agent": f"portraits/{_version()}",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, now, body),
    }


@cache
def _version() -> str:
    try:
        return version("hyperlora-portraits")
    except PackageNotFoundError:
        return "0+unknown"
