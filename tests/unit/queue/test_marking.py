"""A broken signer stops a job rather than shipping unmarked pictures, and costs it nothing but time."""

from __future__ import annotations

import hashlib
import io
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from marking_world import write_pair
from PIL import Image
from queue_world import World, add_job, person, settings
from sqlalchemy import select

from jobs.database import Database
from jobs.digital_source import source_of
from jobs.models import Render, Unit
from jobs.models_fleet import Worker
from jobs.profiles import Profile
from worker import process
from worker.errors import MarkingBroken
from worker.marking.provenance import read_provenance
from worker.marking.self_made import FOLDER
from worker.marking.signer import Signer
from worker.picture_file import record_of
from worker.process import WorkerProcess
from worker.testing import FakeRenderer


class Fleet:
    """One worker process with a fake renderer, over a job."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.renderer = world, FakeRenderer(batch_size=4)
        monkeypatch.setattr(process, "make_renderer", lambda profile, settings: self.renderer)
        monkeypatch.setattr(process, "find_profile", lambda settings, name: Profile(name=name, renderer="fake"))
        monkeypatch.setattr(process, "load_profiles", lambda settings: {"fake": Profile(name="fake", renderer="fake")})
        self.worker = WorkerProcess(world.settings)

    def shift(self, *, at_once: bool = True) -> None:
        """Draw from the first unit that waits; the time of leaving an unfit profile alone is over `at_once`."""
        if at_once:
            self.worker._unfit_until.clear()
        (unit,) = self.units()[:1]
        self.worker.run_shift(unit.id, "fake")

    def units(self) -> list[Any]:
        with self.world.database.reading() as tx:
            return list(tx.execute(select(Unit.id, Unit.state, Unit.attempts, Unit.error_code, Unit.error)))

    def row(self) -> Any:
        with self.world.database.reading() as tx:
            return tx.execute(select(Worker.state, Worker.error)).one()

    def pictures(self) -> list[bytes]:
        return [self.world.storage.get(key) for key in self.world.pictures()]


@pytest.fixture
def fleet_of(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets, and ends their threads before their database goes."""
    made: list[Fleet] = []

    def make(**asked: Any) -> Fleet:
        made.append(Fleet(World(database, settings(tmp_path, database_url, **asked), FakeRenderer()), monkeypatch))
        return made[-1]

    yield make
    for fleet in made:
        fleet.worker.close()


Fleets = Callable[..., Fleet]


def assert_wait(event: threading.Event) -> None:
    assert event.wait(30)


def job_of(fleet: Fleet, renders: int = 4, **asked: Any) -> uuid.UUID:
    return add_job(fleet.world.database, [person("ada", [renders], fleet.world.settings, **asked)])


def test_every_file_of_a_job_is_signed(fleet_of: Fleets) -> None:
    # Given pictures with two further forms, and a gate under which candidates lose
    fleet = fleet_of()
    outputs = [{"name": "main"}, {"name": "web", "format": "webp"}, {"name": "small", "format": "jpeg", "size": [8, 8]}]
    gate = {"min_id_similarity": 0.9, "attempts": 2}
    fleet.renderer._alike = lambda image: 0.5
    job = job_of(fleet, 2, options={"outputs": outputs, "gate": gate})

    # When they are drawn
    fleet.shift()

    # Then each of the eight files carries a signature that holds, and says that AI made it
    stored = fleet.pictures()
    assert fleet.world.job(job)["state"] == "done" and len(stored) == 8
    for data in stored:
        image = Image.open(io.BytesIO(data))
        assert read_provenance(data, Image.MIME[str(image.format)]).state == "valid"
        assert source_of(image) == "trainedAlgorithmicMedia"


def test_a_worker_that_cannot_sign_takes_nothing_and_says_why(fleet_of: Fleets, tmp_path: Path) -> None:
    # Given a certificate that has run out
    chain, key, _ = write_pair(tmp_path / "own", valid_days=(-30, -1))
    fleet = fleet_of(sign_certificate=chain, sign_key=key)
    job = job_of(fleet)

    # When the worker is woken again and again
    for _ in range(5):
        with pytest.raises(MarkingBroken):
            fleet.shift()

    # Then it drew nothing, its row says why, and no attempt is used up
    assert fleet.renderer.calls["draw"] == 0 and fleet.pictures() == []
    assert fleet.row().state == "unfit" and "is valid from" in fleet.row().error
    assert [(unit.state, unit.attempts) for unit in fleet.units()] == [("ready", 0)]
    assert fleet.worker.profile_to_draw(fleet.units()[0].id) is None

    # And when the certificate is renewed, the same worker draws the job
    write_pair(tmp_path / "own")
    fleet.shift()
    assert fleet.world.job(job)["state"] == "done" and len(fleet.pictures()) == 4


def test_a_signer_that_breaks_in_the_middle_stops_the_job_and_burns_none_of_it(
    fleet_of: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given 24 pictures in six batches, a signer that breaks after four of them, and drawing that waits for that
    fleet = fleet_of()
    job = job_of(fleet, 24)
    is_broken = threading.Event()
    fleet.renderer._at_step = lambda step: assert_wait(is_broken) if fleet.renderer.calls["draw"] == 2 else None
    real, broken = process.Marker.encode, MarkingBroken("the token was pulled out")
    signed: list[int] = []

    def encode(marker: Any, *given: Any, **more: Any) -> Any:
        if len(signed) >= 4 and not mended:
            marker._broke(broken)
            is_broken.set()
            raise broken
        signed.append(1)
        return real(marker, *given, **more)

    mended: list[bool] = []
    monkeypatch.setattr(process.Marker, "encode", encode)

    # When it is drawn
    fleet.shift()

    # Then what was signed is there, nothing unmarked is, drawing stopped, and the unit waits with its attempt
    done = fleet.world.job(job)["done"]
    assert done == len(fleet.pictures()) == 4
    assert fleet.renderer.calls["draw"] == 3
    assert [(unit.state, unit.attempts, unit.error_code) for unit in fleet.units()] == [("ready", 0, "marking_broken")]
    assert fleet.world.job(job)["failed"] == 0

    # And when it is mended the job goes on to its end
    mended.append(True)
    fleet.shift()
    assert fleet.world.job(job)["state"] == "done"
    assert {read_provenance(data, "image/png").state for data in fleet.pictures()} == {"valid"}
    assert len(fleet.pictures()) == 24


def test_one_picture_that_cannot_be_signed_holds_up_nobody_else_and_has_an_end(
    fleet_of: Fleets, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a signer that works, but not for the third picture, however often it is drawn
    fleet = fleet_of(retry_seconds=0.001)
    job, real = job_of(fleet, 4), Signer.sign
    with database.reading() as tx:
        third = tx.execute(select(Render.id).order_by(Render.ordinal).offset(2)).scalars().first()

    def sign(signer: Signer, data: bytes, *given: Any, **more: Any) -> bytes:
        if record_of(Image.open(io.BytesIO(data))).get("render") == str(third):
            raise MarkingBroken("this one cannot be read")
        return real(signer, data, *given, **more)

    monkeypatch.setattr(Signer, "sign", sign)

    # When it is drawn as often as a unit may be
    for _ in range(fleet.world.settings.max_attempts):
        fleet.shift()

    # Then the others are done, it has failed with its reason, nothing unmarked is shipped, and the worker is well
    assert [(unit.state, unit.error_code) for unit in fleet.units()] == [("done", "marking_broken")]
    assert (fleet.world.job(job)["done"], fleet.world.job(job)["failed"]) == (3, 1)
    assert [read_provenance(data, "image/png").state for data in fleet.pictures()] == 3 * ["valid"]
    assert fleet.row().state == "idle" and fleet.row().error is None


def test_an_operator_may_ship_unsigned_pictures_and_everybody_is_told(fleet_of: Fleets, tmp_path: Path) -> None:
    # Given a key that was lost, and marking that is not required
    (tmp_path / FOLDER).mkdir()
    fleet = fleet_of(marking_required=False)
    job = job_of(fleet, 2)

    # When the job is drawn
    fleet.shift()

    # Then it is done; pictures and worker say that they are not signed
    assert fleet.world.job(job)["state"] == "done"
    for data in fleet.pictures():
        image = Image.open(io.BytesIO(data))
        assert read_provenance(data, "image/png").state == "none"
        assert record_of(image)["unsigned"] == "marking_broken" and source_of(image) == "trainedAlgorithmicMedia"
    assert fleet.row().state != "unfit" and f"{FOLDER}/certificate.pem cannot be read" in fleet.row().error


def test_a_redrawn_picture_says_that_one_was_given(fleet_of: Fleets) -> None:
    # Given a render that starts from a picture
    fleet = fleet_of()
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    key, sha256 = "acme/photos/start", hashlib.sha256(buffer.getvalue()).hexdigest()
    fleet.world.storage.put(key, buffer.getvalue(), content_type="image/png")
    picture = {"key": key, "sha256": sha256, "media_type": "image/png"}
    job = job_of(fleet, 1, options={"start": {"image": picture, "strength": 0.5}})

    # When it is drawn
    fleet.shift()

    # Then manifest and XMP both say so
    assert fleet.world.job(job)["state"] == "done"
    (data,) = fleet.pictures()
    assert read_provenance(data, "image/png").sources == ("compositeWithTrainedAlgorithmicMedia",)
    assert source_of(Image.open(io.BytesIO(data))) == "compositeWithTrainedAlgorithmicMedia"
