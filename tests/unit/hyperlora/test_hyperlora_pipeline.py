"""The pipeline against diffusers' own, and the promises beyond it: batches, merging, aborts, caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from numpy.typing import NDArray
from PIL import Image
from tiny_sdxl import SIZE, tiny_pipeline

from hyperlora import PRESETS, Drawing, HyperLoRA, LoRA, LoRALayer, PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import (
    InvalidRequest,
    LoRAMismatch,
    NonFinitePicture,
    NonFiniteWeights,
    PromptSyntax,
    UnknownPreset,
    UnknownScheduler,
)

STEPS = 4
SAMPLES = (
    Sample("a cat in a hat", seed=1, guidance=5.0),
    Sample("an old man, watercolour", seed=2, negative_prompt="blurry", guidance=3.0),
    Sample("a cat in a hat", seed=3, negative_prompt="ugly hands", guidance=7.5),
    Sample("", seed=4, guidance=1.5),
)


def pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def distance(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of any pixel, in 1/255."""
    return int(np.abs(pixels(a) - pixels(b)).max())


def draw(pipeline: PortraitPipeline, *samples: Sample, **changes: Any) -> Drawing:
    return pipeline.draw(samples, **{"width": SIZE, "height": SIZE, "steps": STEPS, **changes})


def diffusers_picture(pipe: StableDiffusionXLPipeline, sample: Sample, scheduler: str, **changes: Any) -> Image.Image:
    """One picture by diffusers' own pipeline from the same seed."""
    makers = {
        "euler": EulerDiscreteScheduler.from_config,
        "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    }
    own = pipe.scheduler
    pipe.scheduler = makers[scheduler](own.config)
    try:
        images = pipe(
            sample.prompt,
            negative_prompt=sample.negative_prompt or None,
            guidance_scale=sample.guidance,
            generator=torch.Generator("cpu").manual_seed(sample.seed),
            num_inference_steps=STEPS,
            **{"width": SIZE, "height": SIZE, **changes},
        ).images
    finally:
        pipe.scheduler = own
    picture: Image.Image = images[0]
    return picture


@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "euler"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_one_sample_is_what_diffusers_draws(
    pipeline: PortraitPipeline, sdxl: StableDiffusionXLPipeline, scheduler: str, guidance: float, negative: str
) -> None:
    # Given one sample
    sample = Sample("a man with a green tie", seed=11, negative_prompt=negative, guidance=guidance)
    # When drawn by both, then the pictures are equal within one step of 255
    ours = draw(pipeline, sample, scheduler=scheduler).images[0]
    assert distance(ours, diffusers_picture(sdxl, sample, scheduler)) <= 1
    assert ours.size == (SIZE, SIZE)
    assert pixels(ours).std() > 10  # a picture, not a flat colour


def test_other_sizes_are_what_diffusers_draws(pipeline: PortraitPipeline, sdxl: StableDiffusionXLPipeline) -> None:
    ours = draw(pipeline, SAMPLES[1], width=80, height=48).images[0]
    assert ours.size == (80, 48)
    assert distance(ours, diffusers_picture(sdxl, SAMPLES[1], "dpmpp_2m_karras", width=80, height=48)) <= 1


def test_an_empty_negative_prompt_is_encoded_where_the_model_does_not_force_zeros(tmp_path: Path) -> None:
    # Given a model trained with the empty text instead of zeros
    pipe = tiny_pipeline(tmp_path, force_zeros=False)
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(pipe))
    sample = Sample("a man", seed=5)
    assert distance(draw(pipeline, sample).images[0], diffusers_picture(pipe, sample, "dpmpp_2m_karras")) <= 1


def test_settings_change_the_picture(pipeline: PortraitPipeline) -> None:
    # Given one sample, when anything that it names or that the batch names differs, then so does the picture
    base = Sample("a man", seed=1, negative_prompt="blurry", guidance=5.0)
    drawn = draw(pipeline, base).images[0]
    for other in (
        Sample("a cat", seed=1, negative_prompt="blurry", guidance=5.0),
        Sample("a man", seed=2, negative_prompt="blurry", guidance=5.0),
        Sample("a man", seed=1, negative_prompt="dark", guidance=5.0),
        Sample("a man", seed=1, negative_prompt="blurry", guidance=2.0),
    ):
        assert distance(draw(pipeline, other).images[0], drawn) > 3
    assert distance(draw(pipeline, base, scheduler="euler").images[0], drawn) > 3
    assert distance(draw(pipeline, base, steps=7).images[0], drawn) > 3


@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "euler"])
def test_a_picture_does_not_depend_on_its_batch(pipeline: PortraitPipeline, scheduler: str) -> None:
    # Given four samples that differ in everything a sample may differ in, each drawn alone
    alone = [draw(pipeline, sample, scheduler=scheduler).images[0] for sample in SAMPLES]
    # When drawn in batches of 3 and 4, in several orders
    orders = [(0, 1, 2, 3), (3, 1, 0, 2), *list(permutations(range(4), 3))[::8]]
    for order in orders:
        drawn = draw(pipeline, *(SAMPLES[index] for index in order), scheduler=scheduler).images
        # Then every picture is the one drawn alone
        for index, image in zip(order, drawn, strict=True):
            assert distance(image, alone[index]) <= 1


def test_decoding_in_pieces_changes_nothing(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(pipeline, *SAMPLES).images
    monkeypatch.setattr(pipeline, "decode_at_once", 1)
    assert max(distance(a, b) for a, b in zip(whole, draw(pipeline, *SAMPLES).images, strict=True)) <= 1


def test_seconds_name_the_stages(pipeline: PortraitPipeline) -> None:
    drawing = draw(pipeline, SAMPLES[0])
    assert list(drawing.seconds) == ["encode_prompt", "denoise", "decode"]
    assert all(value > 0 for value in drawing.seconds.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 60}, "multiples of 8, found 60 x 64"),
        ({"height": 0}, "multiples of 8, found 64 x 0"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"samples": ()}, "at least one sample"),
        ({"samples": (Sample("a", 1, guidance=5.0), Sample("b", 2, guidance=1.0))}, r"found both: \[1.0, 5.0\]"),
        ({"samples": (Sample("a", -1),)}, "a seed must be from 0"),
        ({"samples": (Sample("a", 1, guidance=float("nan")),)}, "guidance must be a finite number"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pipeline: PortraitPipeline, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pipeline.draw(**{"samples": SAMPLES, "width": SIZE, "height": SIZE, "steps": STEPS, **changes})


def test_an_unknown_scheduler_lists_the_known(pipeline: PortraitPipeline) -> None:
    with pytest.raises(UnknownScheduler, match="unknown scheduler 'ddim', known: dpmpp_2m_karras, euler"):
        draw(pipeline, SAMPLES[0], scheduler="ddim")


def test_steps_are_reported_and_an_abort_leaves_the_pipeline_usable(pipeline: PortraitPipeline) -> None:
    # Given a picture, and somebody who counts the steps
    seen: list[tuple[int, int]] = []
    whole = draw(pipeline, SAMPLES[0], on_step=lambda done, total: seen.append((done, total))).images[0]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    # When a drawing is aborted in the middle
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        draw(pipeline, SAMPLES[1], on_step=stop)
    # Then the next one is right
    assert distance(draw(pipeline, SAMPLES[0]).images[0], whole) == 0


def test_each_text_is_encoded_once(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given four samples with the texts: cat (twice), man, "" and the negative prompts blurry, ugly hands
    draw(fresh_pipeline, *SAMPLES)
    assert fresh_pipeline.prompts.encoded == 5
    # When another identity is drawn with the same prompts, then nothing is encoded again
    fresh_pipeline.apply([(unet_network.generate(torch.ones(1, 10), torch.ones(1, 4, 24)), 0.8)])
    draw(fresh_pipeline, *SAMPLES)
    assert fresh_pipeline.prompts.encoded == 5


def test_the_prompt_cache_is_bounded_and_drops_the_oldest(fresh_pipeline: PortraitPipeline) -> None:
    encoder = fresh_pipeline.prompts
    encoder._capacity = 2
    for text in ("a", "b", "a", "c", "a", "b"):  # c pushes b out, as a was used since; then b is encoded again
        encoder.encode(text)
    assert encoder.encoded == 4
    assert len(encoder._cache) == 2


@pytest.mark.parametrize(
    ("prompt", "words", "final"),
    [
        ("a man", "fcsks fxhks fhyks", "fcsks fxhks fhyks, a man"),
        ("fcsks fxhks fhyks, a man", "fcsks fxhks fhyks", "fcsks fxhks fhyks, a man"),
        ("photo of Fcsks  fxhks fhyks man", "fcsks fxhks fhyks", "photo of Fcsks  fxhks fhyks man"),
        ("fcsks a man", "fcsks fxhks fhyks", "fcsks fxhks fhyks, fcsks a man"),
        ("cars", "car", "car, cars"),
        ("a man", "", "a man"),
        ("a man", " fcsks, ", "fcsks, a man"),
        ("", "fcsks", "fcsks"),
    ],
)
def test_trigger_words_come_first_unless_they_are_there(
    pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch, prompt: str, words: str, final: str
) -> None:
    monkeypatch.setattr(pipeline, "trigger_words", words)
    assert pipeline.final_prompt(Sample(prompt, seed=1)) == final


def test_trigger_words_reach_the_picture(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    written = draw(pipeline, Sample("fcsks, a man", seed=1)).images[0]
    plain = draw(pipeline, Sample("a man", seed=1)).images[0]
    monkeypatch.setattr(pipeline, "trigger_words", "fcsks")
    assert distance(draw(pipeline, Sample("a man", seed=1)).images[0], written) == 0
    assert distance(plain, written) > 3


@pytest.mark.parametrize("scheduler", ["euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2"])
def test_samplers_of_few_steps_draw_each_picture_alone_too(pipeline: PortraitPipeline, scheduler: str) -> None:
    # Given four samples, each drawn alone, by samplers of which some draw noise in every step
    alone = [draw(pipeline, sample, scheduler=scheduler).images[0] for sample in SAMPLES]
    # When drawn together, in another order, then every picture is the one drawn alone
    for order in ((0, 1, 2, 3), (3, 1, 0)):
        drawn = draw(pipeline, *(SAMPLES[index] for index in order), scheduler=scheduler).images
        assert max(distance(image, alone[index]) for index, image in zip(order, drawn, strict=True)) <= 1
    # And one picture with two seeds is two pictures
    assert distance(draw(pipeline, replace(SAMPLES[0], seed=9), scheduler=scheduler).images[0], alone[0]) > 3


@pytest.mark.parametrize("weighted", [False, True])
def test_a_long_text_is_padded_against_its_own_negative_only(pipeline: PortraitPipeline, weighted: bool) -> None:
    # Given samples of two chunks: a long prompt, a long negative prompt, both (the tokenizer knows letters only)
    samples = [
        Sample("a man " * 20, seed=1, negative_prompt="blurry", weighted=weighted),
        Sample("a man", seed=2, negative_prompt="(ugly)1.3 hands " * 10, weighted=weighted),
        Sample("a cat " * 20, seed=3, weighted=weighted),
    ]
    assert {pipeline.prompt_chunks(sample) for sample in samples} == {2}
    # When drawn together, then every picture is the one drawn alone
    alone = [draw(pipeline, sample).images[0] for sample in samples]
    drawn = draw(pipeline, *reversed(samples)).images
    assert max(distance(a, b) for a, b in zip(alone, reversed(drawn), strict=True)) <= 1
    # And the end of a long prompt counts
    cut = replace(samples[0], prompt="a man " * 19)
    assert distance(draw(pipeline, cut).images[0], alone[0]) > 0
    # And texts of other lengths are not drawn with them
    with pytest.raises(InvalidRequest, match=r"chunks of 77 tokens, found \[1, 2\]"):
        draw(pipeline, samples[0], Sample("a man", seed=1))


def test_chunks_are_those_that_are_drawn_with(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a prompt that the trigger words make too long for one chunk
    monkeypatch.setattr(pipeline, "trigger_words", "fcsks fxhks fhyks")
    assert pipeline.prompt_chunks(Sample("m" * 60, seed=1)) == 2
    assert pipeline.prompt_chunks(Sample("m" * 60, seed=1, trigger_words=False)) == 1
    # And a long negative prompt, which counts only where there is guidance
    negative = "n" * 200
    assert pipeline.prompt_chunks(Sample("m", seed=1, negative_prompt=negative)) == 3
    assert pipeline.prompt_chunks(Sample("m", seed=1, negative_prompt=negative, guidance=1.0)) == 1


def test_a_weighted_text_is_drawn_by_its_weights(pipeline: PortraitPipeline) -> None:
    plain = draw(pipeline, Sample("a red hat", seed=1)).images[0]
    # Given the syntax in a weighted sample, then weights count, and without weights it is the plain text
    assert distance(draw(pipeline, Sample("a red hat", seed=1, weighted=True)).images[0], plain) == 0
    heavy = draw(pipeline, Sample("a (red)1.9 hat", seed=1, weighted=True)).images[0]
    assert distance(heavy, plain) > 0
    # And in a plain sample the brackets are text
    assert distance(heavy, draw(pipeline, Sample("a (red)1.9 hat", seed=1)).images[0]) > 0
    with pytest.raises(PromptSyntax):
        draw(pipeline, Sample("a (red", seed=1, weighted=True))


def test_a_sample_may_decline_the_trigger_words(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "trigger_words", "fcsks")
    assert pipeline.final_prompt(Sample("a man", seed=1, trigger_words=False)) == "a man"
    parts = Sample('("a man", "a cat").blend(0.5, 0.5)', seed=1, weighted=True)
    assert pipeline.final_prompt(parts) == '("fcsks, a man", "fcsks, a cat").blend(0.5, 0.5)'


def person(network: HyperLoRA, seed: int) -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    return network.generate(torch.randn(1, 10, generator=generator), torch.randn(1, 4, 24, generator=generator))


def test_applying_swaps_people_exactly(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given a plain picture and two people
    a, b = person(unet_network, 1), person(unet_network, 2)
    plain = draw(fresh_pipeline, SAMPLES[0]).images[0]
    assert fresh_pipeline.apply([]) == 0.0
    assert fresh_pipeline.apply([(a, 0.8)]) > 0
    first = draw(fresh_pipeline, SAMPLES[0]).images[0]
    # When swapped A-B-A
    fresh_pipeline.apply([(b, 0.8)])
    second = draw(fresh_pipeline, SAMPLES[0]).images[0]
    fresh_pipeline.apply([(a, 0.8)])
    # Then A is A and both differ from each other and from nobody
    assert distance(draw(fresh_pipeline, SAMPLES[0]).images[0], first) == 0
    assert min(distance(first, second), distance(first, plain), distance(second, plain)) > 3
    # And restoring gives the plain picture back
    fresh_pipeline.restore()
    assert distance(draw(fresh_pipeline, SAMPLES[0]).images[0], plain) == 0


def test_applying_the_same_again_merges_nothing(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    a = person(unet_network, 1)
    fresh_pipeline.apply([(a, 0.8)])
    # The same object, an equal one read from bytes: nothing to do.
    assert fresh_pipeline.apply([(a, 0.8)]) == 0.0
    assert fresh_pipeline.apply([(LoRA.from_bytes(a.to_bytes()), 0.8)]) == 0.0
    assert fresh_pipeline.merger.merges == 1
    # Another weight, another person, or one more: a merge.
    for loras in ([(a, 0.7)], [(person(unet_network, 2), 0.7)], [(a, 0.7), (a, 0.1)]):
        assert fresh_pipeline.apply(loras) > 0
    assert fresh_pipeline.merger.merges == 4


def test_a_refused_lora_leaves_the_plain_model(fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA) -> None:
    # Given person A applied
    plain = draw(fresh_pipeline, SAMPLES[0]).images[0]
    a = person(unet_network, 1)
    fresh_pipeline.apply([(a, 0.8)])
    first = draw(fresh_pipeline, SAMPLES[0]).images[0]
    name, layer = next(iter(a.layers.items()))
    broken = LoRA({name: LoRALayer(layer.down * float("nan"), layer.up, layer.alpha)})
    stranger = LoRA({"lora_unet_x_to_q": layer})
    # When broken or strange weights are applied, then they are refused and nobody is left in the model
    for lora, error in ((broken, NonFiniteWeights), (stranger, LoRAMismatch)):
        with pytest.raises(error):
            fresh_pipeline.apply([(lora, 0.8)])
        assert distance(draw(fresh_pipeline, SAMPLES[0]).images[0], plain) == 0
    # And A can come back
    assert fresh_pipeline.apply([(a, 0.8)]) > 0
    assert distance(draw(fresh_pipeline, SAMPLES[0]).images[0], first) == 0


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_diffusers_draws_the_same_from_the_saved_lora(
    fresh_pipeline: PortraitPipeline, unet_network: HyperLoRA, tmp_path: Path, form: Any
) -> None:
    # Given a person's LoRA in a file, strong enough to be seen
    lora = person(unet_network, 1).scaled(4.0)
    (tmp_path / "lora").mkdir()
    lora.save(tmp_path / "lora" / "person.safetensors", format=form)
    plain = draw(fresh_pipeline, SAMPLES[1]).images[0]
    fresh_pipeline.apply([(lora, 0.8)])
    ours = draw(fresh_pipeline, SAMPLES[1]).images[0]
    assert distance(ours, plain) > 20
    # When diffusers attaches that file beside the weights instead of merging it
    (tmp_path / "tokenizer").mkdir()
    pipe = tiny_pipeline(tmp_path / "tokenizer")
    pipe.load_lora_weights(tmp_path / "lora", weight_name="person.safetensors", adapter_name="person")
    pipe.set_adapters(["person"], [0.8])
    # Then it draws the same picture
    assert distance(ours, diffusers_picture(pipe, SAMPLES[1], "dpmpp_2m_karras")) <= 1
    assert len(lora.layers) == len([name for name, _ in pipe.unet.named_modules() if name.endswith("lora_A.person")])


def test_the_convenient_call_pairs_prompts_and_seeds(pipeline: PortraitPipeline) -> None:
    # Given one prompt and three seeds, in batches of two
    images = pipeline("a man", seeds=[1, 2, 3], width=SIZE, height=SIZE, steps=STEPS, batch_size=2)
    one = [draw(pipeline, Sample("a man", seed)).images[0] for seed in (1, 2, 3)]
    assert [distance(a, b) <= 1 for a, b in zip(images, one, strict=True)] == [True] * 3
    # And two prompts with one seed, at the model's own size
    images = pipeline(["a man", "a cat"], seeds=1, steps=STEPS)
    assert [image.size for image in images] == [(SIZE, SIZE)] * 2
    assert distance(images[0], one[0]) <= 1
    for prompts, seeds in ((["a", "b"], [1, 2, 3]), ([], [1]), (["a"], [])):
        with pytest.raises(InvalidRequest, match="are paired"):
            pipeline(prompts, seeds=seeds)


def test_the_convenient_call_sorts_into_batches_and_keeps_the_order(
    pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given prompts of one and of two chunks, mixed
    prompts = ["a man", "a man " * 20, "a cat", "a cat " * 20, "a tie"]
    batches: list[list[str]] = []
    own = pipeline.draw

    def drawn(samples: Sequence[Sample], **setting: Any) -> Drawing:
        batches.append([sample.prompt for sample in samples])
        return own(samples, **setting)

    monkeypatch.setattr(pipeline, "draw", drawn)
    # When drawn by one call
    images = pipeline(prompts, seeds=1, steps=STEPS, batch_size=2)
    # Then texts of equal length were drawn together, and the pictures come in the order of the prompts
    assert batches == [["a man", "a cat"], ["a tie"], [prompts[1], prompts[3]]]
    for prompt, image in zip(prompts, images, strict=True):
        assert distance(image, own([Sample(prompt, 1)], width=SIZE, height=SIZE, steps=STEPS).images[0]) <= 1
    with pytest.raises(InvalidRequest, match="batch_size must be at least 1, found 0"):
        pipeline("a", seeds=1, batch_size=0)


def test_a_preset_decides_what_the_call_leaves_open(
    sdxl_folder: Path, pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a base model that is a few-step model already
    few = PortraitPipeline.from_pretrained(sdxl_folder, preset="lightning-4")
    assert few.preset is PRESETS["lightning-4"]
    assert pipeline.preset is None
    assert few.fingerprint != pipeline.fingerprint
    asked: list[tuple[float, dict[str, Any]]] = []

    def drawn(samples: Sequence[Sample], **setting: Any) -> Drawing:
        asked.append((samples[0].guidance, setting))
        return Drawing([Image.new("RGB", (8, 8))])

    # When called without steps, guidance and scheduler, then they are the preset's; and given ones count
    for each in (few, pipeline):
        monkeypatch.setattr(each, "draw", drawn)
        each("a man", seeds=1)
    few("a man", seeds=1, steps=6, guidance=2.0, scheduler="euler")
    assert [(guidance, s["steps"], s["scheduler"]) for guidance, s in asked] == [
        (0.0, 4, "euler_trailing"),
        (5.0, 20, "dpmpp_2m_karras"),
        (2.0, 6, "euler"),
    ]
    with pytest.raises(UnknownPreset, match="lightning-4"):
        PortraitPipeline.from_pretrained(sdxl_folder, preset="lightning-3")


def test_overflow_is_an_error_not_a_black_picture(fresh_pipeline: PortraitPipeline) -> None:
    with torch.no_grad():
        fresh_pipeline.components.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFinitePicture, match="NaN or infinity"):
        draw(fresh_pipeline, SAMPLES[0])


def test_latent_statistics_are_used_where_the_vae_has_them(tmp_path: Path) -> None:
    # Given a VAE whose latents have a mean and a standard deviation
    pipe = tiny_pipeline(tmp_path)
    pipe.vae.register_to_config(latents_mean=[0.3, -0.2, 0.1, 0.5], latents_std=[0.5, 0.7, 0.9, 1.1])
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(pipe))
    expected = diffusers_picture(pipe, SAMPLES[0], "dpmpp_2m_karras")
    assert distance(draw(pipeline, SAMPLES[0]).images[0], expected) <= 1
