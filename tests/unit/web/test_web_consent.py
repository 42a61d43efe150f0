"""Where a tenant requires consent, it is required over HTTP too."""

from __future__ import annotations

import pytest
from web_world import ACME, Site, announced, manifest, photo_bytes, sha256

from jobs.models import Job
from jobs.repository import tenants

GREEN = photo_bytes("green")
NAMED = f"sha256:{sha256(GREEN)}"


@pytest.mark.parametrize("how", ["/jobs", "/jobs?dry_run=true"])
def test_people_without_consent_are_refused_with_their_fields(site: Site, how: str) -> None:
    # Given a tenant that requires consent, and a photo that was sent
    with site.database.transaction() as tx:
        tenants.change(tx, ACME, requires_consent=True)
    place = site.ask("POST", "/photos", json=announced(GREEN)).json()
    assert site.client.put(place["url"], content=GREEN, headers=place["headers"]).status_code == 204
    asked = manifest("ada", photo=NAMED)

    # When a job names it for somebody without consent, then both fields are told, and nothing is written
    answer = site.ask("POST", how, json=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "manifest_invalid"), answer.text
    assert [one["field"] for one in answer.json()["faults"]] == ["identities[0].consent", "identities[0].purpose"]
    with site.database.reading() as tx:
        assert tx.execute(Job.__table__.select()).all() == []

    # And with both it is taken
    asked["identities"][0] |= {"consent": "form 12", "purpose": "team page"}
    assert site.ask("POST", how, json=asked).status_code in (200, 201)
