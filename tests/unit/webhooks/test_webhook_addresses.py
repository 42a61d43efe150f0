"""Where a webhook may lie: public addresses, and nowhere inside, however that is spelled."""

from __future__ import annotations

import ipaddress
import threading
import time

import pytest

from jobs.errors import SettingsInvalid, WebhookRefused, WebhookSilent
from jobs.settings import Settings
from jobs.webhooks import addresses
from jobs.webhooks.addresses import Rules, allowed_addresses, check_url, is_public, system_resolver

STRICT = Rules(ports=(443, 8443))
INSIDE = {
    "loopback": ["127.0.0.1", "127.8.9.1", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1"],
    "link-local and metadata": ["169.254.169.254", "fe80::1", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"],
    "shared": ["100.64.0.1", "100.127.255.255"],
    "none and broadcast": ["0.0.0.0", "0.1.2.3", "255.255.255.255", "::"],
    "for many": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "reserved": ["240.0.0.1", "198.18.0.1", "192.0.0.192", "192.0.2.1", "2001:db8::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"],
    "through a gateway": ["64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "192.88.99.1"],
    "of old, and of documents": ["fec0::1", "3fff::1"],
}


@pytest.mark.parametrize("text", [one for some in INSIDE.values() for one in some])
def test_an_address_inside_is_refused(text: str) -> None:
    # Given an address of a network that is not public, then it is not, and a name that stands for it is refused
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(WebhookRefused, match="not public"):
        allowed_addresses("hook.example", 443, STRICT, lambda *_: [text])


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "2001:4860:4860::8888"]
)
def test_an_address_outside_is_taken(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert allowed_addresses("hook.example", 443, STRICT, lambda *_: [text]) == [ipaddress.ip_address(text)]


def test_of_several_addresses_those_inside_are_left_out() -> None:
    # Given a name that stands for both, when it is resolved, then only the public one is left
    found = allowed_addresses("hook.example", 443, STRICT, lambda *_: ["10.0.0.1", "1.1.1.1", "1.1.1.1"])
    assert [str(one) for one in found] == ["1.1.1.1"]


def test_a_name_that_is_never_answered_is_let_go_of_by_its_deadline() -> None:
    # Given a resolver that hangs, as the system's may for longer than any lease
    over, asked = threading.Event(), threading.Event()

    def hangs(_host: str, _port: int) -> list[str]:
        asked.set()
        over.wait(60)
        return ["1.1.1.1"]

    try:
        # When a name is asked for, then that ends by its deadline, and is told as silence
        began = time.monotonic()
        with pytest.raises(WebhookSilent, match=r"hook.example cannot be resolved: no answer within 0.05 s"):
            allowed_addresses("hook.example", 443, STRICT, hangs, seconds=0.05)
        assert asked.is_set() and time.monotonic() - began < 10
    finally:
        over.set()


def test_names_that_hang_keep_no_more_threads_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for two names, and two that hang
    monkeypatch.setattr(addresses, "_resolving", threading.BoundedSemaphore(2))
    over, left = threading.Event(), threading.Semaphore(0)

    def hangs(_host: str, _port: int) -> list[str]:
        over.wait(60)
        left.release()
        return ["1.1.1.1"]

    try:
        for _ in range(2):
            with pytest.raises(WebhookSilent, match="no answer within"):
                allowed_addresses("hook.example", 443, STRICT, hangs, seconds=0.01)

        # When a third is asked for, then it is refused at once, and nobody is asked
        with pytest.raises(WebhookSilent, match="being resolved already"):
            allowed_addresses("hook.example", 443, STRICT, lambda *_: pytest.fail("asked"))
    finally:
        over.set()
    # And there is room again when they have ended
    assert all(left.acquire(timeout=60) for _ in range(2))
    for thread in [one for one in threading.enumerate() if one.name == "webhook name"]:
        thread.join(60)
    assert allowed_addresses("hook.example", 443, STRICT, lambda *_: ["1.1.1.1"]) == [ipaddress.ip_address("1.1.1.1")]


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
def test_other_spellings_of_this_machine_are_refused(host: str) -> None:
    # Given what the system's resolver takes for 127.0.0.1, then it is refused as that, or for being no name at all
    with pytest.raises((WebhookRefused, WebhookSilent)):
        allowed_addresses(host, 443, STRICT, system_resolver)


def test_networks_are_allowed_by_setting() -> None:
    # Given a setting that names two networks
    chosen = Settings(webhook_networks="10.1.0.0/16, fd00:1::/32", webhook_ports="443, 9000")  # type: ignore[call-arg]
    rules = Rules.from_settings(chosen)
    assert rules.ports == (443, 9000)
    # Then these are allowed, also as mapped ones, and no others
    for text, is_allowed in {"10.1.2.3": True, "::ffff:10.1.2.3": True, "fd00:1::5": True, "10.2.0.1": False}.items():
        assert rules.allow(ipaddress.ip_address(text)) is is_allowed, text


def test_a_network_that_is_none_is_told_by_the_settings_name() -> None:
    with pytest.raises(SettingsInvalid, match=r"PORTRAITS_WEBHOOK_NETWORKS.*host bits"):
        Rules.from_settings(Settings(webhook_networks="10.1.0.1/16"))  # type: ignore[call-arg]


REFUSED = {
    "http://hook.example/": "begins with https, found 'http'; PORTRAITS_WEBHOOK_ALLOW_HTTP",
    "ftp://hook.example/": "begins with https, found 'ftp'",
    "hook.example/path": "begins with https, found 'none'",
    "file:///etc/passwd": "begins with https",
    "https:///path": "names a host",
    "https://user@hook.example/": "no user and no password",
    "https://user:secret@hook.example/": "no user and no password",
    "https://hook.example@127.0.0.1/": "no user and no password",
    "https://hook.example:22/": "port is one of 443, 8443, found 22",
    "https://hook.example:0/": "port is one of",
    "https://hook.example:99999/": "cannot be read",
    "https://hook.example:port/": "cannot be read",
    "https://hook.example/#part": "behind #",
    "https://hook.example/a b": "without blanks",
    "https://hook.example\\@127.0.0.1/": "backslashes",
    "https://hook.example/\r\nX-Header: 1": "without blanks",
    "https://höök.example/": "ASCII",
    "https://[fe80::1%25eth0]/": "without %",
    "https://[::1/": "cannot be read",
    "https://hook.example/" + "x" * 2000: "at most 2000 characters",
}


@pytest.mark.parametrize(("url", "words"), REFUSED.items())
def test_a_url_that_is_none_for_webhooks_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(WebhookRefused, match=words.replace("[", r"\[")) as caught:
        check_url(url, STRICT)
    assert "secret@" not in str(caught.value)


def test_http_and_its_port_are_allowed_by_setting() -> None:
    rules = Rules(allow_http=True, ports=(80, 443))
    assert check_url("http://hook.example/x", rules) == ("hook.example", 80)
    assert check_url("https://hook.example/x?y=1", rules) == ("hook.example", 443)
