"""The few pictures by which a job's page shows what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

SHOWN, LOOKED_AT = 8, 60


def best_of_each(pictures: Sequence[dict[str, Any]], most: int = SHOWN) -> list[dict[str, Any]]:
    """So many of these: each person's best by ID similarity first, then each one's second best, and so on.

    Pictures of unknown similarity come last of their person; people keep their order.
    """
    people: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for picture in pictures:
        people[picture["identity_id"]].append(picture)
    ranked = [sorted(own, key=_from_the_best) for own in people.values()]
    rounds = zip_longest(*ranked)
    return [picture for turn in rounds for picture in turn if picture is not None][:most]


def _from_the_best(picture: dict[str, Any]) -> tuple[bool, float, int]:
    similarity = picture["id_similarity"]
    return (similarity is None, -(similarity or 0.0), picture["ordinal"])
