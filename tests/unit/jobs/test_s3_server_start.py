"""The S3 server of the tests starts although its ports are contended."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import s3_server


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands with which a program that ends at once was started in place of the server."""
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    started: list[list[str]] = []
    start = subprocess.Popen

    def noted(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        started.append(command)
        return start(command, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(s3_server, "weed_binary", lambda: str(program))
    monkeypatch.setattr(subprocess, "Popen", noted)
    return started


def _ports(command: list[str]) -> dict[str, int]:
    pairs = (argument.lstrip("-").split("=") for argument in command if ".port" in argument)
    return {name: int(value) for name, value in pairs}


def test_a_server_that_ends_is_started_again_with_other_ports(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that ends twice, and comes up the third time
    make = s3_server._make_bucket

    def make_third(server: s3_server.S3Server, process: subprocess.Popen[bytes]) -> None:
        if len(commands) < 3:
            process.wait()
            make(server, process)

    monkeypatch.setattr(s3_server, "_make_bucket", make_third)

    # When it is started
    with s3_server.run_s3_server(tmp_path) as server:
        # Then the third one is used, each with different ports for its eight listeners
        assert server.endpoint.endswith(f":{_ports(commands[2])['s3.port']}")
    tried = [frozenset(_ports(command).values()) - {0} for command in commands]
    assert [len(ports) for ports in tried] == [8, 8, 8]
    assert len(set(tried)) == 3


def test_every_listener_has_a_port_or_is_off(commands: list[list[str]], tmp_path: Path) -> None:
    # Given a server that never comes up
    with pytest.raises(RuntimeError, match="ended 3 times"), s3_server.run_s3_server(tmp_path):
        pass

    # Then every role had a port for HTTP and one for gRPC, and the catalogues with fixed ports were off
    ports = _ports(commands[0])
    roles = {f"{role}.{name}" for role in ("master", "volume", "filer", "s3") for name in ("port", "port.grpc")}
    assert set(ports) == {*roles, "s3.port.iceberg", "s3.port.lance"}
    assert ports["s3.port.iceberg"] == ports["s3.port.lance"] == 0
