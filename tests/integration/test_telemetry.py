"""What a real worker tells while it draws: metrics that are scraped, spans that are received, lines that are read.

One run for all: PostgreSQL, RabbitMQ, S3, a job from a real command line, a real worker at the level of debugging, and
secrets planted wherever one could get into a line.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_receiver import otlp_receiver
from prometheus_client.parser import text_string_to_metric_families
from s3_server import S3Server
from stacks import ROOT, copy_photos, people_manifest, rabbitmq

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.s3]
PROMPT, NAME = "with an unmistakable yellow umbrella", "hedy"
DATABASE_PASSWORD = "canary-of-the-database"
PICTURES = 12


@dataclass(frozen=True)
class Run:
    """What was told in one run."""

    scrapes: list[str]
    health: dict[str, Any]
    spans: list[tuple[str, Span]]
    log: str
    job_id: str
    secrets: tuple[str, ...]

    @property
    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """The last scrape by name and labels."""
        families = text_string_to_metric_families(self.scrapes[-1])
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str) -> tuple[int, str]:
    """Status and text of an answer; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Run]:
    # Given a stack whose database is logged into with a password, a collector, and a port
    home, port = tmp_path_factory.mktemp("telemetry"), free_port()
    with otlp_receiver() as receiver, rabbitmq(home, lambda: s3_server) as stack:
        url = stack.environment["PORTRAITS_DATABASE_URL"]
        stack.environment["PORTRAITS_DATABASE_URL"] = re.sub(r"//postgres@", f"//postgres:{DATABASE_PASSWORD}@", url)
        stack.environment |= {
            "PORTRAITS_METRICS_PORT": str(port),
            "PORTRAITS_LOG_FORMAT": "json",
            "PORTRAITS_TRACES_ENDPOINT": receiver.url,
            "PORTRAITS_FAKE_STEP_SECONDS": "0.2",
        }
        copy_photos(home)
        prompts = [{"name": "rain", "text": f"portrait of {{subject}} {PROMPT}", "seeds": 4}]
        (home / "people.yaml").write_text(yaml.safe_dump(people_manifest(prompts=prompts)))
        # When a job is enqueued from the command line, and a worker draws it
        job_id = _enqueue(home, stack.environment)
        with stack.worker(level="DEBUG"):
            scrapes = _scrapes(f"http://127.0.0.1:{port}/metrics", stack)
            health = json.loads(fetch(f"http://127.0.0.1:{port}/healthz")[1])
            spans = receiver.wait_for(PICTURES, "commit")
            spans = receiver.wait_for(3, "unit")
        secret = s3_server.environment["AWS_SECRET_ACCESS_KEY"]
        yield Run(scrapes, health, spans, stack.log(), job_id, (DATABASE_PASSWORD, secret))


def _enqueue(home: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", "from worker.cli import main; main()", "enqueue", "people.yaml", "--json"]
    own = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=home, env=own, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    job_id: str = json.loads(done.stdout)["job_id"]
    return job_id


def _scrapes(url: str, stack: Any) -> list[str]:
    """Scrapes while the job is drawn, and one when it is."""
    scrapes, pause, ends_at = [], threading.Event(), time.monotonic() + 120
    while time.monotonic() < ends_at:
        status, text = fetch(url)
        if status == 200:
            scrapes.append(text)
            if _value(text, "portraits_shifts_total") >= 1:
                return scrapes
        pause.wait(0.25)
    raise AssertionError(f"the job was not drawn in time; the worker said:\n{stack.log()[-4000:]}")


def _value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_scrape_tells_what_was_drawn(run: Run) -> None:
    # Then pictures, units, stages, batches and weight sets are there
    samples = run.samples
    assert samples["portraits_images_total", (("outcome", "recorded"),)] == PICTURES
    assert samples["portraits_units_claimed_total", ()] == 3
    assert samples["portraits_weight_sets_total", (("source", "generated"),)] == 3
    assert samples["portraits_claim_latency_seconds_count", ()] == 3
    assert samples["portraits_batch_pictures_total", ()] == PICTURES
    for stage in ("denoise", "encode", "upload", "commit"):
        assert samples["portraits_stage_seconds_count", (("stage", stage),)] == PICTURES
    assert samples["portraits_device_seconds_total", (("doing", "drawing"),)] >= 3 * 2 * 0.2
    assert samples["portraits_profile_ready", (("device", "fake"), ("profile", "fake"))] == 1
    # And the queue as it stood when it was last asked for, while the job was drawn
    assert samples["portraits_queue_up", ()] == 1
    assert any('portraits_queue_units{profile="fake",state="leased"}' in scrape for scrape in run.scrapes)


def test_counts_grow_while_the_worker_draws(run: Run) -> None:
    counts = [_value(scrape, 'portraits_images_total{outcome="recorded"}') for scrape in run.scrapes]
    assert counts == sorted(counts) and len(set(counts)) > 2, counts


def test_the_port_says_that_the_worker_is_well(run: Run) -> None:
    assert run.health["well"] is True and "asked the broker" in run.health["reason"]


def test_every_picture_is_in_the_trace_of_its_enqueueing(run: Run) -> None:
    # Then one trace goes from the command line's process to each commit in the worker's
    spans = [span for _, span in run.spans]
    (root,) = [span for span in spans if span.name == "enqueue"]
    assert {service for service, span in run.spans if span.name == "enqueue"} == {"portraits-enqueue"}
    assert {service for service, span in run.spans if span.name != "enqueue"} == {"portraits-worker"}
    assert {span.trace_id for span in spans} == {root.trace_id}
    by_id = {span.span_id: span for span in spans}
    for commit in (span for span in spans if span.name == "commit"):
        way = [commit]
        while way[-1].parent_span_id:
            way.append(by_id[way[-1].parent_span_id])
        assert [span.name for span in way] == ["commit", "picture", "batch", "unit", "enqueue"]
    assert sum(span.name == "commit" for span in spans) == PICTURES
    # And its attributes name the job
    jobs = {one.value.string_value for span in spans for one in span.attributes if one.key == "portraits.job"}
    assert jobs == {run.job_id}


def test_no_secret_prompt_name_or_address_is_in_a_span(run: Run) -> None:
    told = "".join(str(span) for _, span in run.spans)
    for secret in (*run.secrets, PROMPT, NAME, "X-Amz", "photos/"):
        assert secret not in told, secret


def test_no_secret_prompt_name_or_photo_is_in_a_line(run: Run) -> None:
    # Given a worker that debugs
    assert '"level": "DEBUG"' in run.log
    # Then none of what was planted is there, and no bytes of a picture
    for secret in (*run.secrets, PROMPT, NAME, "X-Amz-Signature", "\\\\x89PNG", "\\\\xff\\\\xd8"):
        assert secret not in run.log, secret


def test_lines_are_json_with_ids(run: Run) -> None:
    # Then what is no JSON are Celery's own words before it may log and when it is told to stop
    lines = [line for line in run.log.splitlines() if line.strip()]
    told = [json.loads(line) for line in lines if line.startswith("{")]
    other = [line for line in lines if not line.startswith("{")]
    assert len(other) <= 8, other
    assert all({"time", "level", "logger", "message", "worker"} <= set(one) for one in told)
    # And units and pictures are told with their ids, in the shift that drew them
    units = [one for one in told if one["message"] == "unit done"]
    assert len(units) == 3 and len({one["unit"] for one in units}) == 3
    assert {one["job"] for one in units} == {run.job_id} and {one["tenant"] for one in units} == {"default"}
    assert len({one["shift"] for one in units}) == 1 and all(one["identity"] for one in units)
    pictures = [one for one in told if one["message"].startswith("recorded: ")]
    assert len({one["render"] for one in pictures}) == PICTURES


def _queries() -> list[tuple[str, str]]:
    """Every question of the dashboard and the alerts, with where it stands."""
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/portraits.json").read_text())
    found = [
        (f"panel {panel['title']!r}", target["expr"].replace("$__rate_interval", "5m"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    alerts = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())
    return found + [(f"alert {rule['alert']}", rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]


class _Selectors(list[Any]):
    """The metrics that a question reads."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self._walk(promql_parser.parse(question))

    def _walk(self, node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            self.append(node)
            return
        for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
            child = getattr(node, name, None)
            if child is not None and not isinstance(child, str):
                self._walk(child)
        for child in getattr(node, "args", None) or ():
            self._walk(child)


@pytest.mark.parametrize(("where", "question"), _queries(), ids=[where for where, _ in _queries()])
def test_what_dashboard_and_alerts_ask_for_is_told(run: Run, where: str, question: str) -> None:
    # Given the metrics of a question
    selectors = _Selectors(question)
    assert selectors, where

    # Then a real scrape has each of them, with every label that is asked about
    for selector in selectors:
        if selector.name == "up":  # Prometheus' own
            continue
        series = [dict(labels) for name, labels in run.samples if name == selector.name]
        assert series, f"{where}: {selector.name} is not in a scrape"
        for matcher in selector.matchers.matchers:
            values = {one.get(matcher.name, "") for one in series}
            wanted = re.split(r"\|", matcher.value)
            assert set(wanted) <= values, f"{where}: {selector.name} has no {matcher.name} in {set(wanted) - values}"
