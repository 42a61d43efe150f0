"""A worker that may take only so much memory: it draws the same, says what it does, and refuses what cannot be."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hyperlora.control import ControlNet
from hyperlora.errors import MemoryTooSmall, WeightsMissing
from hyperlora.host_memory import Visitor
from hyperlora.memory import GIB, Measure, MemoryPlan, ModelFacts
from hyperlora.memory.measures import LOSSLESS
from hyperlora.memory.plan import CONTEXT
from jobs.lossy import Lossy
from jobs.profiles import find_profile
from jobs.settings import Settings
from worker.controls import LoadedControls
from worker.costs import Costs
from worker.errors import OutOfMemory
from worker.plan import BatchKey, BatchSizes, batches
from worker.process import remembered_sizes
from worker.renderer import Sample, Setting
from worker.sdxl import SdxlRenderer, make_current
from worker.testing import FakeRenderer
from worker.vram import CONTROLNET, DECODE_AT_ONCE, FACE_BYTES, FACE_NETWORKS, Room, face_room, loading_device, plan_of

SMALL = Setting(64, 64, 2, "dpmpp_2m_karras")
USUAL = {"guided": True, "given": False, "controls": ()}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    return plan_of(find_profile(settings, "mini"), settings, torch.float32).facts


def with_everything(facts: ModelFacts) -> float:
    """The least limit that is possible without changing pictures, in GB."""
    plan = MemoryPlan(facts, frozenset(LOSSLESS), None, asked=1, decode_at_once=DECODE_AT_ONCE)
    return (plan.peak_bytes(1, rank=facts.rank) + 1) / GIB


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


def test_a_controlnet_that_does_not_fit_is_told_as_a_batch_that_does_not(
    renderers: tuple[SdxlRenderer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a device that has no room for a ControlNet's weights
    free, _held = renderers

    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(free._controls, "for_batch", no_room)
    # When a batch asks for it / Then that is the fault that makes batches smaller
    with pytest.raises(OutOfMemory, match="1 pictures of 64x64 do not fit"):
        free.draw([Sample("a man", "", 5, 4.0)], Setting(64, 64, 1, "euler", controls=(("depth", 1.0, 0.0, 1.0),)))


def test_a_merge_that_does_not_fit_is_told_as_a_batch_that_does_not(
    renderers: tuple[SdxlRenderer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a device whose memory runs out in the middle of a merge
    free, _held = renderers
    (person,) = free.stand_ins(1)
    merger = free._pipeline.merger

    def no_room(_parts: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    # When somebody is merged / Then it is the fault that makes batches smaller, and nothing is merged
    with monkeypatch.context() as patched:
        patched.setattr(merger, "_write", no_room)
        with pytest.raises(OutOfMemory, match="merging 1 LoRAs"):
            free.apply([(person, 0.5)])
    assert merger.is_pristine
    # And when there is room again, it is
    free.apply([(person, 0.5)])
    assert not merger.is_pristine


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
    tight = MemoryPlan(facts, frozenset(), plan.peak_bytes(8, rank=facts.rank), asked=8)

    class Nowhere:
        components, decode_at_once, drawing = None, 4, None

    room = Room(8, tight, Nowhere())  # type: ignore[arg-type]

    def largest(**changes: object) -> int:
        return room.largest_batch(64, 64, **{**USUAL, "rank": facts.rank, **changes})  # type: ignore[arg-type]

    # When ControlNets or larger pictures are asked for
    assert largest() == 8
    # Then fewer fit: one that is not loaded counts as half the UNet, and a plan never forbids to try one picture
    assert largest(controls=(None,)) == largest(controls=(int(CONTROLNET * facts.unet),)) < 8
    assert room.largest_batch(4096, 4096, guided=True, given=False, rank=0, controls=()) == 1
    # And so do pictures with more LoRAs, or idle ControlNets beside them
    assert largest(rank=40 * facts.rank) < 8
    assert room.has_room(8, 64, 64, **USUAL, rank=facts.rank)  # type: ignore[arg-type]
    assert not room.has_room(8, 64, 64, **{**USUAL, "controls": (facts.unet,)}, rank=facts.rank)  # type: ignore[arg-type]


def a_net(name: str) -> ControlNet:
    return ControlNet(nn.Linear(100, 10), name, lambda: name)


def test_controlnets_that_a_batch_does_not_use_make_way_the_longest_unused_first() -> None:
    # Given three loaded ControlNets, the first of which was used again
    loaded: list[str] = []
    nets = LoadedControls(lambda name: (loaded.append(name), a_net(name))[1])
    for name in ("pose", "depth", "edges", "pose"):
        nets.for_batch([name])
    gone = weakref.ref(nets.for_batch(["depth"])[0].model)
    nets.for_batch(["edges"])
    nets.for_batch(["pose"])
    (size,) = nets.sizes(["pose"])
    asked = []

    def fits(sizes: Sequence[int | None]) -> bool:
        asked.append(tuple(sizes))
        return len(sizes) <= 3

    # When a batch asks for a fourth and there is room for three
    (found,) = nets.for_batch(["lines"], fits)
    # Then the one that was not used for longest was let go before the fourth was loaded, and the others stay
    assert nets.names == ("edges", "pose", "lines")
    assert gone() is None
    assert asked == [(size, size, size, None), (size, size, None)]
    # And nothing is loaded twice
    assert nets.for_batch(["lines"], fits) == [found]
    assert loaded == ["pose", "depth", "edges", "lines"]


def test_controlnets_at_work_never_make_way() -> None:
    # Given two ControlNets of one batch, and room for none
    nets = LoadedControls(a_net)
    nets.for_batch(["pose", "depth"], lambda _sizes: False)
    # When the batch comes again, with one that it names twice / Then it has both; else only what others use is kept
    assert [net.name for net in nets.for_batch(["depth", "pose", "depth"], lambda _sizes: False)] == [
        "depth", "pose", "depth",
    ]  # fmt: skip
    assert set(nets.names) == {"pose", "depth"}
    nets.keep_only(["pose", "lines"])
    assert nets.names == ("pose",)


def test_a_worker_lets_idle_controlnets_go_where_its_batch_has_no_room_beside_them(
    renderers: tuple[SdxlRenderer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker with a ControlNet that the batch does not use, without a limit, with room for it, and without room
    free, held = renderers
    plan = held.room.plan
    assert plan is not None
    just = plan.peak_bytes(1, 64, 64, guided=True)
    beside = int(1.05 * 4 * 1010 + 1)
    kept = []
    for renderer, limit in ((free, None), (held, 2 * just + beside), (held, just)):
        nets = LoadedControls(a_net)
        nets.for_batch(["pose"])
        monkeypatch.setattr(renderer, "_controls", nets)
        if limit is not None:
            monkeypatch.setattr(renderer.room, "plan", replace(plan, limit_bytes=limit))
        # When it draws
        renderer.draw([Sample("a cat", "", 1, 5.0)], SMALL)
        kept.append(nets.names)
    # Then it is let go only where there is no room
    assert kept == [("pose",), ("pose",), ()]


def test_lossy_linear_layers_are_in_the_plan(facts: ModelFacts, tmp_path: Path) -> None:
    # Given a profile with linear layers in 8 bits
    settings = Settings(home=tmp_path, vram_gb=8.0)
    mini = find_profile(settings, "mini")
    lossy = mini.model_copy(update={"lossy": Lossy.model_validate({"linears": "int8"})})
    # When it is planned, and loaded under a limit
    planned = plan_of(lossy, settings, torch.float32)
    renderer = SdxlRenderer.load_profile(lossy, settings)
    # Then the plan counts the copies that lie on the device, and that their products take more
    assert renderer.room.plan is not None
    copies = renderer._pipeline.lossy.buffer_bytes
    assert copies > 0
    assert planned.facts.linears == renderer.room.plan.facts.linears == copies
    assert planned.staying == plan_of(mini, settings, torch.float32).staying + copies
    assert planned.facts.step > facts.step


KEY = BatchKey(0.8, 0.0, (), -1, 64, 64, 2, "euler", True, 1.0, "", (), 1, 1)


def test_a_batch_is_planned_with_as_many_loras_as_its_pictures_have(tmp_path: Path) -> None:
    # Given a renderer that has room for eight LoRAs in all, and pictures of one, of one with Base-LoRA and two sliders
    class Narrow(FakeRenderer):
        def largest_batch(self, *_: object, loras: int = 1, **__: object) -> int:
            return 8 // loras

    sizes = remembered_sizes(Narrow(batch_size=8), Settings(home=tmp_path))
    rich = replace(KEY, base_weight=0.5, sliders=(("a", 0.1), ("b", 0.2)))
    # When it is asked how many fit / Then each kind gets its own number
    assert (KEY.loras, rich.loras) == (1, 4)
    assert (sizes.of(KEY), sizes.of(rich)) == (8, 2)


def test_a_mixed_batch_is_as_small_as_its_richest_picture_wants() -> None:
    # Given four people with one picture each, one of them with three sliders, and room for four LoRAs
    rich = replace(KEY, sliders=tuple((name, 0.1) for name in "abc"))
    keys = [KEY, rich, KEY, KEY]
    draws: list[Any] = [
        SimpleNamespace(render=SimpleNamespace(unit=SimpleNamespace(job_id=n), ordinal=0), attempt=0, part=None)
        for n in range(len(keys))
    ]
    cheap = Costs(base=1.0, each=0.1, dearer=0.1, merge=0.0, own=0.0, pixels=64 * 64)
    # When they are cut where company is cheap, and room for as many as the plain ones want, else for the richest's
    for room, mixed in ((16, [4]), (8, [2, 2])):
        sizes = BatchSizes(room, expected=lambda key, room=room: room // key.loras)  # type: ignore[misc]
        planned = batches(
            draws, sizes, lambda draw: keys[draw.render.unit.job_id], lambda draw: draw.render.unit.job_id, cheap
        )
        # Then no batch that has the rich picture is larger than its own kind's
        assert [len(batch.draws) for batch in planned if batch.mixed] == mixed


@pytest.mark.parametrize(
    ("faces", "asked", "limit", "providers", "taken"),
    [
        ("insightface:pack", "", None, None, 0),
        ("insightface:pack", "cuda, cpu", None, ["cuda", "cpu"], 0),
        ("insightface:pack", "", 12.0, ["cpu"], 0),  # all of the card is planned for drawing
        ("insightface:pack", "CPU", 12.0, ["CPU"], 0),
        ("insightface:pack", "cuda,cpu", 12.0, ["cuda", "cpu"], 3 * FACE_BYTES),
        ("opencv", "cuda", 12.0, ["cuda"], 0),  # which runs on the CPU
    ],
)
def test_under_a_limit_faces_stay_off_the_gpu_or_are_counted(
    faces: str, asked: str, limit: float | None, providers: list[str] | None, taken: int, tmp_path: Path
) -> None:
    # Given a limit or none, and providers or none
    settings = Settings(home=tmp_path, vram_gb=limit, face_providers=asked)
    profile = find_profile(settings, "mini").model_copy(update={"faces": faces})
    # When it is asked where faces are found / Then it is there, and the plan counts what they may take
    room = face_room(profile, settings, "cuda:1")
    assert (room.providers, room.gpu, room.taken) == (providers, 1, taken)
    assert room.gpu_bytes == (FACE_BYTES if taken else None)
    assert plan_of(profile, settings, torch.float32).beside == taken


def test_pytorch_is_held_to_what_cuda_and_face_networks_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given 12 GB, and face networks that are asked to run on a GPU, which is not here
    held: list[int] = []
    monkeypatch.setattr("worker.vram._hold_to", lambda most, _device: held.append(most))
    settings = Settings(home=tmp_path, vram_gb=12.0, face_providers="cuda")
    profile = find_profile(settings, "mini").model_copy(update={"faces": f"insightface:{tmp_path}"})
    # When the profile is loaded up to there / Then PyTorch is to leave room for both
    with pytest.raises(WeightsMissing):
        SdxlRenderer.load_profile(profile, settings)
    assert held == [12 * GIB - CONTEXT - FACE_NETWORKS * FACE_BYTES]


def test_a_worker_makes_the_gpu_that_it_is_given_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker for the second GPU
    made: list[torch.device] = []

    class EnoughSeen(Exception):
        """Nothing can be loaded there."""

    def load_nothing(*_: object, device: str, **__: object) -> None:
        assert device == "cuda:1"
        raise EnoughSeen

    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    monkeypatch.setattr("worker.sdxl.load_checker", load_nothing)
    settings = Settings(home=tmp_path, device="cuda:1")
    # When it loads its profile / Then that GPU was made the current one first
    with pytest.raises(EnoughSeen):
        SdxlRenderer.load_profile(find_profile(settings, "mini"), settings)
    assert made == [torch.device("cuda:1")]
    # And a device without a number is left to be chosen from outside
    make_current("cuda")
    make_current("cpu")
    assert len(made) == 1
