"""Whole stacks to run a job through: database, broker, store, and real Celery worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
from s3_server import S3Server
from services import RABBITMQ_URL, REDIS_URL, fresh_postgres, missing

from jobs.database import Database
from jobs.reports import JobStatus, status
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
# How long a process may take to end, or a job to come as far as is wanted: a busy machine is no fault of the code.
PATIENCE_SECONDS = 240.0
PROFILES = '[profiles.fake]\nrenderer = "fake"\nbatch_size = 4\n'


class Stack:
    """One configured installation, its settings and the environment that says so."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        profiles = home / "profiles.toml"
        profiles.write_text(PROFILES)
        self.environment = {
            "PORTRAITS_HOME": str(home),
            "PORTRAITS_PROFILES_FILE": str(profiles),
            "PORTRAITS_LEASE_SECONDS": "30",
            "PORTRAITS_REAP_SECONDS": "0.5",
            "PORTRAITS_RESEND_SECONDS": "2",
            "PORTRAITS_RETRY_SECONDS": "0.2",
            "PORTRAITS_CLERK": "off",  # a process more for each worker, where nothing looks at what it does
            **environment,
        }
        fields = {
            name.removeprefix("PORTRAITS_").lower(): value
            for name, value in self.environment.items()
            if name.startswith("PORTRAITS_")
        }
        self.settings = Settings(**fields)  # type: ignore[arg-type]
        self.database = Database.from_settings(self.settings)
        self.database.upgrade()

    @contextmanager
    def worker(
        self, name: str = "worker", *, app: str = "worker.app", level: str = "INFO", **extra: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A Celery worker process of its own process group, ended with SIGTERM, and killed if it does not listen."""
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", "-l", level]
        log_path = self.home / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra},
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    kill_group(process)
                    raise

    def log(self, name: str = "worker") -> str:
        """What the worker wrote."""
        return (self.home / f"{name}.log").read_text()

    def wait(self, until: Callable[[JobStatus], bool], *, seconds: float = PATIENCE_SECONDS) -> JobStatus:
        """Ask for the newest job's status until it is as wanted."""
        pause, ends_at = threading.Event(), time.monotonic() + seconds
        while time.monotonic() < ends_at:
            found = status(settings=self.settings)
            if until(found):
                return found
            pause.wait(0.1)
        logs = "\n".join(path.read_text()[-4000:] for path in self.home.glob("*.log"))
        raise AssertionError(f"not in {seconds:g} s; the job is {found.job}; the workers said:\n{logs}")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the parent and its child: what a power cut does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def people_manifest(**changes: Any) -> dict[str, Any]:
    """Three of the example people, two prompts with two seeds: 12 pictures."""
    return {
        "key": f"job-{uuid.uuid4().hex[:8]}",
        "profile": "fake",
        "defaults": {"size": 64, "steps": 2, "seeds": 2},
        "prompts": [
            {"name": "office", "text": "portrait of {subject} in a suit"},
            {"name": "garden", "text": "portrait of {subject} in a garden", "guidance": 3},
        ],
        "identities": [
            {"id": "ada", "subject": "a woman", "photos": ["ada-1.jpg", "ada-2.jpg"]},
            {"id": "alan", "subject": "a man", "photos": ["alan-1.jpg"]},
            {"id": "hedy", "subject": "a woman", "photos": ["hedy-1.jpg", "hedy-2.jpg", "hedy-3.jpg"]},
        ],
        **changes,
    }


PHOTOS = ROOT / "examples" / "photos"


def copy_photos(folder: Path) -> None:
    """The example photos in a folder of their own."""
    shutil.copytree(PHOTOS, folder, dirs_exist_ok=True)


@contextmanager
def serverless(home: Path, _: Callable[[], S3Server], **extra: str) -> Iterator[Stack]:
    """SQLite, a broker without a server, a folder."""
    yield Stack(home, extra)


@contextmanager
def filesystem(home: Path, _: Callable[[], S3Server], **extra: str) -> Iterator[Stack]:
    """SQLite, kombu's folder of messages, a folder."""
    yield Stack(home, {"PORTRAITS_BROKER_URL": f"filesystem://{home / 'messages'}", **extra})


@contextmanager
def redis(home: Path, s3: Callable[[], S3Server], **extra: str) -> Iterator[Stack]:
    """PostgreSQL, Redis, S3."""
    with _real(home, s3, f"{REDIS_URL}/14", "Redis (PORTRAITS_TEST_REDIS_URL)", extra) as stack:
        yield stack


@contextmanager
def rabbitmq(home: Path, s3: Callable[[], S3Server], **extra: str) -> Iterator[Stack]:
    """PostgreSQL, RabbitMQ with a quorum queue, S3."""
    with _real(home, s3, f"{RABBITMQ_URL}//", "RabbitMQ (PORTRAITS_TEST_RABBITMQ_URL)", extra) as stack:
        yield stack


@contextmanager
def _real(home: Path, s3: Callable[[], S3Server], broker: str, what: str, extra: dict[str, str]) -> Iterator[Stack]:
    queue = f"portraits-test-{uuid.uuid4().hex[:12]}"
    connection = kombu.Connection(broker, connect_timeout=20)
    try:
        connection.ensure_connection(max_retries=1, timeout=20)
    except (OSError, kombu.exceptions.OperationalError):
        missing(what)
    server = s3()
    for name, value in server.environment.items():
        os.environ[name] = value
    try:
        with fresh_postgres() as url:
            environment = {
                "PORTRAITS_DATABASE_URL": url,
                "PORTRAITS_BROKER_URL": broker,
                "PORTRAITS_QUEUE": queue,
                "PORTRAITS_STORAGE_URL": f"s3://{server.bucket}/{uuid.uuid4().hex[:8]}",
                **server.environment,
                **extra,
            }
            stack = Stack(home, environment)
            yield stack
            stack.database.dispose()
    finally:
        for name in server.environment:
            os.environ.pop(name, None)
        with connection.channel() as channel:
            for name in (queue, f"{queue}.dead"):
                kombu.Queue(name, channel=channel).delete()
        connection.release()


STACKS = {"serverless": serverless, "filesystem": filesystem, "redis": redis, "rabbitmq": rabbitmq}
