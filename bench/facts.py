"""What a figure was measured on: device, driver, clocks, libraries, and how busy the machine was."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "triton", "diffusers", "transformers", "peft", "onnxruntime", "hyperlora-portraits")
# What nvidia-smi calls it, and what it is called here, with its unit.
SMI = {
    "driver_version": "driver",
    "clocks.current.sm": "clock_mhz",
    "clocks.max.sm": "clock_max_mhz",
    "power.limit": "power_limit_watts",
    "temperature.gpu": "temperature_celsius",
}
SECONDS = 10
"""How long another program may take to answer."""


def facts(device: torch.device) -> dict[str, Any]:
    """All that can be read, in words and numbers for JSON; what cannot be read is left out."""
    return {
        "device": device_name(device),
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "libraries": libraries(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        **(_gpu(device) if device.type == "cuda" else {}),
        **_revision(),
    }


def told(found: dict[str, Any]) -> str:
    """The same in a line for people."""
    known = found["libraries"]
    parts = [found["device"]]
    if "driver" in found:
        parts.append(f"driver {found['driver']}, CUDA {found['cuda']}, {found.get('clock_mhz', '?')} MHz")
    else:
        parts.append(f"{found['threads']} of {found['cores']} cores, load {found['load']}")
    parts.append(f"Python {found['python']}")
    parts += [f"{name} {known[name]}" for name in ("torch", "diffusers", "peft") if name in known]
    return ", ".join(parts)


def device_name(device: torch.device) -> str:
    """The GPU's product name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {processor()}"


def processor() -> str:
    """The processor as it names itself; its kind where it has no name."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def libraries() -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _gpu(device: torch.device) -> dict[str, Any]:
    known = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "capability": f"{known.major}.{known.minor}",
        "memory_bytes": known.total_memory,
        "multiprocessors": known.multi_processor_count,
        **_smi(device),
    }


def _smi(device: torch.device) -> dict[str, Any]:
    """What only nvidia-smi tells; nothing where it is not there or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    asked = [program, f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits", f"--id={device.index or 0}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    cells = [cell.strip() for cell in answer.splitlines()[0].split(",")] if answer.strip() else []
    return dict(zip(SMI.values(), cells, strict=False))


def _revision() -> dict[str, Any]:
    """The commit that was measured, where git knows it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return {}
    asked = [git, "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": answer}
