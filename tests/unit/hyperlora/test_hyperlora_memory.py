"""What a model takes of a device, and plans for so much memory."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_sdxl import tiny_pipeline
from torch import nn

from hyperlora import HyperLoRA, PortraitPipeline
from hyperlora.batches import decoded_at_once
from hyperlora.clip import ClipVision
from hyperlora.compiler import EngineOptions
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, MemoryTooSmall
from hyperlora.grouped import factors_of, own_rank
from hyperlora.lossy.choice import large_linears
from hyperlora.memory import GIB, BlankModel, Measure, MemoryPlan, ModelFacts, plan_memory
from hyperlora.memory.facts import decode_bytes, step_bytes, weight_bytes
from hyperlora.memory.live import live_bytes
from hyperlora.memory.measures import LOSSLESS

ROOT = Path(__file__).resolve().parents[3]
META = torch.device("meta")
KIB = 1024


def kib(count: int) -> torch.Tensor:
    return torch.empty(count * KIB, dtype=torch.uint8, device=META)


@pytest.fixture(scope="module")
def released() -> BlankModel:
    """Full size, without numbers."""
    return BlankModel.released()


@pytest.fixture(scope="module")
def facts(released: BlankModel) -> ModelFacts:
    return ModelFacts.of(released)


def test_what_is_let_go_makes_room() -> None:
    # Given a computation that holds 3, lets 2 of them go, and makes 2 more
    def run() -> torch.Tensor:
        first = kib(1) + 1
        second = kib(2) + 1
        del second
        return torch.cat([first, first])

    # When it is counted / Then its peak is what lived at one time: inputs of 1 and 2, and results
    assert live_bytes(run) == (1 + 2 + 2) * KIB


def test_views_and_changes_in_place_take_nothing() -> None:
    # Given what was made before
    held = kib(4)
    # When it is looked at in another way and written over / Then nothing more is taken
    assert live_bytes(lambda: held.view(2, -1)[1].add_(1)) == 0


def test_attention_takes_its_result_alone() -> None:
    # Given queries, keys and values of 1024 tokens: the table of all pairs would be 4 MiB
    q, k, v = (torch.empty((1, 1, 1024, 8), device=META) for _ in range(3))
    # When they are counted / Then it is only the result, as in a fused kernel
    assert live_bytes(lambda: nn.functional.scaled_dot_product_attention(q, k, v)) == 1024 * 8 * 4
    assert live_bytes(lambda: nn.functional.scaled_dot_product_attention(query=q, key=k, value=v)) == 1024 * 8 * 4


def test_weights_of_the_released_model_are_those_of_its_description(facts: ModelFacts) -> None:
    # Given SDXL and the released HyperLoRA in half precision / When counted / Then it is two bytes for each number
    assert facts.unet == 2 * 2_567_463_684
    assert facts.attention == 2 * 955_187_200
    assert facts.bases == 2 * 1_486_356_480
    assert facts.resamplers == 2 * (74_750_080 + 8_407_040)
    assert facts.lora == 2 * 11_612_160
    assert facts.text_encoders == pytest.approx(2 * (123_060_480 + 694_659_840), rel=1e-5)  # and position numbers
    assert facts.vae == pytest.approx(2 * 83_653_863, rel=1e-6)
    assert facts.row == 2 * 77 * 2 * (60 * 1280 + 10 * 640)


@pytest.mark.parametrize(("rows", "width", "height"), [(8, 832, 1216), (2, 512, 512)])
def test_a_step_grows_with_rows_and_pixels(
    released: BlankModel, facts: ModelFacts, rows: int, width: int, height: int
) -> None:
    # Given the work of a step as one number for each row and pixel, counted at 1024x1024
    # When another batch of another size is counted / Then the number foretells it
    assert step_bytes(released, rows=rows, width=width, height=height) == pytest.approx(
        facts.step * rows * width * height, rel=0.01
    )


def test_decoding_grows_with_pictures_and_pixels(released: BlankModel, facts: ModelFacts) -> None:
    # Given the work of decoding as one number for each pixel / When three smaller pictures are counted / Then it holds
    assert decode_bytes(released, pictures=3, side=768) == pytest.approx(facts.decode * 3 * 768**2, rel=0.01)


@pytest.fixture(scope="module")
def tiny(
    unet_network: HyperLoRA, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SDXLComponents, HyperLoRA, ClipVision]:
    components = SDXLComponents.from_diffusers(tiny_pipeline(tmp_path_factory.mktemp("tokenizer")))
    return components, unet_network, ClipVision.from_pretrained(clip_folder)


def test_a_loaded_model_is_counted_as_it_lies_there(tiny: tuple[SDXLComponents, HyperLoRA, ClipVision]) -> None:
    # Given a model in memory
    components, network, clip = tiny
    # When it is counted without its numbers
    counted = ModelFacts.of(BlankModel.of(components, network, clip.model))
    # Then weights are what lies there
    assert counted.unet == weight_bytes(components.unet)
    assert counted.vae == weight_bytes(components.vae)
    assert counted.text_encoders == sum(weight_bytes(each) for each in components.text_encoders)
    assert counted.clip == weight_bytes(clip.model)
    assert counted.bases == sum(weight_bytes(bank) for bank in network.banks)
    assert counted.resamplers == sum(weight_bytes(part) for part in network.resamplers)


def test_counting_without_numbers_counts_what_the_real_model_makes(
    tiny: tuple[SDXLComponents, HyperLoRA, ClipVision],
) -> None:
    # Given a model in memory, and the same without numbers
    components, network, clip = tiny
    blank = BlankModel.of(components, network, clip.model)
    real = replace(blank, vae=components.vae)
    latents = torch.zeros(2, 4, 8, 8)
    # When both decode two pictures
    found = live_bytes(lambda: torch.Tensor.float(real.vae.decode(latents, return_dict=False)[0]))
    # Then both take the same
    assert found == decode_bytes(blank, pictures=2, side=8 * blank.size_step)


def test_without_a_limit_nothing_is_done(facts: ModelFacts) -> None:
    # Given no limit / When it is planned / Then everything lies on the device, and batches are as asked
    plan = plan_memory(None, facts, asked=64)
    assert (plan.measures, plan.batch) == (frozenset(), 64)
    assert str(plan).startswith("no limit")


@pytest.mark.parametrize("limit", [8, 10, 12, 16, 24, 80])
@pytest.mark.parametrize("asked", [1, 4, 16])
def test_a_plan_keeps_to_its_limit_with_no_measure_too_many(facts: ModelFacts, limit: int, asked: int) -> None:
    # Given a limit / When it is planned
    plan = plan_memory(limit, facts, asked=asked)
    # Then the batch fits, the pictures stay as they are, and without any of the measures it would not fit
    assert 1 <= plan.batch <= asked
    assert plan.peak_bytes(plan.batch, rank=facts.rank) <= limit * GIB
    assert Measure.DECODE_TILED not in plan.measures
    for measure in plan.measures:
        without = replace(plan, measures=plan.measures - {measure})
        assert without.peak_bytes(plan.batch, rank=facts.rank) > limit * GIB
    # And it is told in words
    assert str(plan).startswith(f"fits {limit} GB (")
    assert str(plan).endswith(f"batches of {plan.batch} at 1024x1024")


def test_more_memory_never_draws_fewer(facts: ModelFacts) -> None:
    # Given ever more memory / When it is planned / Then batches only grow, up to what is asked
    batches = [plan_memory(limit / 2, facts, asked=16).batch for limit in range(16, 60, 2)]
    assert batches == sorted(batches)
    assert batches[-1] == 16


def test_large_cards_need_no_measures_and_twelve_gb_stream_the_bases(facts: ModelFacts) -> None:
    # Given cards of 24 and 12 GB / When eight pictures are asked / Then the one needs nothing, the other streams
    assert not plan_memory(24, facts, asked=8).measures
    twelve = plan_memory(12, facts, asked=8)
    assert twelve.batch == 8
    assert {Measure.BASES_STREAMED, Measure.PRISTINE_ON_HOST, Measure.DECODE_SINGLY} <= twelve.measures


def test_tiles_are_the_last_resort(facts: ModelFacts) -> None:
    # Given a VAE in float32, whose work alone takes 3 GB a picture, and 8 GB
    heavy = replace(facts, vae=2 * facts.vae, decode=2 * facts.decode)
    everything = MemoryPlan(heavy, frozenset(LOSSLESS), 8 * GIB, asked=4)
    assert everything.batch == 0
    # When it is planned / Then pictures are decoded in tiles, and at 10 GB they are not
    assert Measure.DECODE_TILED in plan_memory(8, heavy, asked=4).measures
    assert Measure.DECODE_TILED not in plan_memory(10, heavy, asked=4).measures


def test_what_cannot_fit_is_refused_with_the_numbers(facts: ModelFacts) -> None:
    # Given 6 GB / When it is planned / Then it says what it takes, what is allowed and what to do
    with pytest.raises(MemoryTooSmall, match=r"takes 7\.\d\d GB .* 6 GB are allowed \(the UNet alone has 4\.78 GB"):
        plan_memory(6, facts, asked=1)


@pytest.mark.parametrize(("limit", "asked"), [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (8, 0)])
def test_a_limit_or_batch_that_is_none_is_refused(facts: ModelFacts, limit: float, asked: int) -> None:
    # Given no limit that could be one / When it is planned / Then it is refused
    with pytest.raises(InvalidRequest, match="above 0 GB are wanted"):
        plan_memory(limit, facts, asked=asked)


def test_what_a_picture_is_decides_how_many_fit(facts: ModelFacts) -> None:
    # Given a plan for 12 GB / When pictures are smaller, larger, without guidance or with a ControlNet
    plan = plan_memory(12, facts, asked=16)
    # Then more or fewer fit
    usual = plan.largest_batch()
    assert plan.largest_batch(512, 512) >= usual > plan.largest_batch(1536, 1536)
    assert plan.largest_batch(guided=False) > plan.largest_batch(rank=facts.rank)
    assert plan.largest_batch(more=facts.unet // 2) < usual
    assert plan.largest_batch(8192, 8192) == 0


def test_larger_pictures_are_decoded_fewer_at_once(facts: ModelFacts) -> None:
    # Given everything on the device, four pictures decoded at once / When pictures have four times as many pixels
    plan = plan_memory(None, facts, asked=4)
    usual, large = plan.drawing(4, 1024, 1024)["decoding"], plan.drawing(4, 2048, 2048)["decoding"]
    # Then decoding takes as much as before
    assert usual == large == pytest.approx(4 * 1.5 * GIB, rel=0.01)


def test_rows_loras_are_counted_as_they_are_filled_up(tiny: tuple[SDXLComponents, HyperLoRA, ClipVision]) -> None:
    # Given a model, and pictures whose LoRAs have ranks of 4, 8, 12 and 40 together
    components, network, clip = tiny
    counted = ModelFacts.of(BlankModel.of(components, network, clip.model))
    plan = MemoryPlan(counted, frozenset(), None, asked=4)
    config = network.config
    lora = network.lora(torch.randn(1, config.tokens, config.bases, generator=torch.Generator().manual_seed(0)))
    assert config.rank == 4
    for count, filled in ((1, 8), (2, 8), (3, 16), (10, 64)):
        # When four rows' LoRAs are made ready
        factors = factors_of([[(lora, 0.5)] * count] * 4)
        taken = sum(tensor.numel() * tensor.element_size() for pair in factors.values() for tensor in pair)
        # Then the plan has counted just that
        rank = own_rank([[(lora, 0.5)] * count])
        foretold = plan.drawing(2, 64, 64, rank=count * 4)["denoising"] - plan.drawing(2, 64, 64)["denoising"]
        assert (rank, foretold) == (filled, taken)


def test_layers_in_8_bits_take_their_copies_and_wider_products(
    released: BlankModel, facts: ModelFacts, lossy: dict[str, ModelFacts]
) -> None:
    # Given SDXL with large linear layers in 8 bits
    layers = large_linears(released.unet, 8).values()
    copies = sum(layer.weight.numel() + 4 * layer.out_features for layer in layers)
    limit = 12
    for counted in lossy.values():
        # When it is counted / Then a byte a weight and a scale a channel lie beside the weights
        assert counted.linears == copies == pytest.approx(1.72 * GIB, rel=0.01)
        assert counted.unet == facts.unet
        # And a plan has room for fewer pictures, as steps take more, too
        plan = plan_memory(limit, counted, asked=16)
        exact = MemoryPlan(facts, plan.measures, limit * GIB, asked=16)
        assert plan.staying == exact.staying + copies
        assert plan.peak_bytes(plan.batch, rank=8) <= limit * GIB
        assert 1 <= plan.batch < exact.batch
    assert 1 < lossy["fp8"].step / facts.step < lossy["int8"].step / facts.step == pytest.approx(1.52, abs=0.01)
    # And the model is exact again
    assert all(type(layer) is nn.Linear for layer in layers)
    assert weight_bytes(released.unet) == facts.unet


@pytest.mark.parametrize("measures", [frozenset(), frozenset({Measure.DECODE_SINGLY})])
def test_no_pass_of_the_decoder_is_larger_than_planned_filled_up_or_not(
    measures: frozenset[Measure], tmp_path: Path, facts: ModelFacts
) -> None:
    # Given a pipeline that is made as a plan wants it, with compiled decoders of three sizes
    components = SDXLComponents.from_diffusers(tiny_pipeline(tmp_path))
    side = PortraitPipeline(components).default_size
    plan = MemoryPlan(replace(facts, size=side), measures, None, asked=4)
    pipeline = PortraitPipeline(
        components,
        decode_at_once=1 if Measure.DECODE_SINGLY in measures else plan.decode_at_once,
        engine=EngineOptions(compile="whole", backend="eager", room=2.0),
    )
    # The UNet is not asked here: compiling it takes longer than everything else.
    pipeline.engine._call_once = lambda shape: None  # type: ignore[method-assign]
    seen: list[int] = []
    decode = components.vae.decode
    components.vae.decode = lambda latents, **options: (seen.append(len(latents)), decode(latents, **options))[1]
    largest, planned = [], []
    for width, height in ((side, side), (2 * side, side), (2 * side, 2 * side)):
        # When each size is warmed, and three pictures are decoded, which is one less than four
        pipeline.engine.warm(width, height, 4)
        latents = torch.zeros(3, 4, height // pipeline.size_step, width // pipeline.size_step)
        with torch.inference_mode():
            at_once = decoded_at_once(pipeline.decode_at_once, side**2, width * height)
            for part in latents.split(at_once):
                pipeline.engine.decoder(part)
        largest.append(max(seen))
        seen.clear()
        planned.append(round(plan.drawing(4, width, height)["decoding"] / (facts.decode * width * height)))
    # Then no pass was larger than the plan has counted, and the compiled ones are as large
    assert largest == planned == ([1, 1, 1] if measures else [4, 2, 1])


def test_the_page_says_what_is_counted(script: ModuleType, facts: ModelFacts, lossy: dict[str, ModelFacts]) -> None:
    # Given the page of the docs / When it is written anew / Then nothing changes
    assert script.page(facts, lossy) == (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("memory_page", ROOT / "scripts" / "memory_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lossy(script: ModuleType, facts: ModelFacts, released: BlankModel) -> dict[str, ModelFacts]:
    """With linear layers in 8 bits, by their number type."""
    found: dict[str, ModelFacts] = script.lossy_facts(facts, released)
    return found
