"""Which addresses a webhook may have: what a tenant names is a way into the network that this process stands in.

An address is checked twice: its form when it is given, and the numbers that its name stands for at each connection,
which goes to the very number that was checked. So neither a name that points inside, nor one that changes what it
points at between check and connection, nor another spelling of a number leads anywhere that is not public.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from jobs.errors import SettingsInvalid, WebhookRefused, WebhookSilent
from jobs.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], list[str]]
LONGEST_URL, LAST_PORT = 2000, 65_535
RESOLVE_SECONDS = 10.0
MOST_RESOLVING = 64
"""So many names are asked for at a time: one that hangs cannot be broken off, and keeps a thread until it ends."""
SCHEME_PORTS = {"https": 443, "http": 80}
# Public by their registration, or for older Pythons, and yet not: where clouds answer their own machines (Azure), ways
# to write an address of version 4 within one of version 6 that lead through a gateway, sites' own addresses of old,
# and what stands in documents alone.
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
        "fec0::/10",
    )
)


@dataclass(frozen=True)
class Rules:
    """What the settings allow."""

    allow_http: bool = False
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = (443,)

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Raises SettingsInvalid naming the setting that cannot be read."""
        try:
            listed = [part.strip() for part in settings.webhook_networks.split(",") if part.strip()]
            networks = tuple(ipaddress.ip_network(part) for part in listed)
        except ValueError as error:
            raise SettingsInvalid(f"PORTRAITS_WEBHOOK_NETWORKS: {error}; wanted such as 10.1.0.0/16") from error
        return cls(
            settings.webhook_allow_http, networks, tuple(int(port) for port in settings.webhook_ports.split(","))
        )

    def allow(self, address: Address) -> bool:
        """Whether a webhook may lie at this number."""
        plain = _plain(address)
        if any(plain in network for network in self.networks if network.version == plain.version):
            return True
        return is_public(plain)


def _plain(address: Address) -> Address:
    """An address of version 4 that is written as one of version 6, as itself."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_public(address: Address) -> bool:
    """Whether it is one machine of the public internet: not private, shared, local, reserved, for many, or none."""
    plain = _plain(address)
    special = (
        plain.is_multicast or plain.is_reserved or plain.is_unspecified or plain.is_loopback or plain.is_link_local
    )
    never = any(plain in network for network in _NEVER if network.version == plain.version)
    return plain.is_global and not special and not never


def check_url(url: str, rules: Rules) -> tuple[str, int]:
    """Look at a webhook's URL as it is written; returns its host and port. Raises WebhookRefused."""
    if len(url) > LONGEST_URL:
        raise WebhookRefused(f"a webhook's URL has at most {LONGEST_URL} characters, found {len(url)}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise WebhookRefused(
            "a webhook's URL is ASCII without blanks and backslashes; write other letters as %XX or xn--"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WebhookRefused(f"the webhook's URL cannot be read: {error}") from error
    _check_parts(parts, rules)
    port = SCHEME_PORTS[parts.scheme] if port is None else port
    if port not in rules.ports or not 0 < port <= LAST_PORT:
        allowed = ", ".join(map(str, rules.ports))
        raise WebhookRefused(f"a webhook's port is one of {allowed}, found {port}; PORTRAITS_WEBHOOK_PORTS says which")
    return str(parts.hostname), port


def _check_parts(parts: SplitResult, rules: Rules) -> None:
    wanted = ("https", "http") if rules.allow_http else ("https",)
    if parts.scheme not in wanted:
        more = "" if parts.scheme != "http" else "; PORTRAITS_WEBHOOK_ALLOW_HTTP=true allows http"
        raise WebhookRefused(
            f"a webhook's URL begins with {' or '.join(wanted)}, found {parts.scheme or 'none'!r}{more}"
        )
    if "@" in parts.netloc:
        raise WebhookRefused("a webhook's URL has no user and no password; the signature says who speaks")
    if parts.fragment:
        raise WebhookRefused("a webhook's URL has no part behind #, which is never sent")
    if not parts.hostname or "%" in parts.netloc:
        raise WebhookRefused("a webhook's URL names a host, without %")


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that a name stands for, best first. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]).partition("%")[0] for entry in found]


_resolving = threading.BoundedSemaphore(MOST_RESOLVING)


def resolved(host: str, port: int, resolver: Resolver, seconds: float) -> list[str]:
    """What `resolver` says within so many seconds. Raises what it raises, or TimeoutError.

    The system's resolver knows no deadline, so it runs in a thread that is left behind when it is late.
    """
    if not _resolving.acquire(blocking=False):
        raise TimeoutError(f"{MOST_RESOLVING} names are being resolved already")
    answers: list[list[str] | OSError | ValueError] = []

    def ask() -> None:
        try:
            answers.append(resolver(host, port))
        except (OSError, ValueError) as error:  # such as a name that cannot be written in ASCII
            answers.append(error)
        finally:
            _resolving.release()

    thread = threading.Thread(target=ask, name="webhook name", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise TimeoutError(f"no answer within {seconds:.3g} s")
    if isinstance(answers[0], list):
        return answers[0]
    raise answers[0]


def allowed_addresses(
    host: str, port: int, rules: Rules, resolver: Resolver = system_resolver, *, seconds: float = RESOLVE_SECONDS
) -> list[Address]:
    """The numbers that a host stands for and that may be connected to, if that is known within so many seconds.

    Raises: WebhookSilent where the name stands for nothing, WebhookRefused where nothing of it is allowed.
    """
    try:
        found = [_parsed(text) for text in resolved(host, port, resolver, seconds)]
    except (OSError, UnicodeError) as error:
        raise WebhookSilent(f"the name {host} cannot be resolved: {_reason(error)}") from error
    allowed = [address for address in dict.fromkeys(found) if rules.allow(address)]
    if not allowed:
        raise WebhookRefused(
            f"{host} lies at an address that is not public; PORTRAITS_WEBHOOK_NETWORKS names networks that are allowed"
        )
    return allowed


def _parsed(text: str) -> Address:
    return ipaddress.ip_address(text)


def _reason(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return str(error)
    return str(getattr(error, "strerror", None) or type(error).__name__)
