"""A pool that is refused is called as people call it."""

from __future__ import annotations

import pytest
from celery.concurrency import get_implementation

from worker.app import _refuse_shared_devices


@pytest.mark.parametrize("name", ["threads", "solo"])
def test_a_refused_pool_is_named_as_it_was_chosen(name: str) -> None:
    # Given what Celery makes of `-P threads`: a class
    pool = get_implementation(name)
    assert isinstance(pool, type)

    # When it is refused, then its plain name is told
    with pytest.raises(SystemExit, match=f"the pool '{name}' is refused") as refused:
        _refuse_shared_devices(options={"pool": pool})
    assert "class" not in str(refused.value)


def test_the_class_of_prefork_is_accepted() -> None:
    options = {"pool": get_implementation("prefork"), "concurrency": 1}
    assert _refuse_shared_devices(options=options) is None
