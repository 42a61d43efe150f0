"""The mini world's own training: drawings in pieces, an encoder of components, one loop that resumes, what is said."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hyperlora.errors import InvalidRequest
from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn import codec
from hyperlora.mini.learn import fit as fit_module
from hyperlora.mini.learn.drawings import Drawings, DrawingSet, draw_set
from hyperlora.mini.learn.fit import Plan, fit
from hyperlora.mini.learn.foundation import new_foundation
from hyperlora.mini.learn.pieces import each_piece
from hyperlora.mini.learn.sizes import SIZES, TINY
from hyperlora.mini.learn.vae import encode_all, new_vae, small_pixels
from hyperlora.mini.learn.words import TokenIds, new_tokenizer, spoken
from hyperlora.mini.people import person
from hyperlora.mini.vocabulary import TRIGGER_WORDS

SET = DrawingSet("few", 10, 6, 2, size=64)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawings:
    return Drawings.load(draw_set(SET, tmp_path_factory.mktemp("drawings"), 1))


def test_a_set_says_what_it_shows(drawn: Drawings) -> None:
    # Then each person is there as often as asked for, with labels, captions and landmarks that belong together
    assert sorted(drawn.persons.tolist()) == sorted([*range(10, 16)] * 2)
    assert drawn.pixels.shape == (12, 64, 64, 3) and drawn.labels.shape == (12, len(VOCABULARY))
    for row in range(len(drawn)):
        clothing = VOCABULARY["clothing"][drawn.labels[row, 0]]
        assert clothing in drawn.captions[row] and person(int(drawn.persons[row])).subject in drawn.captions[row]
        assert 0.1 < drawn.landmarks[row].mean() < 0.9
        assert [int(drawn.persons[other]) for other in drawn.others[row]] == [int(drawn.persons[row])]
    # and two portraits of one person are not the same
    assert not np.array_equal(drawn.pixels[0], drawn.pixels[6])


def test_pieces_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    # Given a drawn set
    small = dataclasses.replace(SET, people=2, each=1)
    place = draw_set(small, tmp_path, 1)
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    # When it is asked for again, then nothing is written; another set of the same name is refused
    draw_set(small, tmp_path, 1)
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before
    with pytest.raises(FileExistsError, match="another set"):
        draw_set(dataclasses.replace(small, first=11), tmp_path, 1)


def test_nobody_is_drawn_across_two_splits() -> None:
    with pytest.raises(ValueError, match="no one split"):
        DrawingSet("torn", 999_999, 2, 1)
    with pytest.raises(ValueError, match="no one split"):
        DrawingSet("spare", 4_000_000, 2, 1)


def test_the_encoder_is_the_components_of_patches(drawn: Drawings) -> None:
    # Given the tiny autoencoder, whose encoder was written and not learned
    pixels = small_pixels(drawn, 64)
    vae = new_vae(TINY, pixels)
    # When pictures are encoded
    latents = encode_all(vae, pixels, "cpu")
    # Then the latents are the patches' components, place by place, to a part in a hundred of their spread
    middle, components = codec._components(pixels, 24)
    images = pixels.movedim(-1, 1).float() / 127.5 - 1
    patches = nn.functional.unfold(images, codec.PATCH, stride=codec.PATCH).movedim(1, 2)
    wanted = ((patches - middle) @ components).movedim(2, 1).reshape(latents.shape)
    assert (latents - wanted).abs().mean() < 0.02 * wanted.std()
    # and they say enough to draw the pictures again
    back = latents.flatten(2).movedim(1, 2) @ torch.linalg.pinv(components) + middle
    assert (back - patches).square().mean() < 0.05 * patches.var()
    assert not any(parameter.requires_grad for parameter in vae.encoder.parameters())


def test_an_autoencoder_without_room_for_the_components_is_refused(drawn: Drawings) -> None:
    narrow = dataclasses.replace(TINY, vae={**TINY.vae, "block_out_channels": (8, 48, 96, 128)})
    with pytest.raises(InvalidRequest, match="at least"):
        new_vae(narrow, small_pixels(drawn, 64))


def _line(step: int, chance: torch.Generator, model: nn.Linear) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 2, generator=chance)
    return {"line": (model(x) - x.sum(dim=1, keepdim=True)).square().mean()}


def _model() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
    # The layer behind the one that is read, as in SDXL's first text encoder: no gradient ever reaches it.
    model.register_parameter("idle", nn.Parameter(torch.ones(3)))
    return model


def test_a_training_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one training in a piece, and one whose time is up after a few steps; a second passes with every look
    plan = Plan(steps=12, batch=8, rate=0.1, warm_up=3)
    whole = _model()
    first = fit(whole, lambda s, c: _line(s, c, whole), plan, tmp_path / "whole.safetensors", tell=lambda _: None)
    seconds = itertools.count()
    monkeypatch.setattr(fit_module.time, "monotonic", lambda: float(next(seconds)))
    stood = [0]
    # When the second is taken up again, with fresh weights each time, until it is finished
    while stood[-1] < plan.steps:
        torn = _model()
        outcome = fit(
            torn,
            lambda s, c, torn=torn: _line(s, c, torn),  # type: ignore[misc]
            plan,
            tmp_path / "torn.safetensors",
            max_seconds=8,
            tell=lambda _: None,
        )
        assert outcome.steps > stood[-1]
        stood.append(outcome.steps)
    # Then both end with the same weights
    assert first.finished and outcome.finished and len(stood) > 3
    assert torch.equal(whole.weight, torn.weight) and torch.equal(whole.bias, torn.bias)


def test_the_state_of_another_plan_is_refused(tmp_path: Path) -> None:
    model = _model()
    fit(model, lambda s, c: _line(s, c, model), Plan(2, 8, 0.1), tmp_path / "a.safetensors", tell=lambda _: None)
    with pytest.raises(FileExistsError, match="another plan"):
        fit(model, lambda s, c: _line(s, c, model), Plan(3, 8, 0.1), tmp_path / "a.safetensors", tell=lambda _: None)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    model = _model()
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(
            model,
            lambda *_: {"nan": model.weight.sum() * torch.nan},
            Plan(2, 8, 0.1),
            tmp_path / "a.safetensors",
            tell=lambda _: None,
        )


def test_what_is_said_leaves_out_parts_but_invents_nothing(drawn: Drawings) -> None:
    # Given many sayings of one caption
    chance = torch.Generator().manual_seed(1)
    caption, seed = drawn.captions[0], int(drawn.persons[0])
    said = [spoken(caption, seed, chance) for _ in range(400)]
    # Then some are empty, some begin with the trigger words, and some do not say who it is
    assert 20 < said.count("") < 70
    assert 40 < sum(text.startswith(TRIGGER_WORDS) for text in said) < 110
    assert 120 < sum(text != "" and person(seed).subject not in text for text in said) < 240
    # and each part is the caption's own, or a person without looks
    known = {*caption.split(", "), TRIGGER_WORDS, "portrait photo of a person"}
    known.add(f"portrait photo of a {person(seed).presentation}")
    assert {part for text in said if text for part in text.split(", ")} <= known


def test_the_foundation_reads_text_as_the_pipeline_does(tmp_path: Path) -> None:
    # Given a fresh foundation
    tokenizer = new_tokenizer(tmp_path)
    foundation = new_foundation(TINY, tokenizer).eval()
    ids = TokenIds(tokenizer).of(["", "portrait photo of a woman", "portrait photo of a man"])
    noisy = torch.randn(1, *TINY.latents, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    # When it predicts for no text and for two texts
    with torch.no_grad():
        predicted = foundation(noisy, torch.tensor([500, 500, 500]), ids)
        nothing = foundation.unet(
            noisy[:1],
            torch.tensor([500]),
            encoder_hidden_states=torch.zeros(1, 77, 128),
            added_cond_kwargs={
                "text_embeds": torch.zeros(1, 64),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
        ).sample
    # Then no text is zeros, as `force_zeros_for_empty_prompt` has it, and words make a difference
    torch.testing.assert_close(predicted[:1], nothing)
    assert not torch.allclose(predicted[1], predicted[2], atol=1e-6)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_networks_fit_the_packs_budget(name: str, tmp_path: Path) -> None:
    # Given the networks of a configuration, in half precision
    from diffusers import AutoencoderKL

    from hyperlora.config import HyperLoRAConfig
    from hyperlora.network import HyperLoRA

    sizes = SIZES[name]
    foundation = new_foundation(sizes, new_tokenizer(tmp_path))
    with torch.device("meta"):
        vae = AutoencoderKL(**sizes.vae)
        network = HyperLoRA(
            HyperLoRAConfig.from_unet(
                foundation.unet.config, base_rank=4, face_width=512, clip_width=sizes.vision_width, **sizes.hyperlora
            )
        )
    # Then no file has more than 15 MB, and all together leave 5 of the 40 MB to vision tower and ONNX files
    parts = (foundation.unet, vae, foundation.first, foundation.second, network)
    sizes_mb = [sum(2 * parameter.numel() for parameter in part.parameters()) / 1e6 for part in parts]
    assert max(sizes_mb) < 15 and sum(sizes_mb) < 35


def _blurred(task: tuple[Path, int]) -> None:
    place, number = task
    import cv2

    pixels = cv2.GaussianBlur(np.full((400, 400), number, np.uint8), (0, 0), 3)
    (place / f"{number}.txt").write_text(f"{os.getpid()} {int(pixels.mean())}")


def test_pieces_are_done_by_processes_that_do_not_wait_for_lost_threads(tmp_path: Path) -> None:
    # Given a process in which OpenCV's and torch's threads are at work
    _blurred((tmp_path, 9))
    torch.ones(600, 600) @ torch.ones(600, 600)
    # When pieces are done by two others, then all are done, each right
    each_piece(_blurred, [(tmp_path, number) for number in range(4)], 2)
    told = [(tmp_path / f"{number}.txt").read_text().split() for number in range(4)]
    assert [int(value) for _, value in told] == [0, 1, 2, 3]
    assert str(os.getpid()) not in {pid for pid, _ in told}
    # and one process is this one
    each_piece(_blurred, [(tmp_path, 5)], 1)
    assert (tmp_path / "5.txt").read_text().split()[0] == str(os.getpid())
