"""A worker that may take only so much memory: it draws the same, says what it does, and refuses what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hyperlora.errors import MemoryTooSmall
from hyperlora.host_memory import Visitor
from hyperlora.memory import GIB, Measure, MemoryPlan, ModelFacts
from hyperlora.memory.measures import LOSSLESS
from jobs.profiles import find_profile
from jobs.settings import Settings
from worker.renderer import Sample, Setting
from worker.sdxl import SdxlRenderer
from worker.vram import CONTROLNET, DECODE_AT_ONCE, Room, loading_device, plan_of

SMALL = Setting(64, 64, 2, "dpmpp_2m_karras")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    return plan_of(find_profile(settings, "mini"), settings, torch.float32).facts


def with_everything(facts: ModelFacts) -> float:
    """The least limit that is possible without changing pictures, in GB."""
    plan = MemoryPlan(facts, frozenset(LOSSLESS), None, asked=1, decode_at_once=DECODE_AT_ONCE)
    return (plan.peak_bytes(1, own=True) + 1) / GIB


@pytest.fixture(scope="module")
def renderers(facts: ModelFacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SdxlRenderer, ...]]:
    """The mini profile without a limit, and with the least one."""
    home = tmp_path_factory.mktemp("renderers")
    free, held = Settings(home=home), Settings(home=home, vram_gb=with_everything(facts))
    yield tuple(SdxlRenderer.load_profile(find_profile(each, "mini"), each) for each in (free, held))


def test_a_worker_held_to_little_memory_draws_the_same(renderers: tuple[SdxlRenderer, ...]) -> None:
    # Given the mini profile without a limit, and with the least one, under which every part but the UNet visits
    free, held = renderers
    assert free.room.plan is None
    assert held.room.plan is not None
    done = held.room.plan.measures
    assert {Measure.TEXT_VISITS, Measure.VAE_VISITS, Measure.PHOTOS_VISIT, Measure.PRISTINE_ON_HOST} <= done
    assert Measure.DECODE_TILED not in done
    # When both make the same person and draw the same picture
    drawn = []
    for renderer in renderers:
        (person,) = renderer.stand_ins(1)
        renderer.apply([(person, 0.8)])
        batch = renderer.draw([Sample("a man with a red hat", "", 5, 4.0)], SMALL)
        mixed = renderer.draw([Sample("a man with a red hat", "", 5, 4.0)], SMALL, stacks=[((person, 0.8),)])
        drawn.append([image.tobytes() for image in (*batch.images, *mixed.images)])
    # Then the pictures are equal, bit for bit, and so are the models' names
    assert drawn[0] == drawn[1]
    assert free.model_fingerprint == held.model_fingerprint
    assert free.hyperlora_fingerprint == held.hyperlora_fingerprint


def test_drawing_and_reading_photos_take_turns_where_clip_only_visits(
    renderers: tuple[SdxlRenderer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker under the least limit, and another thread that wants CLIP in the middle of drawing
    _free, held = renderers
    came: list[str] = []
    original = Visitor._come
    monkeypatch.setattr(Visitor, "_come", lambda self: (came.append("somebody"), original(self))[1])
    turn = held.room.drawing()

    def other_thread_gets_it() -> bool:
        import threading

        got: list[bool] = []

        def ask() -> None:
            got.append(turn.acquire(blocking=False))  # type: ignore[attr-defined]
            if got[0]:
                turn.release()  # type: ignore[attr-defined]

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)
        return got[0]

    seen: list[bool] = []
    # When a picture is drawn
    held.draw(
        [Sample("nobody has asked for this before", "", 1, 1.0)],
        SMALL,
        on_step=lambda *_: seen.append(other_thread_gets_it()),
    )
    # Then nobody else has had a turn before it ended, though text encoders and VAE came in this one
    assert seen == [False, False]
    assert came
    assert other_thread_gets_it()


def test_without_a_limit_everything_is_loaded_where_it_runs_and_batches_are_as_asked() -> None:
    # Given no limit, and one / When it is asked where to load to / Then only a plan needs host memory first
    assert loading_device(Settings(), "cuda") == "cuda"
    assert loading_device(Settings(vram_gb=12), "cuda") == "cpu"


def test_a_limit_that_nothing_can_keep_is_refused_with_the_numbers(tmp_path: Path) -> None:
    # Given less memory than CUDA itself takes
    settings = Settings(home=tmp_path, vram_gb=0.5)
    # When the profile is planned / Then the message says what it takes and what is allowed
    with pytest.raises(MemoryTooSmall, match=r"takes 0\.\d+ GB when everything is done .* 0\.5 GB are allowed"):
        plan_of(find_profile(settings, "mini"), settings, torch.float32)


def test_a_room_counts_controlnets_before_they_are_loaded(facts: ModelFacts) -> None:
    # Given room for eight pictures and no more
    plan = MemoryPlan(facts, frozenset(), None, asked=8)
    tight = MemoryPlan(facts, frozenset(), plan.peak_bytes(8, own=True), asked=8)

    class Nowhere:
        components, decode_at_once, drawing = None, 4, None

    room = Room(8, tight, Nowhere())  # type: ignore[arg-type]

    def largest(**changes: object) -> int:
        return room.largest_batch(64, 64, **{"guided": True, "given": False, "controls": (), **changes})  # type: ignore[arg-type]

    # When ControlNets or larger pictures are asked for
    assert largest() == 8
    # Then fewer fit: one that is not loaded counts as half the UNet, and a plan never forbids to try one picture
    assert largest(controls=(None,)) == largest(controls=(int(CONTROLNET * facts.unet),)) < 8
    assert room.largest_batch(4096, 4096, guided=True, given=False, controls=()) == 1
