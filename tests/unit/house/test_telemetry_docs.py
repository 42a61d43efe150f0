"""What is written about telemetry is what there is: the table of metrics, the dashboard, the settings and the query."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from queue_world import World, add_job, only_postgres, person, settings
from sqlalchemy import text

from jobs.database import Database
from jobs.settings import Settings
from worker.telemetry.events import EVENTS
from worker.testing import FakeRenderer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["metrics_table", "dashboard"])
def test_what_is_generated_is_fresh(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_metric_of_the_page_is_in_the_table() -> None:
    table = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(portraits_\w+)`", table, re.MULTILINE))
    named = {re.sub(r"_(sum|count|bucket)$", "", name) for name in re.findall(r"\bportraits_[a-z_]+", PAGE)}
    assert named and named <= known, named - known


def test_every_setting_of_the_page_exists() -> None:
    named = {name.lower() for name in re.findall(r"\bPORTRAITS_([A-Z_]+)", PAGE)}
    assert named and named <= set(Settings.model_fields), named - set(Settings.model_fields)


@only_postgres
def test_the_query_for_scaling_counts_open_pictures(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given two people with 3 and 2 pictures, of which one worker has drawn the first
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    add_job(database, [person("ada", [3], world.settings), person("alan", [2], world.settings)])
    query = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert query is not None

    # Then the page's own query counts five, and none when all are drawn
    def pictures() -> int:
        with database.reading() as tx:
            return int(tx.execute(text(query[1])).scalar_one())

    assert pictures() == 5
    world.shift()
    assert pictures() == 0


def test_prometheus_reads_what_is_shipped() -> None:
    # Given the shipped configuration and the services of the compose file
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())

    # Then its rules are there, and what it scrapes are services at the ports that they open
    assert [Path(name).name for name in config["rule_files"]] == ["alerts.yml"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (names,) = jobs["portraits-worker"]["dns_sd_configs"]
    workers = [one for name, one in compose["services"].items() if name.startswith("worker-")]
    assert workers
    for service in workers:
        assert str(names["port"]) == service["environment"]["PORTRAITS_METRICS_PORT"]
        assert names["names"][0] in service["networks"]["inside"]["aliases"]
    ((target,),) = (one["targets"] for one in jobs["portraits-queue"]["static_configs"])
    host, _, port = target.partition(":")
    assert port in compose["services"][host]["command"]


def test_alerts_say_what_to_do_and_have_a_name_of_their_own() -> None:
    groups = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["alert"].startswith("Portraits") and rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".") or "`" in rule["annotations"]["summary"] or "?" in str(rule)


def test_every_moment_is_told_somewhere() -> None:
    # Given the moments of a worker's life
    told = "\n".join(path.read_text() for path in (ROOT / "worker").glob("*.py"))

    # Then each is told by the code that makes it
    for name in EVENTS:
        assert re.search(rf"observer\.{name}\(", told), name
