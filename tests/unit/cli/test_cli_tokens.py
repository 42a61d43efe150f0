"""`portraits tokens` and what `portraits serve` refuses to begin with."""

from __future__ import annotations

import datetime as dt
import socket
import sys

import pytest
from cli_world import CliWorld

from jobs import logs, tokens
from jobs.database import Database
from jobs.errors import NotAuthenticated
from worker.cli import serve


def test_a_token_is_made_shown_once_listed_and_revoked(cli: CliWorld) -> None:
    # Given a token that was made for people, and one for programs with a time
    cli.migrate()
    text = cli.run("tokens", "create", "laptop").stdout.splitlines()[0]
    made = cli.json("tokens", "create", "shop", "--tenant", "acme", "--write", "--expires", "90d")

    # Then both are good for what they say
    database = Database.from_settings(cli.settings)
    first, second = tokens.authenticate(database, text), tokens.authenticate(database, made["token"])
    assert (first.tenant_id, first.may_write, first.expires_at) == ("default", False, None)
    assert (second.tenant_id, second.may_write) == ("acme", True)
    assert second.expires_at is not None
    assert abs((second.expires_at - second.created_at) - dt.timedelta(days=90)) < dt.timedelta(seconds=10)

    # And lists show neither text nor hash, and one tenant's only
    listed = cli.run("tokens", "list").stdout
    assert "laptop" in listed and "shop" not in listed and text.partition(".")[2] not in listed
    (row,) = cli.json("tokens", "list", "--tenant", "acme")["tokens"]
    assert row["name"] == "shop" and not {"sha256", "token"} & set(row)
    assert first.sha256 not in listed

    # When one is revoked by its name, then it is refused at once, and the list says so
    cli.run("tokens", "revoke", "laptop")
    with pytest.raises(NotAuthenticated):
        tokens.authenticate(database, text)
    assert "revoked" in cli.run("tokens", "list").stdout
    database.dispose()


def test_what_cannot_be_is_refused(cli: CliWorld) -> None:
    cli.migrate()
    assert cli.json("tokens", "revoke", "nobody", exit_code=5)["error"]["code"] == "unknown_token"
    assert cli.json("tokens", "create", " ", exit_code=2)["error"]["code"] == "request_invalid"
    assert (
        cli.json("tokens", "create", "a", "--tenant", "Not A Tenant", exit_code=2)["error"]["code"] == "request_invalid"
    )
    cli.run("tokens", "create", "a", "--expires", "soon", exit_code=2)


def test_serving_begins_only_where_it_can(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no tables, then it says what to do
    monkeypatch.setattr(logs, "set_up", lambda settings: None)  # this process has logs of its own
    result = cli.run("serve", "--port", 0, "--no-clerk", exit_code=3)
    assert "portraits db upgrade" in result.output
    cli.run("db", "upgrade")

    # Given a port that is taken, a certificate without its key, a secret that is too short
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli.run("serve", "--port", taken.getsockname()[1], "--no-clerk", exit_code=3)
        assert "cannot listen on 127.0.0.1" in result.output
    cli.run("serve", "--tls-key", "key.pem", "--no-clerk", exit_code=2)
    monkeypatch.setenv("PORTRAITS_SERVE_SECRET", "short")
    assert "has 5 characters" in cli.run("serve", "--port", 0, "--no-clerk", exit_code=3).output
    monkeypatch.delenv("PORTRAITS_SERVE_SECRET")

    # Given an installation without the extra
    monkeypatch.setattr(serve, "SERVE_MODULES", ("fastapi", "a_module_that_is_not_there"))
    result = cli.run("serve", "--port", 0, exit_code=3)
    assert "pip install 'hyperlora-portraits[serve]'" in result.output
    assert "a_module_that_is_not_there" not in sys.modules


@pytest.mark.parametrize(
    "url", ["portraits.example.com", "https://user@host", "https://host/path", "javascript:x", "//host"]
)
def test_an_address_that_is_none_is_refused(cli: CliWorld, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PORTRAITS_SERVE_URL", url)
    assert cli.json("tokens", "list", exit_code=3)["error"]["code"] == "settings_invalid"
