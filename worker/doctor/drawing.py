"""What drawing needs on this machine: a device, profiles with their weights and faces, memory, room for pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from jobs.errors import JobsError
from jobs.profiles import PACK_CARD, Profile, load_profiles
from jobs.settings import Settings
from worker.doctor.findings import Finding
from worker.doctor.installed import INSIGHTFACE_HINT, INSIGHTFACE_PACKAGES
from worker.errors import WorkerError
from worker.spool import Spool

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(/[\w][\w./-]*)?")


def spool(settings: Settings) -> Iterator[Finding]:
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


def device(settings: Settings) -> Finding:
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


def profiles(settings: Settings) -> Iterator[Finding]:
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
        yield faces(spec)


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


def faces(spec: str) -> Finding:
    from hyperlora.errors import HyperLoRAError
    from hyperlora.faces import load_analyzer

    try:
        analyzer = load_analyzer(spec)
    except HyperLoRAError as error:
        lacks = spec.startswith("insightface:") and not all(map(find_spec, INSIGHTFACE_PACKAGES))
        hint = INSIGHTFACE_HINT if lacks else "put the files there, or name another analyzer"
        return Finding("drawing", f"faces {spec}", "problem", str(error), hint)
    return Finding("drawing", f"faces {spec}", "ok", f"{analyzer.name}, {analyzer.embedding_size} numbers a face")


def memory(settings: Settings) -> Iterator[Finding]:
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
