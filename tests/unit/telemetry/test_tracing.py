"""Spans: one trace from enqueueing to each commit, ids only, and nothing at all where nobody asks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update
from test_events import watch

from hyperlora.errors import NoUsablePhoto
from jobs import tracing
from jobs.database import Database
from jobs.errors import SettingsInvalid
from jobs.intake import enqueue
from jobs.models import Job
from jobs.settings import Settings
from worker.telemetry.spans import Spans
from worker.testing import FakeRenderer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def _by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_a_unit_joins_the_trace_of_its_job(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    # Given a job that was enqueued within a trace, with six pictures in batches of four
    world = World(database, settings(tmp_path, database_url), FakeRenderer(step_seconds=0.02))
    watch(world, monkeypatch, Spans(provider.get_tracer("test"), database))
    add_job(database, [person("ada", [6], world.settings, prompt="a portrait of Ada in secret")])
    with database.transaction() as tx:
        tx.execute(update(Job).values(traceparent=f"00-{TRACE}-{PARENT}-01"))

    # When a shift draws
    began = time.time_ns()
    world.shift()

    # Then everything is one trace: the unit under the enqueueing, weights and batches under it, pictures under theirs
    found = _by_name(exporter)
    counts = {name: len(spans) for name, spans in found.items()}
    assert counts == {"unit": 1, "weights": 1, "batch": 2, "picture": 6, "upload": 6, "commit": 6}
    contexts = [span.get_span_context() for span in exporter.get_finished_spans()]
    assert {f"{context.trace_id:032x}" for context in contexts if context is not None} == {TRACE}
    unit = found["unit"][0]
    assert unit.parent is not None and f"{unit.parent.span_id:016x}" == PARENT
    parents = {name: {span.parent.span_id for span in spans if span.parent} for name, spans in found.items()}
    assert parents["weights"] == parents["batch"] == {_id(unit)}
    assert parents["picture"] == {_id(batch) for batch in found["batch"]}
    assert parents["upload"] == parents["commit"] == {_id(picture) for picture in found["picture"]}
    # And each lies within the shift, and a batch took its steps' time
    for span in exporter.get_finished_spans():
        assert span.start_time is not None and span.end_time is not None
        assert began <= span.start_time <= span.end_time <= time.time_ns()
    assert all(span.end_time - span.start_time >= 2 * 20e6 for span in found["batch"])  # type: ignore[operator]
    # And ids are told, the prompt is not
    attributes = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert "secret" not in str(attributes)
    assert dict(unit.attributes or {})["portraits.outcome"] == "done"
    assert dict(unit.attributes or {})["portraits.tenant"] == TENANT


def test_a_fault_is_told_by_its_code_alone(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    # Given photos that nobody can be made from, in a job that nobody traced
    refuse = NoUsablePhoto("photo ada-secret.jpg has no face")
    world = World(database, settings(tmp_path, database_url), FakeRenderer(refuse=lambda photos: refuse))
    watch(world, monkeypatch, Spans(provider.get_tracer("test"), database))
    add_job(database, [person("ada", [2], world.settings)])

    # When a shift draws
    world.shift()

    # Then the unit's own trace says which fault it was, and not in which photo
    unit = _by_name(exporter)["unit"][0]
    assert unit.parent is None and unit.status.status_code is StatusCode.ERROR
    assert unit.status.description == "no_usable_photo"
    assert "ada-secret" not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_several_people_in_a_batch_have_a_span_each_with_one_name(provider: TracerProvider) -> None:
    # Given two units that share a batch
    import uuid

    from jobs.repository.units import ClaimedUnit
    from worker.drawn import Drawn
    from worker.telemetry.events import BatchDrawn

    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("test"), Nowhere())  # type: ignore[arg-type]
    units = [ClaimedUnit("acme", *(uuid.uuid4() for _ in range(4)), "fake", 1, 1) for _ in range(2)]
    spans.claimed(units)

    class Render:
        def __init__(self, unit: ClaimedUnit) -> None:
            self.unit, self.id = unit, uuid.uuid4()

    # When it is drawn
    renders: Any = [Render(units[0]), Render(units[0]), Render(units[1])]
    spans.batch_drawn(BatchDrawn(renders, 4, True, 1.0, Drawn()))

    # Then each has a span, both name the same batch, and say how much of it was theirs
    told = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert len(told) == 2 and len({one["portraits.batch"] for one in told}) == 1
    assert [one["portraits.own_pictures"] for one in told] == [2, 1]


class Nowhere:
    """A database of untraced jobs."""

    def reading(self) -> Any:
        from contextlib import nullcontext

        class Answer:
            def execute(self, _: object) -> Any:
                return self

            def scalar_one_or_none(self) -> None:
                return None

        return nullcontext(Answer())


def _manifest(tmp_path: Path) -> dict[str, Any]:
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    return {
        "tenant": TENANT,
        "prompts": [{"name": "office", "text": "a portrait"}],
        "identities": [{"id": "ada", "photos": ["a.png"]}],
    }


def test_a_callers_own_trace_is_kept_with_the_job(
    database: Database, database_url: str, tmp_path: Path, provider: TracerProvider
) -> None:
    # Given somebody who enqueues within a span of their own, and no setting of ours
    with provider.get_tracer("caller").start_as_current_span("their request") as span:
        job = enqueue(_manifest(tmp_path), base=tmp_path, settings=settings(tmp_path, database_url))

    # Then the job remembers their trace
    with database.reading() as tx:
        kept = tx.execute(select(Job.traceparent).where(Job.id == job.job_id)).scalar_one()
    context = span.get_span_context()
    assert kept == f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def test_a_job_that_nobody_traces_has_no_trace(database: Database, database_url: str, tmp_path: Path) -> None:
    job = enqueue(_manifest(tmp_path), base=tmp_path, settings=settings(tmp_path, database_url))
    with database.reading() as tx:
        assert tx.execute(select(Job.traceparent).where(Job.id == job.job_id)).scalar_one() is None


@pytest.mark.parametrize(
    ("setting", "environment", "wanted"),
    [
        ("", {}, ""),
        ("http://collector:4318", {}, "http://collector:4318/v1/traces"),
        ("http://collector:4318/v1/traces", {}, "http://collector:4318/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/own"}, "http://c:4318/own"),
        ("http://ours:4318", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://ours:4318/v1/traces"),
        ("http://ours:4318", {"OTEL_SDK_DISABLED": "true"}, ""),
        ("http://ours:4318", {"OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_where_spans_go(tmp_path: Path, setting: str, environment: dict[str, str], wanted: str) -> None:
    assert tracing.endpoint(Settings(home=tmp_path, traces_endpoint=setting), environment) == wanted


@pytest.mark.parametrize("kept", [None, "", "no trace", "00-xyz", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}"])
def test_a_trace_context_that_cannot_be_read_begins_a_trace_of_its_own(
    provider: TracerProvider, kept: str | None
) -> None:
    span = provider.get_tracer("test").start_span("unit", context=tracing.parent_of(kept))
    assert span.parent is None  # type: ignore[attr-defined]


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'opentelemetry'", name="opentelemetry")

    monkeypatch.setattr(tracing, "_provider", missing)


@pytest.mark.usefixtures("without_the_extra")
def test_our_own_setting_without_the_extra_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"hyperlora-portraits\[telemetry\]"):
        tracing.tracer(Settings(home=tmp_path, traces_endpoint="http://c:4318"), "worker")


@pytest.mark.usefixtures("without_the_extra")
def test_a_variable_that_may_be_meant_for_others_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    assert tracing.tracer(Settings(home=tmp_path), "worker") is None
    assert "no spans are sent" in caplog.text


def test_a_collector_that_is_away_keeps_no_job_out(tmp_path: Path) -> None:
    # Given a command line whose spans go to a port where nobody listens
    import os

    manifest = tmp_path / "people.json"
    manifest.write_text(json.dumps(_manifest(tmp_path)))
    own = {**os.environ, "PORTRAITS_HOME": str(tmp_path / "home"), "PORTRAITS_TRACES_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", "from worker.cli import main; main()"]
    subprocess.run([*command, "db", "upgrade"], env=own, cwd=tmp_path, capture_output=True, check=True)

    # When a job is enqueued, then it is, and its trace is kept for whoever draws it
    done = subprocess.run(
        [*command, "enqueue", str(manifest), "--json"], env=own, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    database = Database.from_settings(Settings(home=tmp_path / "home"))
    with database.reading() as tx:
        kept = tx.execute(select(Job.traceparent)).scalar_one()
    database.dispose()
    assert kept is not None and tracing.parent_of(kept)


def test_nothing_is_imported_where_nobody_asks(tmp_path: Path) -> None:
    # Given a process that enqueues, and asks for a worker's observers
    code = (
        "import sys; from pathlib import Path; from jobs import intake, tracing; from jobs.database import Database; "
        "from jobs.settings import Settings; from worker.telemetry.observing import observer_of; "
        "settings = Settings(home=Path(sys.argv[1])); assert tracing.tracer(settings, 'enqueue') is None; "
        "observer_of(settings, Database.from_settings(settings)); "
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus_client'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
