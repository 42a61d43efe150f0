"""Reads back what a picture proves of its origin: whose signature it carries, and whether anything was changed since.

A file may be anybody's: nothing that it names is fetched, and what it tells is shown as text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import c2pa

from jobs.digital_source import VOCABULARY
from worker.marking.signer import MODEL_LABEL

State = Literal["none", "trusted", "valid", "invalid"]
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}
_UNTRUSTED = "signingCredential.untrusted"
WORDS: dict[State, str] = {
    "none": "not signed: it never was, or what was inside was stripped",
    "trusted": "unchanged since it was signed, by a signer that is trusted here",
    "valid": "unchanged since it was signed, by a signer that is not trusted here",
    "invalid": "the signature does not hold: the file was changed, or the certificate was not fit",
}


@dataclass(frozen=True)
class Provenance:
    """What a reader of C2PA finds: `trusted` and `valid` mean unchanged, `none` that there is no manifest.

    `sources` are IPTC's words of the actions; `faults` the reader's codes of what is wrong, each with its words.
    """

    state: State
    signer: str | None = None
    issuer: str | None = None
    algorithm: str | None = None
    signed_at: str | None = None
    software: str | None = None
    sources: tuple[str, ...] = ()
    model: str | None = None
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it is signed and unchanged."""
        return self.state in ("trusted", "valid")

    @property
    def words(self) -> str:
        """The state as a sentence."""
        return WORDS[self.state]


def read_provenance(data: bytes, media_type: str, *, anchors_pem: bytes | None = None) -> Provenance:
    """What the picture proves; `anchors_pem` are the authorities that are trusted, none without."""
    told: dict[str, Any] = {"version": 1, "verify": _OFFLINE}
    if anchors_pem is not None:
        told["trust"] = {"trust_anchors": anchors_pem.decode(errors="replace")}
    try:
        with (
            c2pa.Settings.from_dict(told) as options,
            c2pa.Context(settings=options) as context,
            c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader,
        ):
            return _told(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return Provenance("none")
    except c2pa.C2paError as error:  # such as a manifest that is cut short, or lies elsewhere
        return Provenance("invalid", faults=(("unreadable", str(error)),))


def _told(store: dict[str, Any]) -> Provenance:
    manifest = _named(_named(store, "manifests"), str(store.get("active_manifest")))
    signature = _named(manifest, "signature_info")
    failures = _all(_named(_named(store, "validation_results"), "activeManifest"), "failure")
    faults = tuple((str(one.get("code")), str(one.get("explanation", ""))) for one in failures)
    is_whole = store.get("validation_state") in ("Valid", "Trusted")
    state: State = (
        "invalid" if not is_whole else "valid" if any(code == _UNTRUSTED for code, _ in faults) else "trusted"
    )
    assertions = _all(manifest, "assertions")
    models = [_named(one, "data").get("fingerprint") for one in assertions if one.get("label") == MODEL_LABEL]
    generator = next(iter(_all(manifest, "claim_generator_info")), {})
    return Provenance(
        state=state,
        signer=_text(signature.get("common_name")),
        issuer=_text(signature.get("issuer")),
        algorithm=_text(signature.get("alg")),
        signed_at=_text(signature.get("time")),
        software=" ".join(str(generator[part]) for part in ("name", "version") if part in generator) or None,
        sources=tuple(_sources(assertions)),
        model=_text(models[0]) if models else None,
        faults=faults,
    )


def _sources(assertions: list[dict[str, Any]]) -> Iterator[str]:
    for one in assertions:
        if str(one.get("label")).startswith("c2pa.actions"):
            for action in _all(_named(one, "data"), "actions"):
                if "digitalSourceType" in action:
                    yield str(action["digitalSourceType"]).removeprefix(VOCABULARY)


def _named(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """What is held under a name; {} where it is nothing with names, as somebody else has written it."""
    found = holder.get(name)
    return found if isinstance(found, dict) else {}


def _all(holder: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = holder.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _text(value: object) -> str | None:
    return None if value is None else str(value)
