"""`portraits lora refine`: from a file or a stored weight set, to a file or a stored weight set."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from cli_world import CliWorld
from sqlalchemy import delete

from hyperlora.lora import LoRA
from jobs.database import Database
from jobs.models import WeightSet, WeightSetSource
from jobs.repository import people, weight_sets
from jobs.storage import open_storage
from worker.cli import lora_refine
from worker.lora_tools.provenance import Source, sources_of, stamped
from worker.lora_tools.stored import WeightSetShelf

PHOTOS = Path(__file__).resolve().parents[3] / "examples" / "photos"
ADA = [PHOTOS / f"ada-{number}.jpg" for number in (1, 2)]
FEW = ("--steps", 2, "--batch-size", 1)
FINGERPRINT = "ab" * 32


@pytest.fixture
def ada(cli: CliWorld, pack: Path) -> Path:
    """Ada's LoRA as a file."""
    cli.run("lora", "generate", *ADA, "--out", "ada.safetensors")
    return cli.folder / "ada.safetensors"


def keep(cli: CliWorld, file: Path) -> None:
    """Put a LoRA into the store and the database, as a worker does."""
    cli.migrate()
    settings, data = cli.settings, file.read_bytes()
    key = f"{settings.tenant}/weights/{FINGERPRINT}-1.safetensors"
    open_storage(settings.storage_url, settings).put(key, data, content_type="application/octet-stream")
    database = Database.from_settings(settings)
    with database.transaction() as tx:
        people.register(tx, settings.tenant, [])
        weight_sets.begin(tx, settings.tenant, FINGERPRINT, hyperlora_fingerprint="cd" * 32)
        row = weight_sets.claim(tx, settings.tenant, FINGERPRINT, "a worker", lease_seconds=60)
        assert row is not None
        weight_sets.finish(
            tx,
            row,
            "a worker",
            storage_key=key,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            recogniser="opencv-sface",
            reference_embedding=b"\0" * 512,
            seconds=1.0,
        )
    database.dispose()


def test_a_file_is_refined_into_a_file(cli: CliWorld, ada: Path) -> None:
    # When a LoRA is trained for two steps
    answer = cli.json("lora", "refine", ada, *ADA, "--out", "refined.safetensors", *FEW)

    # Then another LoRA of the same shape lies there
    before, after = LoRA.load(ada), LoRA.load("refined.safetensors")
    assert before.layers.keys() == after.layers.keys() and after.rank == before.rank
    assert any(not torch.equal(before.layers[name].up, after.layers[name].up) for name in before.layers)
    assert answer["file"]["rank"] == 8 and answer["weight_set"] is None and answer["training"]["steps"] == 2

    # And it says from whose photos it came, and on which it was trained
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in ADA]
    assert after.metadata["hyperlora_kind"] == "refined"
    assert sources_of(after) == [Source("person", hashes), Source("training", hashes)]
    assert after.metadata["hyperlora_trigger_words"] == before.metadata["hyperlora_trigger_words"]
    assert after.metadata["refined_from"] == hashlib.sha256(ada.read_bytes()).hexdigest()


def test_the_seed_decides(cli: CliWorld, ada: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cli.run("lora", "refine", ada, ADA[0], "--out", f"{name}.safetensors", "--seed", seed, *FEW)
    first, again, other = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert first == again and first != other


def test_a_stored_weight_set_becomes_another_one(cli: CliWorld, ada: Path) -> None:
    # Given a weight set that a worker has stored
    keep(cli, ada)

    # When it is refined into the store, twice
    answer = cli.json("lora", "refine", FINGERPRINT, *ADA, "--store", *FEW)
    again = cli.json("lora", "refine", FINGERPRINT, *ADA, "--store", *FEW)

    # Then there is one more, which is ready, whole, and measured against the same person
    assert (answer["created"], again["created"]) == (True, False) and answer["weight_set"] == again["weight_set"]
    assert answer["file"] is None
    database, settings = Database.from_settings(cli.settings), cli.settings
    with database.reading() as tx:
        source = weight_sets.find(tx, settings.tenant, FINGERPRINT)
        refined = weight_sets.find(tx, settings.tenant, answer["weight_set"])
        count = len(tx.execute(WeightSet.__table__.select()).all())
    database.dispose()
    assert source is not None and refined is not None and count == 2
    assert (refined.state, refined.kind, refined.branch) == ("ready", "refined", "id")
    assert (refined.recogniser, refined.reference_embedding) == (source.recogniser, source.reference_embedding)
    data = open_storage(settings.storage_url, settings).get(str(refined.storage_key))
    assert hashlib.sha256(data).hexdigest() == refined.sha256
    assert LoRA.from_bytes(data).metadata["hyperlora_kind"] == "refined"


def test_a_refined_set_that_no_row_names_yet_is_written_anew_for_the_sweep(cli: CliWorld, ada: Path) -> None:
    # Given a refined set that lies in the store since long ago, of a call that was killed before its row
    keep(cli, ada)
    settings, lora = cli.settings, LoRA.load(ada)
    storage, shelf = open_storage(settings.storage_url, settings), WeightSetShelf(settings, settings.tenant)
    source = shelf.get(FINGERPRINT)
    fingerprint, _ = shelf.add_refined(source, lora, seconds=1.0)
    key = f"{settings.tenant}/weights/{fingerprint}-refined.safetensors"
    os.utime(storage.root / key, (1.0, 1.0))  # type: ignore[attr-defined]
    database = Database.from_settings(settings)
    with database.transaction() as tx:
        tx.execute(delete(WeightSetSource))
        tx.execute(delete(WeightSet).where(WeightSet.kind == "refined"))
    database.dispose()

    # When it is stored again, then it is young
    assert shelf.add_refined(source, lora, seconds=1.0) == (fingerprint, True)
    (found,) = storage.entries(key)
    assert found.modified_at > 1_000.0

    # And once a row names it, it is left alone
    os.utime(storage.root / key, (1.0, 1.0))  # type: ignore[attr-defined]
    assert shelf.add_refined(source, lora, seconds=1.0) == (fingerprint, False)
    assert [entry.modified_at for entry in storage.entries(key)] == [1.0]


def test_a_damaged_or_unknown_set_is_refused(cli: CliWorld, ada: Path) -> None:
    # Given a weight set whose object was changed, then none
    keep(cli, ada)
    settings = cli.settings
    open_storage(settings.storage_url, settings).put(
        f"{settings.tenant}/weights/{FINGERPRINT}-1.safetensors", b"other", content_type="application/octet-stream"
    )

    # When they are asked for, then the reason is told
    command = ("lora", "refine", FINGERPRINT, *ADA, "--store", *FEW)
    assert cli.json(*command, exit_code=1)["error"]["code"] == "weight_set_damaged"
    unknown = ("lora", "refine", "00" * 32, *ADA, "--store", *FEW)
    assert cli.json(*unknown, exit_code=5)["error"]["code"] == "unknown_weight_set"
    assert cli.json(*command, "--tenant", "others", exit_code=5)["error"]["code"] == "unknown_weight_set"


def test_what_makes_no_sense_is_said(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("lora", "refine", "ada.safetensors", *ADA)
    assert "--out FILE, --store" in cli.json(*asked, exit_code=2)["error"]["message"]
    assert "needs the fingerprint" in cli.json(*asked, "--store", exit_code=2)["error"]["message"]
    assert "there is no LoRA file" in cli.json(*asked, "--out", "a.safetensors", exit_code=2)["error"]["message"]
    monkeypatch.setattr(lora_refine, "missing_modules", list)
    assert "not installed: peft" in cli.run(*asked, "--out", "a.safetensors", exit_code=3).stderr


def test_sources_of_other_programs_are_nothing() -> None:
    lora = LoRA({}, {"hyperlora_sources": json.dumps([{"photos": 3}])})
    assert sources_of(lora) == [] and sources_of(LoRA({}, {"hyperlora_sources": "[{"})) == []
    own = [Source("edited", ["ab"]), Source("original", ["cd"], -1.0)]
    assert sources_of(stamped(lora, "slider", own, {})) == own
