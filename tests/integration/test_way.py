"""The whole way of a job with real servers and real worker processes, over every stack.

What happens to workers that are killed is in tests/chaos.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from stacks import PATIENCE_SECONDS, PHOTOS, STACKS, Stack, people_manifest

from hyperlora import ClipVision, HyperLoRA, PortraitPipeline
from hyperlora.faces import load_analyzer
from hyperlora.identity import prepare_identity
from jobs import cancel, enqueue, results
from jobs.models import Unit, WeightSet
from jobs.profiles import find_profile
from jobs.storage import open_storage

MARKS = {
    "redis": [pytest.mark.postgres, pytest.mark.redis, pytest.mark.s3],
    "rabbitmq": [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.s3],
}


def on(*names: str) -> Any:
    """Only on these stacks: what does not depend on the broker is tried with and without servers."""
    chosen = [pytest.param(name, marks=MARKS.get(name, [])) for name in names]
    return pytest.mark.parametrize("stack", chosen, indirect=True)


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in STACKS])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with STACKS[request.param](tmp_path / "home", lambda: request.getfixturevalue("s3_server")) as opened:
        yield opened


def all_pictures(stack: Stack) -> list[str]:
    return [key for key in open_storage(stack.settings.storage_url, stack.settings).list("") if key.endswith(".png")]


def test_manifest_to_portraits(stack: Stack) -> None:
    # Given an enqueued job
    job = enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
    assert (job.renders, job.units, job.messages_sent, job.warnings) == (12, 3, 3, [])

    # When a worker runs
    with stack.worker() as worker:
        found = stack.wait(lambda found: found.finished)
    assert worker.returncode == 0, stack.log()

    # Then every render has one object, whose URL gives what the row says
    assert (found.job["state"], found.job["done"]) == ("done", 12)
    rows = list(results(settings=stack.settings, urls=True))
    assert sorted(all_pictures(stack)) == sorted(row["storage_key"] for row in rows)
    with urllib.request.urlopen(rows[0]["url"]) as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == rows[0]["sha256"]


@on("serverless", "rabbitmq")
def test_real_faces_and_a_real_network(stack: Stack) -> None:
    # Given a job for the built-in profile
    profile = find_profile(stack.settings, "mini")
    job = enqueue(people_manifest(profile="mini"), settings=stack.settings, base=PHOTOS)

    # When a worker draws it
    with stack.worker():
        found = stack.wait(lambda found: found.finished)

    # Then each picture is there and tells how it was made
    assert (found.job["state"], found.job["done"]) == ("done", 12)
    storage = open_storage(stack.settings.storage_url, stack.settings)
    drawn = {}
    for row in results(job.key, settings=stack.settings):
        with Image.open(io.BytesIO(storage.get(row["storage_key"]))) as picture:
            assert picture.size == (64, 64)
            told = json.loads(picture.info["portraits"])
            drawn[row["external_id"], row["prompt_name"], row["seed"]] = picture.convert("RGB").copy()
        assert "notice" not in told
        assert row["final_prompt"].startswith("fcsks fxhks fhyks, portrait of")
        assert row["recogniser"] == "insightface-mini_faces"
        assert row["id_similarity"] is not None or row["id_similarity_reason"]  # two steps seldom make a face
        assert row["seconds_denoise"] > 0

    # Then it is what the library draws alone, in one process, without queue or batch
    network = HyperLoRA.from_pretrained(profile.hyperlora)
    clip = ClipVision.from_pretrained(profile.clip_vision)
    pipeline = PortraitPipeline.from_pretrained(profile.base, trigger_words=network.config.trigger_words)
    photos = [Image.open(PHOTOS / f"ada-{n}.jpg") for n in (1, 2)]
    person = prepare_identity(load_analyzer(profile.faces), clip, photos)
    lora = network.generate(person.face_embeddings, person.clip_tokens)
    (who, prompt, seed) = next(key for key in drawn if key[:2] == ("ada", "office"))
    (alone,) = pipeline(
        "portrait of a woman in a suit", [(lora, 0.8)], seeds=seed, width=64, height=64, steps=2, guidance=3.0
    )
    difference = np.abs(np.asarray(alone, dtype=int) - np.asarray(drawn[who, prompt, seed], dtype=int))
    assert difference.max() <= 1


@on("serverless", "rabbitmq")
def test_three_workers_share_twenty_people(stack: Stack) -> None:
    # Given 20 people (the same faces under 20 names) in two jobs
    photos = sorted(path.name for path in PHOTOS.glob("*.jpg"))[:20]
    people = [{"id": f"p{n}", "subject": "a person", "photos": [name]} for n, name in enumerate(photos)]
    for _ in range(2):
        enqueue(people_manifest(identities=people), settings=stack.settings, base=PHOTOS)

    # When three worker processes race
    with ExitStack() as running:
        for n in range(3):
            running.enter_context(stack.worker(f"w{n}", PORTRAITS_FAKE_STEP_SECONDS="0.01"))
        stack.wait(lambda found: found.finished)

        def settled(_: object) -> bool:
            with stack.database.reading() as tx:
                return set(tx.execute(select(Unit.state)).scalars()) == {"done"}

        stack.wait(settled)

    # Then exactly 20 weight sets were generated
    with stack.database.reading() as tx:
        assert list(tx.execute(select(WeightSet.generations)).scalars()) == [1] * 20
    assert len(all_pictures(stack)) == 160


@on("serverless", "rabbitmq")
@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "group"])
def test_sigterm_hands_the_rest_back_at_once(stack: Stack, whole_group: bool) -> None:
    # Given a worker in the middle of a long job
    enqueue(people_manifest(defaults={"size": 64, "steps": 5, "seeds": 20}), settings=stack.settings, base=PHOTOS)
    with stack.worker(PORTRAITS_FAKE_STEP_SECONDS="0.05") as worker:
        stack.wait(lambda found: found.job["done"] >= 1)

        # When it is told to stop: the parent alone, or parent and child as systemd does
        if whole_group:
            os.killpg(worker.pid, signal.SIGTERM)
        else:
            worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=PATIENCE_SECONDS)

    # Then it ends well, holds nothing, and no attempt was lost
    assert worker.returncode == 0, stack.log()
    with stack.database.reading() as tx:
        rows = tx.execute(select(Unit.state, Unit.attempts)).all()
    assert {row.state for row in rows} <= {"ready", "done"}
    assert all(row.attempts == 0 for row in rows if row.state == "ready")


def test_cancel_while_running(stack: Stack) -> None:
    # Given a running job
    job = enqueue(people_manifest(defaults={"size": 64, "steps": 5, "seeds": 20}), settings=stack.settings, base=PHOTOS)
    with stack.worker(PORTRAITS_FAKE_STEP_SECONDS="0.05"):
        stack.wait(lambda found: found.job["done"] >= 1)

        # When it is cancelled
        cancelled = cancel(job.job_id, settings=stack.settings)
        found = stack.wait(lambda found: found.finished)

    # Then what was drawn stays, and no picture lies in storage that no row names
    assert found.job["state"] == "cancelled"
    assert found.job["done"] + cancelled == 120
    rows = list(results(settings=stack.settings, state="done"))
    assert sorted(all_pictures(stack)) == sorted(row["storage_key"] for row in rows)
