"""Logs of every process that goes on for long: lines for people or JSON, with the ids of what they are about.

What a line is about is said where it is known (`about`), and stands in each line that is written meanwhile, also by
code that knows nothing of it. Nothing secret gets through: passwords in URLs, signatures of signed ones, tokens and
keys, whoever wrote them, a library or a traceback. Bytes are told by their number only: they may be a photo.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from jobs.settings import Settings

TEXT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
HIDDEN = "***"
LEAST_SECRET = 6  # a shorter one would hide ordinary words, and is found by its place in a URL anyway
# Their debugging output has requests with headers, signatures and bodies.
WORDY = ("amqp", "boto3", "botocore", "httpcore", "httpx", "kombu", "PIL", "s3transfer", "urllib3")
_RULES = (
    (re.compile(r"(://[^\s/:@\"']*):[^\s@\"']+@"), rf"\1:{HIDDEN}@"),
    (
        re.compile(
            r"(?i)([?&;](?:x-amz-[a-z-]+|awsaccesskeyid|signature|sig|token|key-pair-id|policy)=)"
            r"[^&\s\"'<>]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+)[^\s\"',]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer\s+)[a-z0-9._~+/=-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(portraits_[a-z0-9][A-Za-z0-9_-]*\.)[A-Za-z0-9_-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(/uploads/)[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{43}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(whsec_)[A-Za-z0-9+/=_-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), rf"\1{HIDDEN}"),
    (re.compile(r"""\bb(['"])(?:(?!\1)[^\\]|\\.){40,}\1"""), "<bytes>"),
    # What PostgreSQL tells of a refused row is the row itself, and what SQLAlchemy tells of a statement its values.
    (re.compile(r"(?m)^DETAIL:.*$"), f"DETAIL:  {HIDDEN}"),
    (re.compile(r"(?s)\[parameters: .*?\]\n"), f"[parameters: {HIDDEN}]\n"),
)
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default={})  # noqa: B039 - it is never changed in place
_process: dict[str, str] = {}


@contextmanager
def about(**ids: object) -> Iterator[None]:
    """Whatever this thread logs in this block is about these: tenant, job, unit, identity, render; None is left out."""
    told = {name: str(value) for name, value in ids.items() if value is not None}
    token = _about.set({**_about.get(), **told})
    try:
        yield
    finally:
        _about.reset(token)


def name_process(**names: str | None) -> None:
    """What every line of this process says from now on, such as its worker or shift; None takes a name away."""
    for name, value in names.items():
        if value is None:
            _process.pop(name, None)
        else:
            _process[name] = value


class Redaction:
    """Takes what is secret out of a text."""

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        """`secrets` are known values, which are hidden wherever they stand."""
        longest_first = sorted(secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if secrets else None

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Redaction:
        """One that knows the secrets of these settings and of the store's keys."""
        values = [getattr(settings, name) for name in type(settings).model_fields]
        texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        texts += [environment.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
        secrets = {form for text in texts for form in _forms(text)}
        return cls(frozenset(secret for secret in secrets if len(secret) >= LEAST_SECRET))

    def clean(self, value: Any) -> Any:
        """The value without secrets: a text, or whatever holds texts."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, Mapping):
            return {self.clean(name): self.clean(one) for name, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(one) for one in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._text(str(value))

    def _text(self, text: str) -> str:
        for rule, instead in _RULES:
            text = rule.sub(instead, text)
        return self._known.sub(HIDDEN, text) if self._known else text


def _forms(secret: str) -> set[str]:
    """What is secret in a setting, in every form in which it may be written: of a URL its password, else all of it."""
    if "://" in secret:
        with suppress(ValueError):  # no URL after all
            secret = urlsplit(secret).password or ""
    return {form for form in (secret, unquote(secret), quote(secret, safe="")) if form}


class _Ids(logging.Filter):
    """Puts onto each record what it is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in {**_process, **_about.get()}.items():
            record.__dict__.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """Lines for people: the message, then what it is about."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__(TEXT)
        self._redaction = redaction

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message with its ids; whatever every line of this process would say is left out."""
        shown = {name: record.__dict__[name] for name in record.__dict__ if name not in _STANDARD | set(_process)}
        told = ", ".join(f"{name} {value}" for name, value in self._redaction.clean(shown).items())
        return super().formatMessage(record) + (f" ({told})" if told else "")

    def format(self, record: logging.LogRecord) -> str:
        """The whole line, and a traceback where there is one."""
        return str(self._redaction.clean(super().format(record)))


class _Json(JsonFormatter):
    """One JSON object a line."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__(
            ("levelname", "name", "message", "process", "threadName"),
            rename_fields={"levelname": "level", "name": "logger", "threadName": "thread", "exc_info": "traceback"},
            timestamp="time",
            reserved_attrs=sorted(_STANDARD),
        )
        self._redaction = redaction

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """The object without secrets."""
        return {name: value if name == "time" else self._redaction.clean(value) for name, value in log_data.items()}


# `data` is what Celery adds to its own lines: arguments of tasks and the like.
_STANDARD = {*RESERVED_ATTRS, "taskName", "asctime", "message", "data", "color_message"}


def set_up(
    settings: Settings, *, level: int | str = logging.INFO, stream: TextIO | None = None, file: str | None = None
) -> None:
    """Let this process log as the settings say: to stderr, to `stream` or to a file; earlier handlers are replaced."""
    redaction = Redaction.of(settings)
    handler = logging.FileHandler(file) if file else logging.StreamHandler(stream or sys.__stderr__)
    handler.setFormatter(_Json(redaction) if settings.log_format == "json" else TextFormatter(redaction))
    handler.addFilter(_Ids())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in WORDY:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
