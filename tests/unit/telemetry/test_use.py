"""How busy a device was, as its worker's row tells."""

from __future__ import annotations

from worker.telemetry.use import WINDOW_SECONDS, DeviceUse


def test_a_shift_that_has_just_begun_tells_no_share_and_later_one_of_the_last_minutes() -> None:
    # Given a shift, whose first sign of life is told before its first batch and stands until the next one
    now = 100.0
    use = DeviceUse(lambda: now)
    use.shift_began("mini")

    # Then it says nothing, rather than that the device stands still
    assert use.share() is None
    now += 1.0
    assert use.share() is None

    # When a batch has been drawn for 9 of 10 seconds, then it says so, also while the batch goes on
    use.batch_began(4)
    now += 9.0
    assert use.share() == 0.9

    # and what is older than the last minutes counts no more
    now += WINDOW_SECONDS
    assert use.share() == 1.0
