"""What a duration looks like to the operations that take one."""

import schemathesis
from hypothesis import strategies

# An hour at least, so that what was issued lives until it is asked for, and a year at most, as is the rule.
DURATIONS = strategies.builds(
    "{} {}".format, strategies.integers(1, 365), strategies.sampled_from(["h", "hours", "d", "days"])
)

schemathesis.openapi.format("human-duration", DURATIONS)
