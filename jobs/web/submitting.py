"""A manifest that came over HTTP: for the token's tenant, with photos that were sent, and no file of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from jobs import quotas
from jobs.errors import Fault, ManifestInvalid, RequestInvalid
from jobs.intake import enqueue_manifest, profile_warnings
from jobs.manifest import Manifest, receive_manifest
from jobs.profiles import drawing_defaults
from jobs.web import schemas
from jobs.web.access import Caller
from jobs.web.services import Services

MANIFEST_TYPES = ("application/json", "application/yaml")
SHOWN_PICTURES = 5
_ENDINGS = {
    "application/json": ".json",
    "application/yaml": ".yaml",
    "application/x-yaml": ".yaml",
    "text/yaml": ".yaml",
}


@dataclass(frozen=True)
class Body:
    """A manifest's bytes, and the ending that says how they are read."""

    data: bytes
    ending: str

    @classmethod
    def of(cls, content_type: str, data: bytes) -> Body:
        """Raises RequestInvalid for any other content than JSON and YAML."""
        named = content_type.partition(";")[0].strip().lower()
        ending = _ENDINGS.get(named)
        if ending is None:
            raise RequestInvalid(f"wanted a content type of {', '.join(MANIFEST_TYPES)}, found {named[:80]!r}")
        return cls(data, ending)


@dataclass(frozen=True)
class Submission:
    """How a manifest is to be taken: only looked at, or as a new job although it was enqueued before."""

    dry_run: bool = False
    again: bool = False


def submit(services: Services, caller: Caller, body: Body, how: Submission) -> schemas.Enqueued | schemas.DryRun:
    """Enqueue it, or say what it asks for. Raises as `jobs.intake.enqueue` does."""
    settings = services.settings
    with receive_manifest(
        body.data,
        body.ending,
        settings=settings,
        again=how.again,
        overrides={"tenant": caller.tenant},
        defaults_of=drawing_defaults(settings),
    ) as manifest:
        _require_own(manifest, caller.tenant)
        if how.dry_run:
            return _plan(services, manifest)
        made = enqueue_manifest(manifest, settings)
    told: dict[str, Any] = {name: getattr(made, name) for name in schemas.Enqueued.model_fields}
    return schemas.Enqueued.model_validate(told)


def _require_own(manifest: Manifest, tenant: str) -> None:
    """A manifest that says whose job it is means it. Raises ManifestInvalid."""
    named = manifest.named_tenant
    if named is not None and named != tenant:
        message = f"this token enqueues for tenant {tenant!r} only; leave the field out, or use another token"
        raise ManifestInvalid([Fault(message, None, "tenant")])


def _plan(services: Services, manifest: Manifest) -> schemas.DryRun:
    checked = manifest.check()
    quotas.check_before_writing(services.database, manifest, checked)
    pictures = ((person.external_id, render) for person in manifest.people() for render in person.renders)
    names = [name for name in schemas.PlannedPicture.model_fields if name != "external_id"]
    first = [
        {"external_id": who, **{name: getattr(render, name) for name in names}}
        for who, render in islice(pictures, SHOWN_PICTURES)
    ]
    return schemas.DryRun.model_validate(
        {
            "key": manifest.key,
            "profile": manifest.job.profile,
            "identities": checked.identities,
            "photos": checked.photos,
            "photo_bytes": checked.photo_bytes,
            "units": checked.units(services.settings.renders_per_unit),
            "renders": checked.renders,
            "warnings": profile_warnings(services.settings, manifest),
            "first": first,
        }
    )
