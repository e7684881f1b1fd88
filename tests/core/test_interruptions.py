"""What several workers saw of an outage becomes one interruption."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.interruptions import GAP_MAX, Interruption, latest_interruption

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
GAP_S = GAP_MAX.total_seconds()


def seen(since_s: float, until_s: float, calls: int) -> Interruption:
    """An interruption, in seconds after noon."""
    since, until = timedelta(seconds=since_s), timedelta(seconds=until_s)
    return Interruption(NOON + since, NOON + until, calls)


@pytest.mark.parametrize(
    ("workers", "latest"),
    [
        ([], None),
        ([seen(0, 9, 2)], seen(0, 9, 2)),
        ([seen(1, 9, 2), seen(0, 8, 3)], seen(0, 9, 5)),  # at the same time
        ([seen(0, 9, 2), seen(3, 4, 5)], seen(0, 9, 7)),  # one within the other
        ([seen(0, 9, 2), seen(9 + GAP_S, 30, 3)], seen(0, 30, 5)),  # no call for a moment
        ([seen(0, 9, 2), seen(9.1 + GAP_S, 30, 3)], seen(9.1 + GAP_S, 30, 3)),  # two outages
        # A worker that no call reached in the outage now still reports the one before.
        ([seen(100, 130, 4), seen(0, 9, 2), seen(101, 120, 1)], seen(100, 130, 5)),
    ],
)
def test_interruptions_at_the_same_time_are_one(
    workers: list[Interruption], latest: Interruption | None
) -> None:
    assert latest_interruption(workers) == latest
