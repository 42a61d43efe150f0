"""The Hugging Face hub: what a repository has at one revision, and its files, checked by the hub's own checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hyperlora.hub import file_sha256
from worker.errors import HubUnavailable, ModelDamaged
from worker.models.lock import LockedFile
from worker.models.parts import Part

MAIN = "main"
_T = TypeVar("_T")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its bytes, and its SHA-256 where the hub stores it as a large one, else git's blob id."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    commit: str
    licence: str | None
    files: dict[str, HubFile]


def ask(part: Part, revision: str) -> Repository:
    """What the hub has. Raises HubUnavailable, also where this machine is told to be offline."""
    from huggingface_hub import HfApi

    info = _asking(part, lambda: HfApi().model_info(part.repository, revision=revision, files_metadata=True))
    card = getattr(info, "card_data", None)
    licence = card.get("license") if card is not None else None
    files = {sibling.rfilename: _file(sibling) for sibling in info.siblings or ()}
    return Repository(str(info.sha), licence if isinstance(licence, str) else None, files)


def _file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    sha256 = None if lfs is None else lfs["sha256"]
    return HubFile(sibling.rfilename, int(sibling.size or 0), sha256, sibling.blob_id)


def fetch(part: Part, commit: str, file: HubFile, folder: Path | None) -> LockedFile:
    """Download one file into the cache, or into `folder`; one that is there whole already is not sent again.

    Raises: HubUnavailable; ModelDamaged where it is not what the hub says it is.
    """
    from huggingface_hub import hf_hub_download

    path = Path(_asking(part, lambda: hf_hub_download(part.repository, file.name, revision=commit, local_dir=folder)))
    found = LockedFile(path.stat().st_size, file_sha256(path))
    is_right = found.size == file.size and (
        found.sha256 == file.sha256 if file.sha256 else file.blob_id in (None, _blob_id(path))
    )
    if not is_right:
        raise ModelDamaged(
            f"{file.name} of {part.repository} is not what the hub says it is: found {found.size:,} bytes with SHA-256 "
            f"{found.sha256}; remove {path} and pull again"
        )
    return found


def _blob_id(path: Path) -> str:
    """Git's name for a file's content: SHA-1 over its kind, its length and its bytes."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _asking(part: Part, call: Callable[[], _T]) -> _T:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call()
    except OfflineModeIsEnabled as error:
        raise HubUnavailable(f"{part.place}: this machine is told to be offline (HF_HUB_OFFLINE)") from error
    except GatedRepoError as error:
        raise HubUnavailable(
            f"{part.repository} wants you to agree to its terms on its page, and then HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError) as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise HubUnavailable(
                f"the hub has no {part.place} at this revision, or not for you: {type(error).__name__}; check the name"
            ) from error
        raise HubUnavailable(f"{part.place}: the hub does not answer, and the file is not here") from error
    except (HfHubHTTPError, OSError) as error:
        raise HubUnavailable(f"{part.place}: the hub does not answer: {type(error).__name__}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in {"httpx", "httpx2", "httpcore"}:
            raise
        raise HubUnavailable(f"{part.place}: the hub does not answer: {type(error).__name__}") from error
