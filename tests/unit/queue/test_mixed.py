"""Several people in one batch: when it pays, what is planned, and that nobody's picture or fault becomes another's."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path

import pytest
from queue_world import World, add_job, person, settings
from sqlalchemy import select, update

from hyperlora.compiler import EngineOptions
from jobs.database import Database
from jobs.models import Unit
from worker.calibration import Asked, measure_costs, measure_way
from worker.costs import FILE, GPU, Costs, load_costs, save_costs
from worker.engine_choice import choose, load_choice, save_choice
from worker.errors import CalibrationImpossible, NotInProfile
from worker.renderer import Batch
from worker.testing import FakeRenderer

PIXELS = GPU.pixels
CHEAP = Costs(base=1.0, each=0.1, dearer=0.1, merge=0.0, own=0.0, pixels=64 * 64)
"""A device on which a nearly empty batch costs as much as a full one."""


def cost(counts: list[int], chosen: set[int], size: int, costs: Costs) -> float:
    """What these left-over batches cost when those of `chosen` are drawn together."""
    together = sum(counts[n] for n in chosen)
    apart = sum(costs.merged(count, 20, PIXELS) for n, count in enumerate(counts) if n not in chosen)
    full, left = divmod(together, size)
    return apart + full * costs.mixed(size, 20, PIXELS) + (costs.mixed(left, 20, PIXELS) if left else 0.0)


@pytest.mark.parametrize("counts", [[1, 1], [1, 1, 1, 1], [1, 2, 3, 7], [3, 3, 5], [7, 7, 7], [1, 7], [2], []])
@pytest.mark.parametrize("costs", [GPU, dataclasses.replace(GPU, dearer=0.9), dataclasses.replace(GPU, base=0.3)])
def test_the_choice_is_near_the_best_of_all_choices(counts: list[int], costs: Costs) -> None:
    # When it is decided how many of the smallest are drawn together
    chosen = costs.to_mix(counts, 8, 20, PIXELS)

    # Then no other set of them is cheaper by more than a twentieth
    best = min(
        cost(counts, {n for n, yes in enumerate(bits) if yes}, 8, costs)
        for bits in product((False, True), repeat=len(counts))
    )
    assert chosen != 1
    assert cost(counts, set(range(chosen)), 8, costs) <= 1.05 * best + 1e-9


def test_it_pays_where_batches_would_be_empty() -> None:
    assert GPU.pays(1, 8, 20, PIXELS) and not GPU.pays(7, 8, 20, PIXELS)
    assert not GPU.pays(0, 8, 20, PIXELS)  # nothing is left over
    assert not dataclasses.replace(GPU, dearer=1.0).pays(1, 8, 20, PIXELS)


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    made = World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))
    made.costs = CHEAP
    return made


def test_people_with_one_picture_each_share_batches(world: World) -> None:
    # Given eight people with one picture each
    people = [person(f"p{n}", [1], world.settings) for n in range(8)]
    job = add_job(world.database, people)

    # When they are drawn where that is cheap, and the same people again where it is not
    report = world.shift()
    mixed = {row["external_id"]: row["sha256"] for row in world.renders(job)}
    world.costs = None
    again = add_job(world.database, people, key="again")
    apart = world.shift()

    # Then two batches do instead of eight, and a picture does not know who else was in its batch
    assert (report.batches, report.drawn.mixed, report.groups) == (2, 2, 8)
    assert world.renderer.batch_sizes == [4, 4, *[1] * 8]
    assert (apart.batches, apart.drawn.mixed) == (8, 0)
    assert world.job(job)["done"] == world.job(again)["done"] == 8
    assert len(set(mixed.values())) == 8
    with world.database.reading() as tx:
        assert set(tx.execute(select(Unit.state)).scalars()) == {"done"}
    assert colours(world, job) == colours(world, again)


def colours(world: World, job: object) -> dict[str, object]:
    """Each person's first pixel."""
    import io

    from PIL import Image

    return {
        row["external_id"]: Image.open(io.BytesIO(world.storage.get(row["storage_key"]))).getpixel((0, 0))
        for row in world.renders(job)  # type: ignore[arg-type]
    }


def test_full_batches_are_one_persons_and_only_the_rest_is_shared(world: World) -> None:
    # Given two people with five pictures each
    job = add_job(world.database, [person(name, [5], world.settings) for name in ("ada", "alan")])

    # When they are drawn
    report = world.shift()

    # Then each has a full batch, and the two that are left share one
    assert world.renderer.batch_sizes == [4, 4, 2]
    assert (report.batches, report.drawn.mixed) == (3, 1)
    assert world.job(job)["done"] == 10


def test_nobody_is_claimed_for_company_who_would_not_be_cheaper(world: World) -> None:
    # Given people whose pictures fill their batches
    add_job(world.database, [person(name, [4], world.settings) for name in ("ada", "alan")])
    held: list[int] = []

    def at_step(step: int) -> None:
        if step == 0 and not world.renderer.batch_sizes:
            with world.database.reading() as tx:
                held.append(len(tx.execute(select(Unit.id).where(Unit.state == "leased")).all()))

    world.renderer._at_step = at_step
    world.shift()
    assert held and held[0] <= 2  # the one who is drawn, and perhaps the next, who is prepared in her last batch
    assert world.renderer.calls["mixed"] == 0


def test_a_fault_in_a_mixed_batch_fails_one_render(world: World) -> None:
    # Given four people of whom one asks for what cannot be drawn
    people = [person(f"p{n}", [1], world.settings) for n in range(3)]
    people.append(person("strange", [1], world.settings, prompt="a broken wish"))
    job = add_job(world.database, people)
    plain = world.renderer.draw

    def draw(samples, setting, **more):  # type: ignore[no-untyped-def]
        if any("broken" in sample.prompt for sample in samples):
            raise NotInProfile("this cannot be drawn")
        return plain(samples, setting, **more)

    world.renderer.draw = draw  # type: ignore[method-assign]

    # When they are drawn
    world.shift()

    # Then the others are done and the one has its reason
    found = {row["external_id"]: (row["state"], row["error"]) for row in world.renders(job)}
    assert {found[f"p{n}"] for n in range(3)} == {("done", None)}
    assert found["strange"][0] == "failed" and "this cannot be drawn" in found["strange"][1]


def test_out_of_memory_cuts_mixed_batches_smaller(world: World) -> None:
    # Given a device on which two pictures fit
    world.renderer._fits = 2
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])

    # When four people are drawn together
    world.shift()

    # Then they are, two by two
    assert world.renderer.batch_sizes == [2, 2] and world.job(job)["done"] == 4


def test_costs_are_kept_for_each_model_and_device(tmp_path: Path) -> None:
    # Given a renderer on a CPU, of which nothing is known
    renderer = FakeRenderer()
    assert load_costs(tmp_path, renderer) is None

    # When its costs are kept
    save_costs(tmp_path, renderer, CHEAP)

    # Then they are found for it, and for no other; a GPU that nobody has measured is taken for a usual one
    assert load_costs(tmp_path, renderer) == CHEAP
    renderer.device = "NVIDIA H100"  # type: ignore[misc]
    assert load_costs(tmp_path, renderer) == GPU


@pytest.mark.parametrize("content", ["{", "[]", '{"fake, model %s": {"base": 1}}', '{"fake, model %s": %s}'])
def test_a_spoiled_calibration_is_told_and_made_anew(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a file that is no calibration, or one with negative seconds
    renderer = FakeRenderer()
    negative = json.dumps({**dataclasses.asdict(CHEAP), "each": -1})
    text = content.replace("%s", renderer.model_fingerprint, 1).replace("%s", negative)
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    # When a worker reads it / Then it says what to do, and goes on as if there were none
    assert load_costs(tmp_path, renderer) is None
    assert FILE in caplog.text and "run `portraits calibrate` again" in caplog.text
    # And doing so mends it
    save_costs(tmp_path, renderer, CHEAP)
    assert load_costs(tmp_path, renderer) == CHEAP


def test_what_a_later_version_measures_besides_is_passed_over(tmp_path: Path) -> None:
    # Given costs and a choice with a key that nobody here knows
    renderer, later = FakeRenderer(), {"later": 1}
    kept = {f"fake, model {renderer.model_fingerprint}": {**dataclasses.asdict(CHEAP), **later}}
    kept["NVIDIA H100, engine"] = {"compile": "whole", "room": 1.5, **later}
    (tmp_path / FILE).write_text(json.dumps(kept), encoding="utf-8")
    # Then what is known of them is used
    assert load_costs(tmp_path, renderer) == CHEAP
    assert load_choice(tmp_path, "NVIDIA H100") == EngineOptions(compile="whole", room=1.5)


class Clocked(FakeRenderer):
    """Takes as long as it says: a tenth of a second before the steps, then so much for each."""

    def stand_ins(self, count: int) -> list[bytes]:
        return [bytes([n]) for n in range(count)]

    def run_with(self, options: EngineOptions, *, side: int) -> None:
        """There is one way."""

    def apply(self, stack: object) -> float:
        return 0.25

    def draw(self, samples, setting, *, stacks=None, on_step=None):  # type: ignore[no-untyped-def]
        step = 1.0 + 0.5 * len(samples)
        seconds = setting.steps * step * (1.2 if stacks else 1.0) + 0.1 * len(samples)
        return Batch([], seconds, 0.0)


def test_costs_are_found_from_drawings_of_few_and_many_steps() -> None:
    # Given a device whose costs are known
    told: list[str] = []
    found = measure_costs(Clocked(batch_size=4), Asked(64, "euler", 5.0, repeat=3), told.append)

    # Then they are found, whatever comes before the steps
    for name, value in {"base": 1.0, "each": 0.5, "dearer": 0.2, "merge": 0.25, "own": 0.1, "pixels": 4096}.items():
        assert getattr(found, name) == pytest.approx(value), name
    assert len(told) == 4 and "ms of 4 people's" in told[0]


def test_one_picture_at_a_time_cannot_be_shared() -> None:
    with pytest.raises(CalibrationImpossible, match="PORTRAITS_BATCH_SIZE"):
        measure_costs(Clocked(batch_size=1), Asked(64, "euler", 5.0, repeat=1), print)


# Seconds of a step on three devices: eager, blocks, whole, and the way that is chosen with projections fused.
@pytest.mark.parametrize(
    ("eager", "blocks", "whole", "fused", "wanted"),
    [
        (1.2, 1.01, 1.0, 0.9, EngineOptions("blocks", fuse_qkv=True, channels_last=True, room=1.333)),  # 1.2 / 0.9
        (1.2, 1.05, 1.0, 1.1, EngineOptions("whole", fuse_qkv=False, channels_last=True, room=1.2)),  # blocks: + 5 %
        (1.0, 1.1, 1.2, 0.9, EngineOptions("off", fuse_qkv=True, channels_last=True)),
    ],
)
def test_the_fastest_way_is_chosen_and_blocks_may_cost_a_little(
    eager: float, blocks: float, whole: float, fused: float, wanted: EngineOptions, tmp_path: Path
) -> None:
    # Given a device on which each way takes so long
    tried: list[EngineOptions] = []

    class Ways(Clocked):
        def run_with(self, options: EngineOptions, *, side: int) -> None:
            assert side == 64
            tried.append(options)

        def draw(self, samples, setting, *, stacks=None, on_step=None):  # type: ignore[no-untyped-def]
            way = tried[-1]
            step = fused if way.fuse_qkv else {"off": eager, "blocks": blocks, "whole": whole}[way.compile]
            return Batch([], setting.steps * step + 7.0, 0.0)

    # When the ways are compared
    device = Ways(batch_size=4)
    found = choose(lambda options: measure_way(device, options, Asked(64, "euler", 5.0, repeat=1), lambda _: None))

    # Then the right one is chosen, and is found again for this device alone
    assert found == wanted
    save_choice(tmp_path, "NVIDIA H100", found)
    assert load_choice(tmp_path, "NVIDIA H100") == wanted and load_choice(tmp_path, "NVIDIA L4") is None


@pytest.mark.parametrize("kept", [{"compile": "all"}, {"room": "wide"}, {"room": 0.5}])
def test_a_way_that_nobody_knows_is_told(
    tmp_path: Path, kept: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_text(json.dumps({"NVIDIA H100, engine": kept}), encoding="utf-8")
    assert load_choice(tmp_path, "NVIDIA H100") is None
    assert "run `portraits calibrate` again" in caplog.text


def test_who_was_lost_before_is_drawn_alone(world: World) -> None:
    # Given four people with one picture each, with one of whom a worker was lost before
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])
    with world.database.transaction() as tx:
        last = tx.execute(select(Unit.id).order_by(Unit.sort_key.desc(), Unit.id.desc()).limit(1)).scalar_one()
        tx.execute(update(Unit).where(Unit.id == last).values(attempts=1, lost_workers=1))

    # When they are drawn where people share batches
    report = world.shift()

    # Then that one shares none, and all are done
    assert sorted(world.renderer.batch_sizes) == [1, 3] and report.drawn.mixed == 1
    assert world.job(job)["done"] == 4
