"""The renderer's way from photos to weight sets, several orders at once, with the trained pack of a checkout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora import concept_slider, mix
from hyperlora.clip import ClipVision
from hyperlora.errors import CheckpointMismatch, NoUsablePhoto
from hyperlora.faces import load_analyzer
from hyperlora.identity import prepare_identity
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from jobs.errors import PhotoRefused
from jobs.settings import Settings
from worker.generation import Generation
from worker.renderer import GeneratedWeights, Order, Person

ROOT = Path(__file__).resolve().parents[3]
PACK, PHOTOS = ROOT / "packs" / "mini-tiny", ROOT / "examples" / "photos"
pytestmark = pytest.mark.skipif(not PACK.is_dir(), reason="the trained pack lies in a checkout only")
TOLERANCE = 1e-5
"""Of a LoRA's deltas, which are about 0.01: products over several people are summed in another order."""


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return Generation(
        HyperLoRA.from_pretrained(PACK / "hyperlora"),
        ClipVision.from_pretrained(PACK / "clip_vision"),
        load_analyzer(f"insightface:{PACK / 'mini_faces'}", providers=["cpu"]),
        Settings(home=tmp_path_factory.mktemp("home")),
    )


def of(*names: str, weight: float = 1.0) -> Person:
    photos = [(PHOTOS / f"{name}.jpg").read_bytes() for name in names]
    return Person(photos, list(names), [None] * len(names), weight)


def without_face() -> Person:
    file = io.BytesIO()
    Image.new("RGB", (200, 200), "grey").save(file, "JPEG")
    return Person([file.getvalue()], ["wall"], [None])


def torn() -> Person:
    return Person([b"\xff\xd8\xff"], ["torn"], [None])


def assert_same(found: GeneratedWeights | Exception, alone: GeneratedWeights | Exception) -> None:
    assert isinstance(found, GeneratedWeights) and isinstance(alone, GeneratedWeights)
    one, other = (np.frombuffer(each.reference_embedding, dtype="<f4") for each in (found, alone))
    np.testing.assert_allclose(one, other, atol=TOLERANCE)
    assert found.verdicts == alone.verdicts
    ours, theirs = LoRA.from_bytes(found.lora), LoRA.from_bytes(alone.lora)
    assert ours.layers.keys() == theirs.layers.keys() and ours.metadata == theirs.metadata
    for name, layer in ours.layers.items():
        torch.testing.assert_close(layer.delta(), theirs.layers[name].delta(), atol=TOLERANCE, rtol=1e-3)


def test_orders_made_together_are_those_made_alone(generation: Generation) -> None:
    # Given every kind of order, and between them one without a face and one whose photo is torn
    ada, alan = of("ada-1", "ada-2"), of("alan-1")
    orders = [
        Order("photos", [ada]),
        Order("photos", [without_face()]),
        Order("mix", [of("ada-1", "ada-2", weight=0.6), of("alan-1", weight=0.4)]),
        Order("photos", [torn()]),
        Order("slider", [alan, ada]),
        Order("photos", [ada], branch="base"),
        Order("mix", [ada, without_face()]),
        Order("photos", [alan]),
    ]
    # When all are made together, and each alone
    together = generation.many(orders)
    alone = [generation.many([order])[0] for order in orders]
    # Then five are what they are alone
    for place in (0, 2, 4, 5, 7):
        assert_same(together[place], alone[place])
    # And the others have their own faults, as they have alone
    for place, kind in ((1, NoUsablePhoto), (3, PhotoRefused), (6, NoUsablePhoto)):
        assert type(together[place]) is type(alone[place]) is kind
        assert str(together[place]) == str(alone[place])


def test_a_mix_and_a_slider_are_what_the_description_says(generation: Generation) -> None:
    # Given two people's coefficients, each from the own photos
    network, coefficients = generation._network, []
    for names in (("ada-1", "ada-2"), ("alan-1",)):
        photos = [Image.open(PHOTOS / f"{name}.jpg") for name in names]
        found = prepare_identity(generation._analyzer, generation._clip, photos)
        coefficients.append(network.coefficients(found.face_embeddings, found.clip_tokens))
    ada, alan = coefficients
    # When a mix and a slider of them are ordered
    one, other = of("ada-1", "ada-2", weight=0.6), of("alan-1", weight=0.4)
    mixed, slider = generation.many([Order("mix", [one, other]), Order("slider", [one, other])])
    # Then the mix is that of the coefficients on the unit sphere, and the slider edited minus original
    expected = (network.lora(mix([(ada, 0.6), (alan, 0.4)])), concept_slider(network.lora(ada), network.lora(alan)))
    for made, wanted in zip((mixed, slider), expected, strict=True):
        assert isinstance(made, GeneratedWeights)
        for name, layer in LoRA.from_bytes(made.lora).layers.items():
            torch.testing.assert_close(layer.delta(), wanted.layers[name].delta(), atol=TOLERANCE, rtol=1e-3)


def test_what_is_kept_in_memory_is_what_was_stored(generation: Generation) -> None:
    # Given two people's weights
    for made in generation.many([Order("photos", [of("ada-1")]), Order("slider", [of("alan-1"), of("ada-1")])]):
        assert isinstance(made, GeneratedWeights) and isinstance(made.loaded, LoRA)
        # When they are read from their bytes, as another worker does
        stored = LoRA.from_bytes(made.lora)
        # Then every number is the same
        assert made.loaded.equals(stored) and made.loaded.metadata == stored.metadata


def test_a_branch_that_is_not_there_is_the_orders_own_fault(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a checkpoint without a Base branch
    def no_base(branch: str) -> int:
        if branch == "base":
            raise CheckpointMismatch("no Base branch")
        return 8

    class Without:
        def __getattr__(self, name: str) -> Any:
            return getattr(config, name)

        rank_of = staticmethod(no_base)

    config = generation._network.config
    monkeypatch.setattr(generation._network, "config", Without())
    # When both branches are ordered
    base, face = generation.many([Order("photos", [of("ada-1")], branch="base"), Order("photos", [of("ada-1")])])
    # Then one is refused, before its photos are looked at, and the other is made
    assert isinstance(base, CheckpointMismatch)
    assert isinstance(face, GeneratedWeights)
