"""Many people's photos at once: to each person what the photos give alone, and a fault harms nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage import data

from hyperlora import people as people_module
from hyperlora.errors import BadPhoto, InvalidRequest, NoUsablePhoto
from hyperlora.faces import FaceAnalyzer
from hyperlora.identity import IdentityConditions, prepare_identity
from hyperlora.people import PersonPhotos, prepare_identities
from hyperlora.side_by_side import ahead, side_by_side


class SizeTokens:
    """Stands in for CLIP: two tokens of three numbers, the picture's mean colour and its size."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls.append(len(images))
        rows = [[np.asarray(each).mean(axis=(0, 1)).tolist(), [each.width, each.height, 0.0]] for each in images]
        return torch.tensor(rows, dtype=torch.float32)


class Unreadable(Exception):
    """What a store says when it cannot be reached."""


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def coins() -> Image.Image:
    return Image.fromarray(data.coins())


def assert_same(found: IdentityConditions | Exception, expected: IdentityConditions) -> None:
    assert isinstance(found, IdentityConditions)
    assert torch.equal(found.face_embeddings, expected.face_embeddings)
    assert torch.equal(found.clip_tokens, expected.clip_tokens)
    assert torch.equal(found.base_tokens, expected.base_tokens)
    assert np.array_equal(found.reference_embedding, expected.reference_embedding)
    assert (found.verdicts, found.used, found.encoder) == (expected.verdicts, expected.used, expected.encoder)


@pytest.mark.parametrize("together, calls", [(32, [8]), (2, [2, 2, 4])])
def test_everybody_gets_what_the_own_photos_give(
    analyzer: FaceAnalyzer,
    astronaut: Image.Image,
    coins: Image.Image,
    together: int,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given two people with usable photos, one of them with a bad one between, and what each is alone
    ada = [astronaut, coins, ImageOps.mirror(astronaut)]
    alan = [Image.fromarray(data.camera()), astronaut]
    alone = [prepare_identity(analyzer, SizeTokens(), photos) for photos in (ada, alan)]

    # When they are prepared with somebody who has no face at all, all in one chunk or two photos at a time
    monkeypatch.setattr(people_module, "MOST_PHOTOS", together)
    clip = SizeTokens()
    first, nobody, second = prepare_identities(analyzer, clip, [ada, [coins], alan])

    # Then both are to the last bit what they are alone, whoever shared their chunks
    assert_same(first, alone[0])
    assert_same(second, alone[1])
    # And the third hears why, in the words of one alone
    assert isinstance(nobody, NoUsablePhoto) and "photo 1: no face found" in str(nobody)
    # And CLIP saw both pictures of each usable photo once, a chunk in a call
    assert clip.calls == calls


def test_a_fault_stays_with_its_person(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given people whose photos are opened when their turn comes: a good one, one whose store is away, one with a torn
    # photo beside a good one, one with nothing but torn ones, and one with a choice too few
    opened: list[str] = []

    def good() -> Image.Image:
        opened.append("good")
        return astronaut

    def away() -> Image.Image:
        raise Unreadable("the store is away")

    def torn() -> Image.Image:
        raise BadPhoto("the picture file is torn")

    people = [[good], [away, good], [torn, good], [torn], PersonPhotos([good, good], ["largest"])]

    # When they are prepared together
    first, second, third, fourth, fifth = prepare_identities(analyzer, SizeTokens(), people)

    # Then who can be used is, and each fault is told to its own person
    assert isinstance(first, IdentityConditions) and first.used == (0,)
    assert isinstance(second, Unreadable)
    assert isinstance(third, IdentityConditions) and third.used == (1,)
    assert [verdict.code for verdict in third.verdicts] == ["bad_photo", None]
    assert isinstance(fourth, NoUsablePhoto) and "torn" in str(fourth)
    assert isinstance(fifth, InvalidRequest) and "found 1 for 2 photos" in str(fifth)
    # And nobody's photos were opened of whom it was known that they could not be used
    assert len(opened) <= 3


def test_what_is_thrown_by_one_persons_choice_is_that_persons(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    wrong = PersonPhotos([astronaut], ["prettiest"])  # type: ignore[list-item]
    fault, found = prepare_identities(analyzer, SizeTokens(), [wrong, [astronaut]])
    assert isinstance(fault, InvalidRequest) and "prettiest" in str(fault)
    assert isinstance(found, IdentityConditions)


def test_only_the_branch_that_is_asked_for_is_shown_to_clip(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given both branches' tokens
    both = prepare_identity(analyzer, SizeTokens(), [astronaut])
    # When only one is wanted
    clip = SizeTokens()
    (face,) = prepare_identities(analyzer, clip, [[astronaut]], branches=("id",))
    (around,) = prepare_identities(analyzer, clip, [[astronaut]], branches=("base",))
    # Then CLIP sees half as much, the tokens are the same, and the others are not made up
    assert clip.calls == [1, 1]
    assert isinstance(face, IdentityConditions) and torch.equal(face.clip_tokens, both.clip_tokens)
    assert isinstance(around, IdentityConditions) and torch.equal(around.base_tokens, both.base_tokens)
    with pytest.raises(InvalidRequest, match="prepared for id only"):
        _ = face.base_tokens


def test_large_photos_are_looked_at_in_smaller_chunks(
    analyzer: FaceAnalyzer, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for the pixels of two photos
    monkeypatch.setattr(people_module, "MOST_PIXELS", 2 * 512 * 512)
    clip = SizeTokens()
    # When five are prepared
    (found,) = prepare_identities(analyzer, clip, [[astronaut] * 5], branches=("id",))
    # Then they are two, two and one
    assert isinstance(found, IdentityConditions) and found.used == (0, 1, 2, 3, 4)
    assert clip.calls == [2, 2, 1]


def test_nothing_is_opened_far_ahead_of_its_turn() -> None:
    # Given work that notes what was begun, on two threads
    begun: list[int] = []
    guard = threading.Lock()

    def note(number: int) -> int:
        with guard:
            begun.append(number)
        return number * number

    # When the results are taken one by one
    results = ahead(note, range(20), threads=2)
    first = next(results)
    # Then no more than two beyond the first were handed out, and all come in their order
    with guard:
        assert set(begun) <= {0, 1, 2}
    assert [first, *results] == [number * number for number in range(20)]


def test_a_fault_beside_others_is_raised() -> None:
    def refuse(number: int) -> int:
        if number == 3:
            raise BadPhoto("the fourth")
        return number

    assert side_by_side(refuse, [0, 1, 2], threads=2) == [0, 1, 2]
    for act in (lambda: side_by_side(refuse, range(5), threads=2), lambda: list(ahead(refuse, range(5), threads=2))):
        run: Callable[[], list[int]] = act
        with pytest.raises(BadPhoto, match="the fourth"):
            run()
