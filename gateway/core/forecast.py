"""When a limit will be reached, if spend goes on as it does now.

A window rolls: while new spend comes in, old spend leaves. What is known of the past are equal
buckets of it, oldest first; a bucket's spend counts until all of the bucket has left, so that the
forecast is rather too early than too late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

# The rate is what was spent in this part of the window, its newest.
RECENT_PART = 6

# Times are compared as numbers of these: cents times a timedelta may be longer than any timedelta.
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class BurnRate:
    """What was spent in the recent `span`."""

    cents: int
    span: timedelta

    @property
    def cents_per_hour(self) -> int:
        """The same for an hour, rounded."""
        span_us = self.span // _MICROSECOND
        return (self.cents * (timedelta(hours=1) // _MICROSECOND) + span_us // 2) // span_us


def burn_rate(bucket_cents: Sequence[int], length: timedelta) -> BurnRate:
    """How fast money is spent now, by the newest part of a window of this length."""
    count = max(1, len(bucket_cents) // RECENT_PART)
    # A correction takes back what was spent before; nothing is un-spent at a rate.
    return BurnRate(max(0, sum(bucket_cents[-count:])), length / len(bucket_cents) * count)


def full_after(
    bucket_cents: Sequence[int], length: timedelta, limit_cents: int, rate: BurnRate
) -> timedelta | None:
    """How long until the window holds the limit at this rate; None if it never will."""
    step_us, span_us = length // _MICROSECOND // len(bucket_cents), rate.span // _MICROSECOND
    missing_cents = limit_cents - sum(bucket_cents)
    for number, leaving_cents in enumerate(bucket_cents):
        begins_us, ends_us = step_us * number, step_us * (number + 1)
        # At once, after a bucket has left that was a correction: then more is inside than before.
        if missing_cents * span_us <= rate.cents * begins_us:
            return timedelta(microseconds=begins_us)
        if missing_cents * span_us <= rate.cents * ends_us:
            return timedelta(microseconds=missing_cents * span_us // rate.cents)
        missing_cents += leaving_cents
    # All that was there has left: from now on as much leaves as comes.
    return length if limit_cents * span_us <= rate.cents * step_us * len(bucket_cents) else None
