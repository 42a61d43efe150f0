"""What follows from a finished picture: other seeds, small faces drawn again, refusals, further files."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select

from hyperlora.faces.types import Face
from jobs.database import Database
from jobs.models import Candidate, Output
from jobs.options import DetailOption, GateOption, OutputOption, RenderOptions
from jobs.planned import candidate_seed
from worker.renderer import Sample, Setting
from worker.testing import FakeRenderer

GATE = RenderOptions(gate=GateOption(min_id_similarity=0.9, attempts=4)).dump()


def redness(image: Image.Image) -> float:
    """Stands for the ID similarity: how red a flat picture is, 0 to 1."""
    red, _green, _blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc, str-unpack]
    return float(red) / 255


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4, alike=redness))


def expected(world: World, seed: int, attempts: int) -> list[float]:
    """The likeness under each seed that may be tried, worked out from the fake renderer's colours."""
    setting = Setting(width=16, height=16, steps=2, scheduler="euler")
    colours = [
        world.renderer.colour(Sample("a portrait", "", candidate_seed(seed, n), 5.0), setting) for n in range(attempts)
    ]
    return [red / 255 for red, _green, _blue in colours]


def test_the_gate_draws_new_seeds_until_one_is_alike_and_keeps_the_best(world: World) -> None:
    # Given five pictures that must reach a likeness of 0.9 within 4 seeds
    job = add_job(world.database, [person("ada", [5], world.settings, options=GATE)])

    # When they are drawn
    report = world.shift()

    # Then each ends with the first seed that reaches it, or with the best of four, and the others are recorded
    rows = world.renders(job)
    assert report.renders == 5
    reached = 0
    for row in rows:
        likenesses = expected(world, row["seed"], 4)
        good = next((n for n, one in enumerate(likenesses) if one >= 0.9), None)
        best = good if good is not None else likenesses.index(max(likenesses))
        reached += good is not None
        assert row["draws"] == (4 if good is None else good + 1)
        assert row["drawn_seed"] == candidate_seed(row["seed"], best)
        assert row["id_similarity"] == pytest.approx(likenesses[best])
        assert (row["id_similarity_reason"] is None) == (good is not None)
        with world.database.reading() as tx:
            found = list(tx.execute(select(Candidate.__table__).where(Candidate.render_id == row["render_id"])))
        assert sorted(one.seed for one in found) == sorted(candidate_seed(row["seed"], n) for n in range(row["draws"]))
        assert [one.storage_key for one in found if one.chosen] == [row["storage_key"]]
        assert all(world.storage.exists(one.storage_key) for one in found)
        assert sorted(one.id_similarity for one in found) == pytest.approx(sorted(likenesses[: row["draws"]]))
    assert 0 < reached < 5  # both ends were seen


def test_the_follow_ups_of_many_renders_share_batches(world: World) -> None:
    # Given eight pictures none of which is ever alike enough, and batches of 4
    gate = RenderOptions(gate=GateOption(min_id_similarity=1.0, attempts=3)).dump()
    add_job(world.database, [person("ada", [8], world.settings, options=gate)])
    world.renderer._alike = lambda image: 0.0

    # When they are drawn
    world.shift()

    # Then 8 pictures under 3 seeds are 6 full batches, and the LoRA was merged once
    assert world.renderer.batch_sizes == [4] * 6
    assert world.renderer.calls["merge"] == 1


def test_what_was_begun_is_brought_to_its_end_when_the_shift_is_over(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given shifts that are over at once, and a gate of three seeds that none passes
    world = World(database, settings(tmp_path, database_url, shift_seconds=0.001), FakeRenderer(batch_size=2))
    gate = RenderOptions(gate=GateOption(min_id_similarity=1.0, attempts=3)).dump()
    job = add_job(database, [person("ada", [4], world.settings, options=gate)])

    # When two shifts run
    shifts = [world.shift(), world.shift()]

    # Then each began one batch and finished it, instead of trying the first seed again and again
    assert [report.renders for report in shifts] == [2, 2]
    assert [row["draws"] for row in world.renders(job)] == [3, 3, 3, 3]


def test_a_shift_that_is_told_to_stop_gives_back_what_it_began(world: World) -> None:
    # Given a worker that is told to stop during the first seed
    job = add_job(world.database, [person("ada", [2], world.settings, options=GATE)])
    world.renderer._alike = lambda image: 0.0
    world.renderer._at_step = lambda step: world.stop.set()
    world.shift()
    assert [row["state"] for row in world.renders(job)] == ["waiting", "waiting"]

    # When another shift runs
    world.stop.clear()
    world.renderer._at_step = lambda step: None
    world.shift()

    # Then the pictures are whole, drawn from the first seed on
    assert [(row["state"], row["draws"]) for row in world.renders(job)] == [("done", 4)] * 2


def test_a_picture_without_a_measurable_face_is_the_worst_of_candidates(world: World) -> None:
    # Given a renderer that finds a face under the third seed only
    seeds = iter([None, None, 0.2, None])
    world.renderer._alike = lambda image: next(seeds)
    job = add_job(world.database, [person("ada", [1], world.settings, options=GATE)])

    # When the picture is drawn
    world.shift()

    # Then that one was kept
    [row] = world.renders(job)
    assert (row["drawn_seed"], row["id_similarity"]) == (candidate_seed(row["seed"], 2), 0.2)
    assert row["id_similarity_reason"] == "below the wanted 0.9: the best of 4 seeds"


def test_a_refused_picture_is_not_stored_and_its_row_says_why(world: World) -> None:
    # Given a checker that refuses everything
    world.renderer._unsafe = lambda image: "nudity: 0.31 over the threshold"
    job = add_job(world.database, [person("ada", [2], world.settings), person("alan", [1], world.settings)])

    # When the job is drawn
    world.shift()

    # Then no picture lies in the store, and every row says why
    assert world.pictures() == []
    for row in world.renders(job):
        assert (row["state"], row["error_code"], row["storage_key"]) == ("failed", "refused_content", None)
        assert "nudity: 0.31" in row["error"]
        assert "not stored" in row["error"]
    with world.database.reading() as tx:
        assert list(tx.execute(select(Candidate.id))) == []


def test_with_a_gate_a_refused_seed_is_followed_by_another(world: World) -> None:
    # Given a checker that refuses the first picture only, and two seeds without a least likeness
    verdicts = iter(["nudity", None])
    world.renderer._unsafe = lambda image: next(verdicts)
    best_of = RenderOptions(gate=GateOption(min_id_similarity=None, attempts=2)).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, options=best_of)])

    # When the job is drawn
    world.shift()

    # Then the second seed's picture is the render's, and the refused one left nothing behind
    [row] = world.renders(job)
    assert (row["state"], row["drawn_seed"], row["draws"]) == ("done", candidate_seed(row["seed"], 1), 2)
    assert world.pictures() == [row["storage_key"]]


def square_face(x: float, y: float, side: float) -> Face:
    """A face in a square box."""
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    return Face(
        np.array([x, y, x + side, y + side], dtype=np.float32),
        0.9,
        np.array([(x + a * side, y + b * side) for a, b in points], dtype=np.float32),
    )


def test_a_small_face_is_drawn_again_and_blended_into_the_picture(world: World) -> None:
    # Given pictures of 64 px with a face of 8 px
    world.renderer._faces_in = lambda image: [square_face(40, 8, 8)] if image.width == 64 else []
    job = add_job(world.database, [person("ada", [3], world.settings, width=64, height=64)])

    # When they are drawn
    world.shift()

    # Then one batch drew the pictures, one their faces from what they looked like, with the end of the schedule
    (_, whole), (faces, detail) = world.renderer.drawn
    assert (whole.width, whole.strength) == (64, 1.0)
    assert (detail.width, detail.height, detail.steps, detail.strength) == (16, 16, 20, 0.5)
    assert len(faces) == 3
    assert all(sample.image is not None and sample.image.size == (16, 16) for sample in faces)
    for row in world.renders(job):
        assert row["detail_faces"] == 1
        assert row["seconds_detail"] > 0
        # ... and the rest of the picture is as it was
        with Image.open(io.BytesIO(world.storage.get(row["storage_key"]))) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=int)
        assert (pixels[40:, :30] == pixels[63, 0]).all()
        assert (pixels[12, 44] != pixels[63, 0]).any()


def test_a_few_step_sampler_redraws_with_the_steps_of_the_render(world: World) -> None:
    # Given a render of four steps with a sampler of few-step models, and a small face in it
    world.renderer._faces_in = lambda image: [square_face(40, 8, 8)] if image.width == 64 else []
    asked = {"width": 64, "height": 64, "steps": 4, "scheduler": "euler_trailing", "guidance": 0.0}
    job = add_job(world.database, [person("ada", [1], world.settings, **asked)])

    # When it is drawn
    world.shift()

    # Then the face was drawn by the end of those four steps
    assert world.job(job)["done"] == 1
    assert [(setting.steps, setting.strength) for _, setting in world.renderer.drawn] == [(4, 1.0), (4, 0.5)]


@pytest.mark.parametrize(
    ("when", "side", "redrawn"),
    [("auto", 8, 1), ("auto", 40, 0), ("never", 8, 0), ("always", 40, 1)],
)
def test_detail_can_be_chosen(world: World, when: Any, side: int, redrawn: int) -> None:
    # Given a face of this size and this choice
    world.renderer._faces_in = lambda image: [square_face(10, 10, side)] if image.width == 64 else []
    options = RenderOptions(detail=DetailOption(when=when)).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, width=64, height=64, options=options)])

    # When the picture is drawn
    world.shift()

    # Then its face was drawn again, or not
    assert [row["detail_faces"] for row in world.renders(job)] == [redrawn]
    assert world.renderer.calls["draw"] == 1 + redrawn


def test_one_picture_becomes_several_files(world: World) -> None:
    # Given an avatar beside the picture
    outputs = (OutputOption(format="jpeg", quality=80), OutputOption(name="avatar", format="webp", size=(8, 8)))
    options = RenderOptions(outputs=outputs).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, options=options)])

    # When the picture is drawn
    world.shift()

    # Then the row names the first file, the table of outputs the other, and both can be opened
    [row] = world.renders(job)
    assert row["storage_key"].endswith("/1.jpg")
    assert (row["media_type"], row["output_width"], row["output_height"]) == ("image/jpeg", 16, 16)
    with world.database.reading() as tx:
        [avatar] = tx.execute(select(Output.__table__).where(Output.render_id == row["render_id"])).all()
    assert (avatar.name, avatar.media_type, avatar.width, avatar.height) == ("avatar", "image/webp", 8, 8)
    for key, form, size in ((row["storage_key"], "JPEG", (16, 16)), (avatar.storage_key, "WEBP", (8, 8))):
        with Image.open(io.BytesIO(world.storage.get(key))) as picture:
            assert (picture.format, picture.size) == (form, size)


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": [{"upscale": "x9"}]},
        {"control": [{"net": "openpose", "keypoints": "photo"}]},
    ],
)
def test_a_render_that_asks_for_what_the_profile_lacks_fails_alone(world: World, options: dict[str, Any]) -> None:
    # Given one render that asks for an unknown upscaler or ControlNet, and one that does not
    rows = [[{**world_row, "options": options if n == 0 else None} for n, world_row in enumerate(_two_rows(world))]]
    asked = person("ada", [2], world.settings)
    job = add_job(world.database, [type(asked)(**{**vars(asked), "units": rows})])

    # When the job is drawn
    world.shift()

    # Then the one says what is missing, and the other is there
    bad, good = world.renders(job)
    assert (bad["state"], bad["error_code"]) == ("failed", "not_in_profile")
    assert "fake" in bad["error"]
    assert good["state"] == "done"


def _two_rows(world: World) -> list[dict[str, Any]]:
    [unit] = person("ada", [2], world.settings).units
    return list(unit)


def test_a_worker_that_was_fenced_out_leaves_no_file_behind(world: World) -> None:
    # Given a job that is cancelled while its last seed is drawn
    outputs = (OutputOption(), OutputOption(name="small", size=(8, 8)))
    options = RenderOptions(gate=GateOption(min_id_similarity=1.0, attempts=2), outputs=outputs).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, options=options)])
    put, cancelled = world.storage.put, threading.Event()

    def cancel_then_put(*args: Any, **kwargs: Any) -> None:
        if not cancelled.is_set() and args[0].startswith(f"{TENANT}/{job}"):
            cancelled.set()
            _cancel(world, job)
        put(*args, **kwargs)

    world.use_storage(_Storage(world.storage, cancel_then_put))

    # When the picture is recorded
    world.shift()

    # Then neither the picture, nor its other form, nor the other candidate lies in the store
    assert cancelled.is_set()
    assert world.pictures() == []


class _Storage:
    """A store with another `put`."""

    def __init__(self, storage: Any, put: Callable[..., None]) -> None:
        self._storage, self.put = storage, put

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def _cancel(world: World, job: Any) -> None:
    from jobs.repository import jobs as job_rows

    with world.database.transaction() as tx:
        job_rows.cancel(tx, TENANT, job)
