"""What one worker process does around its shifts: profiles, signs of life, refusals."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_world import add_job, person, settings
from sqlalchemy import select, text

from hyperlora.errors import WeightsMissing
from jobs.broker import describe_broker, make_app
from jobs.database import Database
from jobs.errors import ProfileInvalid, ProfileUnknown, SettingsInvalid
from jobs.models import Unit
from jobs.models_fleet import Worker
from jobs.profiles import find_profile, load_profiles
from jobs.repository import queries
from jobs.settings import Settings
from worker.app import _refuse_shared_devices
from worker.process import WORKER_ID, WorkerProcess
from worker.testing import FakeRenderer


def profiles(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    return path


def first_unit(database: Database) -> uuid.UUID:
    with database.reading() as tx:
        return tx.execute(select(Unit.id).order_by(Unit.id).limit(1)).scalar_one()


def test_a_shift_loads_its_profile_and_gives_signs_of_life(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a worker whose profiles file names a fake renderer
    path = profiles(tmp_path, '[profiles.fake]\nrenderer = "fake"\nbatch_size = 2\n')
    world = settings(tmp_path, database_url, profiles_file=path)
    add_job(database, [person("ada", [3], world)])
    process = WorkerProcess(world)

    # When it runs a shift
    report = process.run_shift(first_unit(database), "fake")

    # Then it drew in batches of two, and its row tells what it is
    assert (report.renders, report.batches, report.units) == (3, 2, 1)
    with database.reading() as tx:
        row = tx.execute(select(Worker)).one()
    assert (row.state, row.profile, row.device, row.error) == ("idle", "fake", "fake", None)

    # When it ends
    process.close()

    # Then its row says so
    with database.reading() as tx:
        assert tx.execute(select(Worker.state)).scalar_one() == "stopped"


def test_a_worker_without_weights_takes_nothing_and_says_why(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a profile whose weights are not there
    places = "".join(f'{part} = "{tmp_path}/none"\n' for part in ("base", "hyperlora", "clip_vision"))
    text = f'[profiles.big]\n{places}safety = "none"\n'
    world = settings(tmp_path, database_url, profiles_file=profiles(tmp_path, text))
    add_job(database, [person("ada", [1], world)], profile="big")
    process = WorkerProcess(world)

    # When it is woken
    with pytest.raises(WeightsMissing):
        process.run_shift(first_unit(database), "big")

    # Then the unit still waits untouched, and the worker's row names the reason
    with database.reading() as tx:
        unit = tx.execute(select(Unit)).one()
        row = tx.execute(select(Worker)).one()
    process.close()
    assert (unit.state, unit.attempts) == ("ready", 0)
    assert row.state == "unfit"
    assert str(tmp_path / "none") in row.error


def test_a_late_message_wakes_for_whatever_waits(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a finished unit, and waiting ones of a profile this worker knows and of one it does not
    path = profiles(tmp_path, '[profiles.fake]\nrenderer = "fake"\n')
    world = settings(tmp_path, database_url, profiles_file=path)
    add_job(database, [person("ada", [1], world)], key="old")
    process = WorkerProcess(world)
    old = first_unit(database)
    process.run_shift(old, "fake")
    assert process.profile_to_draw(old) is None
    add_job(database, [person("eve", [1], world)], key="elsewhere", profile="of-another-worker")
    assert process.profile_to_draw(old) is None
    job = add_job(database, [person("alan", [2], world)], key="new")

    # When the old unit's message comes once more
    profile = process.profile_to_draw(old)
    assert profile == "fake"
    report = process.run_shift(old, profile)
    process.close()

    # Then the new job is drawn, and the other worker's unit still waits
    assert report.renders == 2
    with database.reading() as tx:
        states = tx.execute(select(Unit.profile, Unit.state, Unit.job_id)).all()
    assert sorted((row.profile, row.state) for row in states) == [
        ("fake", "done"),
        ("fake", "done"),
        ("of-another-worker", "ready"),
    ]
    assert job in {row.job_id for row in states}


def test_an_unknown_profile_lists_the_known(tmp_path: Path) -> None:
    path = profiles(tmp_path, '[profiles.fake]\nrenderer = "fake"\n')
    world = Settings(home=tmp_path, profiles_file=path)
    assert sorted(load_profiles(world)) == ["fake", "mini", "mini-untrained"]
    with pytest.raises(ProfileUnknown, match="only: fake, mini"):
        find_profile(world, "realvis")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.x", "not valid TOML"),
        ('[profiles.x]\nbase = "a"\n', "lacks hyperlora, clip_vision"),
        ('[profiles.x]\nrenderer = "fake"\ncolour = 1\n', "colour: Extra inputs"),
        ('[profiles.x]\nrenderer = "fake"\nbatch_size = 0\n', "batch_size"),
        ("[profiles]\nx = 3\n", "must be a table"),
    ],
)
def test_a_faulty_profiles_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = profiles(tmp_path, text)
    with pytest.raises(ProfileInvalid, match=words) as caught:
        load_profiles(Settings(home=tmp_path, profiles_file=path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "solo"}, "solo loses heartbeats"),
        ({"pool": "threads"}, "wanted prefork"),
        ({"concurrency": 4}, "one process on one device"),
        ({"autoscale": "4,1"}, "one process on one device"),
    ],
)
def test_shared_devices_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        _refuse_shared_devices(options=options)


@pytest.mark.parametrize("options", [{}, {"pool": "prefork", "concurrency": 1}, {"concurrency": None}])
def test_one_process_is_accepted(options: dict[str, object]) -> None:
    assert _refuse_shared_devices(options=options) is None  # it says no by raising


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
        ("amqp://me:secret@host//", "amqp://host//"),
        ("sqla+sqlite:////tmp/broker.db", "sqla+sqlite:////tmp/broker.db"),
    ],
)
def test_a_broker_is_described_without_its_secret(tmp_path: Path, url: str, shown: str) -> None:
    text = describe_broker(Settings(home=tmp_path, broker_url=url))  # type: ignore[arg-type]
    assert "secret" not in text
    assert text == shown


def test_a_broker_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="'sqs'"):
        make_app(Settings(home=tmp_path, broker_url="sqs://"))  # type: ignore[arg-type]


def test_a_shift_longer_than_rabbitmq_allows_is_refused(tmp_path: Path) -> None:
    long = Settings(home=tmp_path, broker_url="amqp://localhost//", shift_seconds=1200)  # type: ignore[arg-type]
    with pytest.raises(SettingsInvalid, match="at most 900"):
        make_app(long)


def test_only_json_is_taken(tmp_path: Path) -> None:
    app = make_app(Settings(home=tmp_path))
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert (app.conf.worker_concurrency, app.conf.task_acks_late) == (1, True)


class Told:
    """A fake renderer that loads at once, and hears of a stop when `at` is set."""

    def __init__(self, database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.renderer = FakeRenderer(batch_size=2)
        self.stopping = threading.Event()
        self.database = database
        path = profiles(tmp_path, '[profiles.fake]\nrenderer = "fake"\n')
        self.settings = settings(tmp_path, database_url, profiles_file=path)
        monkeypatch.setattr("worker.process.make_renderer", lambda profile, settings: self.renderer)
        monkeypatch.setattr("worker.process.STOPPING", self.stopping)
        self.process = WorkerProcess(self.settings)

    def units(self) -> list[tuple[str, int]]:
        with self.database.reading() as tx:
            return [tuple(row) for row in tx.execute(select(Unit.state, Unit.attempts).order_by(Unit.id))]  # type: ignore[misc]

    def worker_state(self) -> str:
        with self.database.reading() as tx:
            return tx.execute(select(Worker.state)).scalar_one()


@pytest.fixture
def told(database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    made = Told(database, database_url, tmp_path, monkeypatch)
    yield made
    made.process.close()


def test_nothing_is_claimed_before_the_worker_is_warm(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    # Given a worker that looks at its unit and its own row while it warms
    add_job(told.database, [person("ada", [1], told.settings)])
    seen: list[tuple[list[tuple[str, int]], str]] = []
    told.renderer._at_warming = lambda: seen.append((told.units(), told.worker_state()))

    # When it runs two shifts
    with caplog.at_level(logging.INFO, logger="worker.process"):
        told.process.run_shift(first_unit(told.database), "fake")
        told.process.run_shift(first_unit(told.database), "fake")

    # Then it warmed once, with nothing in hand, and was not ready until then; its log says how long it took
    assert seen == [([("ready", 0)], "starting")] * 3
    assert told.worker_state() == "idle"
    assert told.units() == [("done", 1)]
    assert [r.getMessage()[:24] for r in caplog.records if "warmed in" in r.getMessage()] == [
        "ready for profile fake: "
    ]


def test_a_worker_that_is_told_to_stop_while_it_warms_claims_nothing(told: Told) -> None:
    # Given a stop that comes with the first thing to make ready
    add_job(told.database, [person("ada", [1], told.settings)])
    told.renderer._at_warming = told.stopping.set

    # When a shift runs
    report = told.process.run_shift(first_unit(told.database), "fake")

    # Then warming ended there, and the unit was not touched
    assert (told.renderer.calls["warm"], report.groups) == (1, 0)
    assert told.units() == [("ready", 0)]
    assert told.renderer.calls["idle"] == 0


def test_what_was_put_off_is_done_once_when_nothing_waits(told: Told) -> None:
    # Given a worker that looks at what is held while it does what was put off
    add_job(told.database, [person("ada", [1], told.settings), person("alan", [1], told.settings)])
    seen: list[set[str]] = []
    told.renderer._at_rest = lambda: seen.append({state for state, _ in told.units()})

    # When it has drawn everything
    report = told.process.run_shift(first_unit(told.database), "fake")

    # Then that was done, with nothing in hand
    assert report.ran_dry and report.renders == 2
    assert seen == [{"done"}] * 3


def test_what_was_put_off_waits_when_something_comes(told: Told) -> None:
    # Given a job that comes with the first thing that was put off
    add_job(told.database, [person("ada", [1], told.settings)])

    def come() -> None:
        add_job(told.database, [person("alan", [1], told.settings)], key="later")

    told.renderer._at_rest = come

    # When the shift has ended
    told.process.run_shift(first_unit(told.database), "fake")

    # Then nothing else was done meanwhile
    assert told.renderer.calls["idle"] == 1
    assert sorted(told.units()) == [("done", 1), ("ready", 0)]


def test_a_fault_in_what_was_put_off_costs_nothing(told: Told) -> None:
    # Given something put off that cannot be done
    add_job(told.database, [person("ada", [1], told.settings)])

    def fail() -> None:
        raise RuntimeError("cannot compile")

    told.renderer._at_rest = fail

    # When a shift runs, then it ends as if nothing had been
    assert told.process.run_shift(first_unit(told.database), "fake").renders == 1
    assert told.worker_state() == "idle"


def test_a_shift_leaves_a_row_with_its_figures(told: Told) -> None:
    # Given a person with five pictures, in batches of two
    add_job(told.database, [person("ada", [5], told.settings)])

    # When a shift draws them, and another finds nothing
    told.process.run_shift(first_unit(told.database), "fake")
    told.process.run_shift(first_unit(told.database), "fake")

    # Then there is one row, that says what was drawn and how the time was spent
    with told.database.reading() as tx:
        [row] = queries.shifts(tx, per_worker=10)
    assert (row["worker"], row["worker_id"], row["profile"]) == (told.process.name, WORKER_ID, "fake")
    counts = ("units", "people", "renders", "pictures", "places", "batches", "mixed", "generated")
    assert [row[name] for name in counts] == [1, 1, 5, 5, 6, 3, 0, 1]
    assert (row["batch_sizes"], row["ran_dry"]) == ({"1": 1, "2": 2}, True)
    spent = row["seconds_before"] + row["seconds_drawing"] + row["seconds_between"]
    assert 0 < row["seconds_drawing"] < spent <= row["seconds"]
    assert row["idle_share"] == pytest.approx(
        row["seconds_between"] / (row["seconds_drawing"] + row["seconds_between"])
    )
    assert row["seconds_warming"] >= 0 and row["seconds_preparing"] > 0


def test_a_worker_draws_where_its_shifts_cannot_be_kept(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    # Given a database without the table of shifts
    add_job(told.database, [person("ada", [1], told.settings)])
    with told.database.transaction() as tx:
        tx.execute(text("DROP VIEW shift_metrics"))
        tx.execute(text("DROP TABLE shifts"))

    # When a shift runs
    report = told.process.run_shift(first_unit(told.database), "fake")

    # Then the picture is there, and the log says what is not kept
    assert report.renders == 1 and told.units() == [("done", 1)]
    assert "what the shift did is not kept" in caplog.text
