"""The verifier's clock, in nanoseconds. It also counts the time for which the machine was suspended."""

import functools
import threading
import time
from typing import Callable


class LongerTime:
    """Adds up the longer of two times between two readings: of a monotonic clock, and of the wall clock.

    The monotonic clock may stand still while the machine is suspended; the wall clock does not. A wall clock that is
    set forward ends leases early, and one that is set back changes nothing.
    """

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns, wall: Callable[[], int] = time.time_ns):
        self._clocks = (monotonic, wall)
        self._readings = (monotonic(), wall())
        # An hour, so that no age reaches before the origin.
        self._now = 3_600_000_000_000
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            monotonic, wall = self._clocks[0](), self._clocks[1]()
            self._now += max(monotonic - self._readings[0], wall - self._readings[1], 0)
            self._readings = (monotonic, wall)
            return self._now


def _best_clock() -> Callable[[], int]:
    # `time.monotonic` stands still while Linux is suspended: a lease from before would still hold after.
    if hasattr(time, "CLOCK_BOOTTIME"):
        return functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    return LongerTime()


now: Callable[[], int] = _best_clock()
"""Returns the time in nanoseconds since an arbitrary origin."""
