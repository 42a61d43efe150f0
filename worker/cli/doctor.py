"""`portraits doctor`: what is configured, reachable and installed, and what is missing and how to get it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from worker.cli.exits import Exit
from worker.cli.extras import missing_modules
from worker.cli.fleet import fleet_line
from worker.cli.options import AsJson, load_settings
from worker.cli.output import print_json, say
from worker.cli.places import sqlite_file

if TYPE_CHECKING:
    from worker.doctor import Finding

SIGNS = {"ok": ("ok     ", "green"), "note": ("note   ", "cyan"), "problem": ("PROBLEM", "bold red")}
ALWAYS_SHOWN = ("home", "database_url", "broker_url", "storage_url", "tenant", "profile", "profiles_file", "device")


def doctor(as_json: AsJson = False) -> None:
    """Examine this machine. Exit code 1 if something that is needed is missing."""
    from worker.doctor import changed, configuration, examine

    settings = load_settings()
    told = configuration(settings)
    findings: list[Finding] = []
    if not as_json:
        say("configured", "bold")
        for name, value in told.items():
            if name in ALWAYS_SHOWN or name in changed(settings):
                say(f"  PORTRAITS_{name.upper()} = {'' if value is None else value}")
    for finding in examine(settings, missing=missing_modules(), database_file=sqlite_file(settings)):
        if not as_json:
            _tell(finding, new_topic=not findings or findings[-1].topic != finding.topic)
        findings.append(finding)
    problems = [finding for finding in findings if finding.state == "problem"]
    workers = []
    if all(finding.name != "database" for finding in problems):
        from worker.cli.status import workers_now

        workers = workers_now(settings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        print_json({"healthy": not problems, "settings": told, "findings": found, "workers": workers})
    else:
        say(fleet_line(workers))
        say(f"{len(problems)} problems" if problems else "nothing is missing", "bold red" if problems else "bold green")
    if problems:
        raise typer.Exit(Exit.PROBLEM)


def _tell(finding: Finding, *, new_topic: bool) -> None:
    if new_topic:
        say(finding.topic, "bold")
    sign, style = SIGNS[finding.state]
    say(f"  {sign}  {finding.name}: {finding.detail}", style if finding.state == "problem" else "")
    if finding.hint:
        say(f"           {finding.hint}", "yellow" if finding.state == "problem" else "dim")
