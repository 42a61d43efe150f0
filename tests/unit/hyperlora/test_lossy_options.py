"""Lossy options as values: what they are called, what is refused, and that both packages say the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hyperlora import PortraitPipeline
from hyperlora.errors import InvalidRequest
from hyperlora.lossy import EXACT, LINEARS, CacheOptions, LossyOptions
from hyperlora.lossy.kinds import KINDS
from jobs.lossy import Lossy


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"linears": "int4"}, "unknown number type 'int4', known: int8, fp8, fp8-emulated"),
        ({"linear": "int8"}, r"wanted a lossy option \(linears, cache\), found 'linear'"),
        ({"cache": {"evry": 2}}, r"wanted an option of cache \(every, first, blocks\), found 'evry'"),
        ({"cache": 2}, "wanted a table such as"),
        ({"cache": {"every": 0}}, "`every` as a whole number from 1 to 16, found 0"),
        ({"cache": {"every": 17}}, "found 17"),
        ({"cache": {"every": 2.0}}, "found 2.0"),
        ({"cache": {"every": True}}, "found True"),
        ({"cache": {"first": float("nan")}}, "`first` as a share of the steps from 0 to 1, found nan"),
        ({"cache": {"first": 1.5}}, "found 1.5"),
        ({"cache": {"blocks": 0}}, "`blocks` as a whole number from 1, found 0"),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        LossyOptions.of(given)
    with pytest.raises(ValidationError):
        Lossy.model_validate(given)


def test_every_name_has_a_kind() -> None:
    assert tuple(KINDS) == LINEARS


@pytest.mark.parametrize(
    "given",
    [
        {"linears": "int8"},
        {"linears": "fp8"},
        {"cache": {}},
        {"cache": {"every": 1}},
        {"linears": "fp8-emulated", "cache": {"every": 3, "first": 0.5, "blocks": 2}},
    ],
)
def test_a_profile_says_what_the_model_takes(given: dict[str, Any]) -> None:
    """Both packages keep names and defaults, since a producer has no torch: they must say the same."""
    told = Lossy.model_validate(given).told()
    assert told == LossyOptions.of(given).told
    assert LossyOptions.of(told).told == told


def test_a_model_with_an_option_is_another_model(pipeline: PortraitPipeline) -> None:
    # Given the base model's name
    exact = pipeline.fingerprint
    asked = [
        LossyOptions("int8"),
        LossyOptions("fp8-emulated"),
        LossyOptions(cache=CacheOptions(2)),
        LossyOptions(cache=CacheOptions(3)),
        LossyOptions(cache=CacheOptions(2, 0.5)),
        LossyOptions("int8", CacheOptions(2)),
    ]
    # When options are on
    found = []
    for options in asked:
        pipeline.use(options)
        found.append(pipeline.fingerprint)
    pipeline.use(None)
    # Then every set of them has a name of its own, 64 hex digits, and none has the exact model's
    assert len({exact, *found}) == len(asked) + 1 and {len(each) for each in found} == {64}
    assert pipeline.fingerprint == exact
    # And what changes nothing is exact by name too
    assert LossyOptions(cache=CacheOptions(every=1)).fingerprint(exact) == EXACT.fingerprint(exact) == exact
