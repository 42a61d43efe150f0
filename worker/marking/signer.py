"""Signs the bytes of a picture as C2PA says, as the last step: whatever is changed afterwards is seen by a reader.

The manifest travels with the picture, so it tells nothing of a person, a prompt or a job: that software of this version
made it, from which kind of source, and with which model. The library reads every signature back before it gives it.
"""

from __future__ import annotations

import io
import json
from typing import Any

import c2pa

from jobs.digital_source import DigitalSource, uri_of
from worker.errors import MarkingBroken
from worker.marking.credentials import Credentials

SOFTWARE = "hyperlora-portraits"
MODEL_LABEL = "io.github.hyperlora-portraits.model"
# No thumbnail, since it would be a second picture; nothing over the network but what the operator asked for.
_OPTIONS = {
    "version": 1,
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": True, "verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


class Signer:
    """Signs with one certificate; safe to use from several threads."""

    def __init__(self, credentials: Credentials, *, version: str, timestamp_url: str = "") -> None:
        """`timestamp_url` is asked at each signature; empty: no network. Raises MarkingBroken."""
        self.credentials, self._version = credentials, version
        told = c2pa.C2paSignerInfo(
            credentials.algorithm, credentials.chain_pem, credentials.key_pem, timestamp_url or None
        )
        try:
            with c2pa.Settings.from_dict(_OPTIONS) as options:
                self._context = c2pa.Context(settings=options, signer=c2pa.Signer.from_info(told))
        except c2pa.C2paError as error:
            raise MarkingBroken(f"nothing can be signed with the certificate of {credentials.name}: {error}") from None

    def sign(self, data: bytes, media_type: str, *, source: DigitalSource, model: str | None = None) -> bytes:
        """The same picture with a signed manifest inside; `model` is the fingerprint of what drew it.

        Raises: MarkingBroken, also where the certificate has run out meanwhile.
        """
        self.credentials.check_time()
        signed = io.BytesIO()
        try:
            with c2pa.Builder.from_json(json.dumps(self._manifest(source, model)), self._context) as builder:
                builder.sign(media_type, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise MarkingBroken(f"a picture could not be signed as {self.credentials.name}: {error}") from None
        return signed.getvalue()

    def _manifest(self, source: DigitalSource, model: str | None) -> dict[str, Any]:
        agent = {"name": SOFTWARE, "version": self._version}
        created = {"action": "c2pa.created", "digitalSourceType": uri_of(source), "softwareAgent": agent}
        assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]
        if model is not None:
            assertions.append({"label": MODEL_LABEL, "data": {"fingerprint": model}})
        return {"claim_generator_info": [agent], "assertions": assertions}
