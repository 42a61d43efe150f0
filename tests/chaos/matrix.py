"""The kill matrix: every way of ending a worker, at every point of a unit's way, on every broker.

A worker is met at the point by an event, harm is done to it, and whoever is left brings the job to its end. On Redis
with PostgreSQL and S3 every case runs; on each other broker six that change from day to day, or with
`PORTRAITS_CHAOS_SEED`; with `PORTRAITS_CHAOS_FULL=1` all of them.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
from typing import Any

import gates
import pytest
from fleet import ChaosWorker, Fleet, Point, has_torch, is_running, until
from stacks import PHOTOS, Stack, people_manifest

from jobs import enqueue

HARMS = ("SIGTERM", "SIGINT", "SIGKILL child", "SIGKILL parent", "SIGSTOP")
PLACES = ("before_claim", "after_claim", "weights_generated", "denoising", "after_upload", "before_ack")
CASES = [(harm, place) for place in PLACES for harm in HARMS]
FULL_BROKER = "redis"
SEED = int(os.environ.get("PORTRAITS_CHAOS_SEED") or dt.date.today().toordinal())
# Of a worker that is told to stop. On Redis it seldom takes half a minute, where a message comes in that very moment.
GRACE_SECONDS = 60.0
ENDS_WITH = {"SIGTERM": 0, "SIGINT": 1}  # Celery's codes for a warm shutdown; an orchestrator sends SIGTERM
PEOPLE, RENDERS = 3, 6
TIMES = {
    "PORTRAITS_LEASE_SECONDS": "1",
    "PORTRAITS_REAP_SECONDS": "0.3",
    "PORTRAITS_RESEND_SECONDS": "1",
    "PORTRAITS_RETRY_SECONDS": "0.1",
    # A machine that stands still for a second costs a lease besides.
    "PORTRAITS_MAX_ATTEMPTS": "5",
    "PORTRAITS_MAX_LOST_WORKERS": "5",
}
MARKS = {
    "redis": [pytest.mark.postgres, pytest.mark.redis, pytest.mark.s3],
    "rabbitmq": [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.s3],
}


def cases_of(broker: str, seed: int) -> list[tuple[str, str]]:
    """The cases that run on a broker: all, or six of them, each place once and each harm among them."""
    if broker == FULL_BROKER or os.environ.get("PORTRAITS_CHAOS_FULL"):
        return CASES
    chance = random.Random(f"{broker} {seed}")
    harms = [*HARMS, chance.choice(HARMS)]
    chance.shuffle(harms)
    return list(zip(harms, PLACES, strict=True))


def parameters(*brokers: str) -> list[Any]:
    """One for each case of each of these brokers."""
    return [
        pytest.param(broker, harm, place, marks=MARKS.get(broker, []), id=f"{broker}-{harm}-{place}".replace(" ", "-"))
        for broker in brokers
        for harm, place in cases_of(broker, SEED)
    ]


def ask_for_pictures(stack: Stack) -> None:
    """Three people, two pictures each, of four steps."""
    manifest = people_manifest(defaults={"size": 64, "steps": 4, "seeds": 2})
    manifest["prompts"] = manifest["prompts"][:1]
    assert enqueue(manifest, settings=stack.settings, base=PHOTOS).renders == RENDERS


def do_harm(harm: str, victim: ChaosWorker, point: Point, child: int, fleet: Fleet) -> None:
    """End a worker whose child stays at a point, and have somebody finish its work."""
    match harm:
        case "SIGTERM" | "SIGINT":
            # Ctrl-C reaches the whole group, an orchestrator's SIGTERM the parent.
            victim.signal(signal.Signals[harm], group=harm == "SIGINT")
            point.release("stop")
            assert victim.wait(seconds=GRACE_SECONDS) == ENDS_WITH[harm], fleet.logs()
            fleet.start("second")
        case "SIGKILL child":
            os.kill(child, signal.SIGKILL)  # the parent forks another, and no one else is there
        case "SIGKILL parent":
            victim.signal(signal.SIGKILL)
            victim.wait()
            fleet.start("second")
            point.release("go")  # the child goes on alone, for as long as its shift lasts
        case "SIGSTOP":
            victim.signal(signal.SIGSTOP, group=True)
            fleet.start("second")
        case _:
            raise ValueError(harm)


def go_through(harm: str, place: str, stack: Stack, fleet: Fleet) -> gates.Counts:
    """One case from beginning to end; returns what the gates counted. Raises AssertionError."""
    # A worker at this point of its way
    print(f"PORTRAITS_CHAOS_SEED={SEED}")
    ask_for_pictures(stack)
    with fleet.point(place) as point:
        victim = fleet.start("first", **point.environment)
        met = point.meet()
        assert met["heavy"] == [] and not any(map(has_torch, (victim.pid, met["pid"])))

        # It is ended, and another one is there
        do_harm(harm, victim, point, met["pid"], fleet)
        try:
            until(lambda: gates.is_at_rest(stack), "the end of the job")
        except AssertionError as error:
            raise AssertionError(f"{error}; the workers said:\n{fleet.logs()}") from error

        # The one that was stopped wakes up late, and goes on where it was
        if harm == "SIGSTOP":
            victim.signal(signal.SIGCONT, group=True)
            point.release("go")

        # The one that was harmed ends well when told to, if it still runs, and its child with it
        if victim.ended_with() is None:
            victim.signal(signal.SIGTERM)
            assert victim.wait(seconds=GRACE_SECONDS) == 0, fleet.logs()
        until(lambda: not is_running(met["pid"]), "the end of the child")

    # Every render is recorded once, and nothing is left behind
    lost_makers = int(place == "weights_generated" and harm not in ENDS_WITH)  # who is told to stop hands over
    return gates.check(stack, renders=RENDERS, people=PEOPLE, lost_makers=lost_makers)
