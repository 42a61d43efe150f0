"""Where consent is required, people come only with it and with a purpose, whatever form the manifest has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from queue_world import TENANT, World
from sqlalchemy import select

from jobs import privacy
from jobs.errors import ManifestInvalid
from jobs.intake import enqueue
from jobs.models import Event, Identity, Job
from jobs.repository import tenants

JOB = "profile: fake\nprompts:\n  - text: a portrait\n"
AGREED = {"consent": "form 12", "purpose": "team page"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifest"
    made.mkdir()
    for number, name in enumerate(("ada", "bob")):
        Image.new("RGB", (40, 40), (number, 50, 90)).save(made / f"{name}.png")
    return made


def manifest(*people: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "tenant": TENANT,
        "profile": "fake",
        "prompts": [{"text": "a portrait"}],
        "identities": list(people),
        **changes,
    }


def requires(world: World, *, by: str) -> None:
    """Consent is required by the tenant, or by the setting."""
    if by == "setting":
        world.settings = world.settings.model_copy(update={"require_consent": True})
        return
    with world.database.transaction() as tx:
        tenants.change(tx, TENANT, requires_consent=True)


@pytest.mark.parametrize("by", ["tenant", "setting"])
def test_people_without_consent_are_refused_with_line_and_field_and_nothing_is_written(
    world: World, folder: Path, by: str
) -> None:
    # Given that consent is required, and a manifest of two people of whom one lacks it, and one its purpose
    requires(world, by=by)
    file = folder / "people.yaml"
    file.write_text(
        f"{JOB}tenant: {TENANT}\nidentities:\n  - id: ada\n    purpose: team page\n    photos: [ada.png]\n"
        "  - id: bob\n    consent: form 12\n    photos: [bob.png]\n"
    )

    # When it is enqueued, then both are told, with where they stand
    with pytest.raises(ManifestInvalid) as refused:
        enqueue(file, settings=world.settings)
    told = [(fault.line, fault.field) for fault in refused.value.faults]
    assert told == [(6, "identities[0].consent"), (9, "identities[1].purpose")]
    assert "add `consent`" in refused.value.faults[0].message
    with world.database.reading() as tx:
        assert tx.execute(select(Job.id)).all() == tx.execute(select(Identity.id)).all() == []
    assert list(world.storage.list("")) == []


def test_a_table_says_it_in_its_columns_and_who_is_made_of_others_needs_none(world: World, folder: Path) -> None:
    # Given that consent is required, and a CSV with it; and a mix of people who have given theirs
    requires(world, by="tenant")
    (folder / "job.yaml").write_text(JOB)
    table = folder / "people.csv"
    table.write_text("id,photos,consent,purpose\nada,ada.png,form 12,team page\n")
    people = [{"id": name, "photos": [f"{name}.png"], **AGREED} for name in ("ada", "bob")]
    mixed = manifest(*people, {"id": "both", "identity": {"mix": {"ada": 1, "bob": 1}}})

    # When both are enqueued, then they are accepted, and a row without is not
    own = {"settings": world.settings, "overrides": {"tenant": TENANT}}
    assert enqueue(table, job_file=folder / "job.yaml", **own).created
    assert enqueue(mixed, settings=world.settings, base=folder).identities == 3
    table.write_text("id,photos,consent,purpose\nada,ada.png,,team page\n")
    with pytest.raises(ManifestInvalid, match="line 2, consent"):
        enqueue(table, job_file=folder / "job.yaml", **own)


def test_without_the_requirement_nobody_is_asked(world: World, folder: Path) -> None:
    # Given a tenant that requires nothing, when people come without, then they are enqueued
    assert enqueue(manifest({"id": "ada", "photos": ["ada.png"]}), settings=world.settings, base=folder).created


def test_consent_that_changes_is_kept_and_noted_and_goes_with_the_person(world: World, folder: Path) -> None:
    # Given a person who has agreed to something
    first = {"id": "ada", "photos": ["ada.png"], **AGREED}
    enqueue(manifest(first), settings=world.settings, base=folder)

    # When a later job says the same, and another one something else
    enqueue(manifest(first, key="same"), settings=world.settings, base=folder)
    later = {**first, "purpose": "poster"}
    enqueue(manifest(later, key="other"), settings=world.settings, base=folder)

    # Then the person's row says the last, and one event tells what changed, without what it was
    with world.database.reading() as tx:
        row = tx.execute(select(Identity)).one()
        events = tx.execute(select(Event.data).where(Event.kind == "consent.changed")).scalars().all()
    assert (row.consent_reference, row.purpose) == ("form 12", "poster")
    assert events == [{"identity": str(row.id), "changed": ["purpose"]}]

    # And when the person is forgotten, so is that
    privacy.forget("ada", tenant=TENANT, settings=world.settings)
    with world.database.reading() as tx:
        assert tx.execute(select(Event.id).where(Event.kind == "consent.changed")).all() == []
