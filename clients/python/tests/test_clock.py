"""The clock counts suspensions, and runs forward only."""

from __future__ import annotations

import sys
import time

import pytest

from mayfly_verifier import clock

HOUR = 3600 * 10**9


def test_the_clock_runs_forward() -> None:
    begun = clock.now()
    time.sleep(0.002)
    assert clock.now() - begun >= 2_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this clock")
def test_linux_counts_suspensions() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= clock.now() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_suspension_that_only_the_wall_clock_counts_is_counted_and_steps_back_are_not() -> None:
    monotonic, wall = 5 * HOUR, 100 * HOUR
    now = clock.LongerTime(lambda: monotonic, lambda: wall)
    begun = now()
    monotonic += 1
    wall += 1
    assert now() - begun == 1
    # Suspended for an hour: the monotonic clock stood still.
    wall += HOUR
    assert now() - begun == HOUR + 1
    # Set back by two hours, and time goes on.
    wall -= 2 * HOUR
    monotonic += 1
    assert now() - begun == HOUR + 2
    wall += 1
    monotonic += 1
    assert now() - begun == HOUR + 3
