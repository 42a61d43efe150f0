"""What each stage trains, what it leaves as it is to the last bit, and how one passes to the next."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CLIP, TOKENS, TinyPortraits, tiny_config

from hyperlora import HyperLoRA
from hyperlora.components import SDXLComponents
from hyperlora.errors import CheckpointMismatch, FaceEncoderMismatch, TrainingMismatch
from hyperlora.training import train
from hyperlora.training.captions import Captions
from hyperlora.training.draws import Dice
from hyperlora.training.stages import is_trained, settings_of

STAGES = ("base", "id-clip", "id-face", "distill")
BEFORE = {"base": None, "id-clip": "base", "id-face": "id-clip", "distill": "id-face"}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    network = HyperLoRA.from_pretrained(folder)
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def kind(name: str) -> str:
    """The part of the network that a parameter belongs to, as the stages speak of it."""
    if name.startswith("base_"):
        return "base"
    if name.startswith("id_projector") or "attn2" in name or ".proj_in." in name:
        return "face"
    if "attn3" in name or ".proj_in_2." in name:
        return "clip"
    return "shared"


TRAINED = {
    "base": {"base"},
    "id-clip": {"clip", "shared"},
    "id-face": {"face", "shared"},
    "distill": {"face", "shared"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_changes_its_own_parts_and_nothing_else(
    stage: str, components: SDXLComponents, portraits: TinyPortraits, runs: dict[str, Path], tmp_path: Path
) -> None:
    # Given the network after the stage before, and the base model's weights
    init = BEFORE[stage] and str(runs[BEFORE[stage]])
    base_model = {
        f"{place}.{name}": tensor.clone()
        for place, model in enumerate((components.unet, components.vae, *components.text_encoders))
        for name, tensor in model.state_dict().items()
    }

    # When the stage does steps without averaging (the first starts where the stage starts)
    config = tiny_config(stage, tmp_path / "run", init=init, steps=3, ema_decay=None, warm_up=0)
    started: dict[str, torch.Tensor] = {}
    if init is not None:
        started = tensors(Path(init) / "network")
    else:
        first = tiny_config(stage, tmp_path / "first", steps=1, learning_rate=1e-30, warm_up=0, ema_decay=None)
        started = tensors(train(first, components=components, dataset=portraits))
    ended = tensors(train(config, components=components, dataset=portraits))

    # Then what it freezes is bit-equal, and every part that it trains has changed
    changed = {name for name in started if not torch.equal(started[name], ended[name])}
    assert {kind(name) for name in changed} == TRAINED[stage]
    trained = {name for name in started if kind(name) in TRAINED[stage]}
    assert changed <= trained
    # biases of a norm before a softmax's keys and the like may rest; most must not
    assert len(changed) > 0.9 * len(trained)

    # And the base model is untouched
    for place, model in enumerate((components.unet, components.vae, *components.text_encoders)):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, base_model[f"{place}.{name}"]), name


def test_parts_of_a_two_stream_network(runs: dict[str, Path]) -> None:
    network = HyperLoRA.from_pretrained(runs["id-face"] / "network")
    names = [name for name, _ in network.named_parameters()]
    for stage in STAGES:
        trained = {name for name in names if is_trained(name, network, stage)}  # type: ignore[arg-type]
        assert trained == {name for name in names if kind(name) in TRAINED[stage]}, stage


def test_after_the_clip_stage_faces_have_no_say(runs: dict[str, Path]) -> None:
    # Given a network that was trained with CLIP alone
    network = HyperLoRA.from_pretrained(runs["id-clip"] / "network")
    torch.manual_seed(1)
    face, clip = torch.randn(2, 6), torch.randn(2, TOKENS, CLIP)

    # When it reads a face, then that changes nothing
    with torch.no_grad():
        assert torch.equal(network.raw_coefficients(face, clip), network.raw_coefficients(None, clip))
        assert not torch.equal(network.raw_coefficients(face, clip.flip(0)), network.raw_coefficients(None, clip))

    # And after the next stage it does
    after = HyperLoRA.from_pretrained(runs["id-face"] / "network")
    with torch.no_grad():
        assert (after.raw_coefficients(face, clip) - after.raw_coefficients(None, clip)).abs().max() > 1e-6


def test_the_settings_are_those_of_the_method() -> None:
    # Given the defaults, then shares, trigger words, LoRAs and targets are the table's
    default = {"shares": {"reconstruct": 0.9, "foundation": 0.05, "base": 0.05}}
    rows = settings_of(tiny_config("id-face", Path("run"), **default))
    table = [
        (each.name, each.share, each.trigger_words, (each.student.id, each.student.base),
         each.teacher and (each.teacher.id, each.teacher.base))
        for each in rows
    ]  # fmt: skip
    assert table == [
        ("reconstruct", 0.9, True, (1, 1), None),
        ("foundation", 0.05, False, (1, 0), (0, 0)),
        ("base", 0.05, False, (1, 1), (0, 1)),
    ]
    (warm_up,) = settings_of(tiny_config("base", Path("run")))
    assert (warm_up.trigger_words, warm_up.student.id, warm_up.student.base, warm_up.teacher) == (False, 0, 1, None)
    distil = settings_of(tiny_config("distill", Path("run"), **default))[0]
    assert distil.teacher is not None
    assert (distil.student.base, distil.teacher.id, distil.teacher.base) == (0, 1, 0.25)


@pytest.mark.parametrize("stage", ["base", "id-face"])
def test_trigger_words_stand_where_the_setting_says_and_stay_without_a_caption(
    stage: str,
    components: SDXLComponents,
    portraits: TinyPortraits,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a run that drops half of the captions, and an ear at the text encoders
    heard: list[str] = []
    real = Captions.encode
    monkeypatch.setattr(Captions, "encode", lambda self, texts: heard.extend(texts) or real(self, texts))
    drawn: list[Any] = []
    step = Dice.step
    monkeypatch.setattr(Dice, "step", lambda self, number: drawn.append((number, step(self, number))) or drawn[-1][1])

    # When it does three steps of eight
    config = tiny_config(
        stage,
        tmp_path / "run",
        init=BEFORE[stage] and str(runs[BEFORE[stage]]),
        steps=3,
        caption_dropout=0.5,
        batch_size=8,
    )
    train(config, components=components, dataset=portraits)

    # Then each sample was told what its setting says
    draws = [draws for number, draws in sorted(drawn, key=lambda each: each[0]) if number < 3]
    words = "fcsks fxhks fhyks"
    expected = []
    for each in draws:
        for index, dropped, setting in zip(each.indices, each.dropped, each.settings, strict=True):
            caption = "" if dropped else f"picture {index}"
            begin = words if stage != "base" and setting == 0 else ""
            expected.append(f"{begin}, {caption}" if begin and caption else begin or caption)
    assert heard == expected
    assert len(set(heard) & {"", words}) == (1 if stage == "base" else 2)


def test_the_record_says_what_was_trained(runs: dict[str, Path], components: SDXLComponents) -> None:
    records = {stage: json.loads((runs[stage] / "network" / "training.json").read_text()) for stage in STAGES}
    for stage, record in records.items():
        assert (record["stage"], record["step"], record["finished"]) == (stage, 3, True)
        assert record["config"]["caption_dropout"] == 0.1
        assert record["base_model"] == components.fingerprint()
        assert [entry["step"] for entry in record["losses"]] == [1, 2, 3]
        network = HyperLoRA.from_pretrained(runs[stage] / "network")
        assert network.fingerprint == record["fingerprint"]
    assert records["id-face"]["began_with"] == records["id-clip"]["fingerprint"]
    assert records["id-clip"]["samples_seen"] == 12


def test_a_network_without_base_is_trained_as_a_twin(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    # Given sizes without a Base branch, when ID-LoRA is trained
    sizes = {**tiny_config("base", tmp_path).network.model_dump(), "base_rank": None}
    config = tiny_config("id-clip", tmp_path / "twin", network=sizes)
    folder = train(config, components=components, dataset=portraits)

    # Then there is a network without Base
    assert HyperLoRA.from_pretrained(folder).config.branches == ("id",)


def mismatched(portraits: TinyPortraits, **changes: Any) -> TinyPortraits:
    other = copy.copy(portraits)
    other.info = portraits.info.model_copy(update=changes)
    return other


@pytest.mark.parametrize(
    ("stage", "changes", "error", "words"),
    [
        ("id-face", {"face_encoder": "another"}, FaceEncoderMismatch, "another"),
        ("id-face", {"face_encoder": None}, TrainingMismatch, "face embeddings"),
        ("id-face", {"clip_tokens": None}, TrainingMismatch, "--clip-vision"),
        ("id-face", {"clip_tokens": (5, 13)}, TrainingMismatch, "13 wide"),
        ("id-face", {"clip_vision": "other-tower"}, TrainingMismatch, "other-tower"),
        ("id-face", {"latents": (8, 8, 8)}, TrainingMismatch, "8"),
        ("id-face", {"image_size": None}, TrainingMismatch, "image size"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    stage: str,
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
    components: SDXLComponents,
    portraits: TinyPortraits,
    runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = tiny_config(stage, tmp_path / "run", init=str(runs["id-clip"]))
    with pytest.raises(error, match=words):
        train(config, components=components, dataset=mismatched(portraits, **changes))


def test_networks_that_have_no_such_stage_are_refused(
    components: SDXLComponents, portraits: TinyPortraits, runs: dict[str, Path], tmp_path: Path
) -> None:
    sizes = {**tiny_config("base", tmp_path).network.model_dump(), "base_rank": None}
    twin = train(tiny_config("id-clip", tmp_path / "twin", network=sizes, steps=1, warm_up=0), components=components,
                 dataset=portraits)  # fmt: skip
    for stage in ("base", "distill"):
        with pytest.raises(TrainingMismatch, match="Base"):
            train(tiny_config(stage, tmp_path / stage, init=str(twin)), components=components, dataset=portraits)

    # And a checkpoint of another UNet
    other = copy.copy(components)
    unet = copy.deepcopy(components.unet)
    del unet.mid_block.attentions[0].transformer_blocks[0].attn2
    object.__setattr__(other, "unet", unet)
    with pytest.raises(CheckpointMismatch, match="not there"):
        train(tiny_config("id-face", tmp_path / "x", init=str(runs["id-clip"])), components=other, dataset=portraits)
