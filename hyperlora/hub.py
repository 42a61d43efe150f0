"""Where weights lie: a local folder, or a repository of the Hugging Face hub.

A hub id is `owner/name`, or `owner/name/sub/folder` for one folder of a repository; of a single file it is
`owner/name/file.safetensors`. Only safetensors, JSON and vocabulary text are ever fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hyperlora.errors import WeightsMissing

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(/[\w][\w./-]*)?")
_SAFE = ("*.safetensors", "*.json", "*.txt")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""The folders of an SDXL pipeline, those with weights first."""


def split_hub_id(name: str) -> tuple[str, str]:
    """Split into repository and folder within it ("" for the whole); `WeightsMissing` where it cannot be an id."""
    if not _HUB_ID.fullmatch(name):
        raise WeightsMissing(f"no folder at {name!r}, and it is not a hub id (owner/name or owner/name/folder)")
    owner, repository, *folder = name.split("/")
    return f"{owner}/{repository}", "/".join(folder)


def resolve(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """Return the local folder, after fetching it if it is no local folder but a hub id.

    Raises `WeightsMissing` where neither exists or the hub cannot be reached.
    """
    local = Path(folder_or_hub_id).expanduser()
    if local.is_dir():
        return local
    if local.exists() or not isinstance(folder_or_hub_id, str):
        found = "a file" if local.exists() else "missing"
        raise WeightsMissing(f"a folder with weights was wanted, {local} is {found}")
    repository, folder = split_hub_id(folder_or_hub_id)

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [f"{folder}/{pattern}" for pattern in _SAFE] if folder else list(_SAFE)
    try:
        root = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsMissing(
            f"no local folder {folder_or_hub_id!r}, and the hub repository {repository!r} cannot be fetched: "
            f"{type(error).__name__}; check the name, the network and your access, or give a local folder"
        ) from error
    if not (root / folder).is_dir():
        raise WeightsMissing(f"the hub repository {repository!r} has no folder {folder!r}")
    return root / folder


def resolve_file(name: str | Path, revision: str | None = None) -> Path:
    """Return the local path of one safetensors file, given as a file, a folder with exactly one, or a hub id.

    On the hub the file itself must be named, as a repository may hold many gigabytes beside it. Raises
    `WeightsMissing` where there is no such file, or a folder leaves open which one is meant.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        files = sorted(local.glob("*.safetensors"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files[:10]) or "none"
            raise WeightsMissing(f"a folder with one .safetensors file was wanted, {local} has: {names}; name the file")
        return files[0]
    if local.is_file():
        if local.suffix != ".safetensors":
            raise WeightsMissing(f"weights must be .safetensors (others may run code), found {local.name}")
        return local
    if not isinstance(name, str):
        raise WeightsMissing(f"no file or folder at {name}")
    repository, file = split_hub_id(name)
    if not file.endswith(".safetensors") or ".." in file.split("/"):
        raise WeightsMissing(f"no file or folder at {name!r}; on the hub a file is named owner/name/file.safetensors")

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsMissing(
            f"no local file {name!r}, and {file!r} of the hub repository {repository!r} cannot be fetched: "
            f"{type(error).__name__}; check the name, the network and your access, or give a local file"
        ) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_fingerprint(files: Mapping[str, Path] | Iterable[tuple[str, Path]]) -> str:
    """One SHA-256 over names and contents: the hash of sorted lines `name sha256`."""
    lines = sorted(f"{name} {file_sha256(path)}\n" for name, path in dict(files).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
