"""When a limit will be reached, if spend goes on as now."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.forecast import BurnRate, burn_rate, full_after

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def minutes(**cents_by_minute: int) -> list[int]:
    """An hour in 60 buckets, oldest first; `m5` is the minute that began five minutes ago."""
    return [cents_by_minute.get(f"m{60 - number}", 0) for number in range(60)]


def test_rate_is_what_the_newest_sixth_of_the_window_holds() -> None:
    rate = burn_rate(minutes(m1=30, m10=20, m11=1000), HOUR)
    assert (rate.cents, rate.span) == (50, timedelta(minutes=10))
    assert rate.cents_per_hour == 300


def test_amounts_of_any_size_have_a_rate_and_a_forecast() -> None:
    rate = burn_rate(minutes(m1=10**12), HOUR)
    assert rate.cents_per_hour == 6 * 10**12
    assert full_after(minutes(m1=1), HOUR, 10**12, burn_rate(minutes(m1=1), HOUR)) is None


def test_correction_does_not_make_a_rate_negative() -> None:
    assert burn_rate(minutes(m1=-30), HOUR).cents == 0


@pytest.mark.parametrize(
    ("buckets", "limit_cents", "expected"),
    [
        (minutes(), 100, None),  # nothing is spent
        (minutes(m60=50), 100, None),
        (minutes(m1=100), 100, timedelta(0)),  # it is full
        (minutes(m1=10), 40, timedelta(minutes=30)),  # 1 a minute, 30 are missing
        # The 30 of an hour ago leave in the first minute: 1 a minute is then 60 at most.
        (minutes(m60=30, m1=10), 60, timedelta(minutes=50)),
        (minutes(m1=10), 61, timedelta(minutes=51)),
        (minutes(m1=10), 71, None),  # once these ten leave, as much leaves as comes
        # A correction leaves after what it took back: room that was there is gone again.
        (minutes(m50=-90, m30=60), 50, timedelta(minutes=11)),
        (minutes(m50=-90, m30=60, m1=10), 50, timedelta(minutes=11)),
        (minutes(m1=-40), 100, None),
        (minutes(), 0, timedelta(0)),  # a limit of 0 is always reached
    ],
)
def test_forecast_knows_what_leaves_the_window(
    buckets: list[int], limit_cents: int, expected: timedelta | None
) -> None:
    assert full_after(buckets, HOUR, limit_cents, burn_rate(buckets, HOUR)) == expected


@given(
    st.lists(st.integers(-300, 500), min_size=60, max_size=60),
    st.integers(1, 50_000),
    st.integers(0, 600),
)
def test_forecast_agrees_with_a_simulation_of_every_minute(
    buckets: list[int], limit_cents: int, cents_per_minute: int
) -> None:
    rate = BurnRate(cents_per_minute, MINUTE)
    after = full_after(buckets, HOUR, limit_cents, rate)
    held = list(buckets)
    reached = sum(held) >= limit_cents
    minute = 0
    while not reached and minute < 60:
        minute += 1
        # What comes in this minute is there before the oldest bucket has left.
        before, after_it = sum(held[minute - 1 :]), sum(held[minute:])
        # More is left of it after a correction has gone.
        reached = max(before, after_it) + cents_per_minute * minute >= limit_cents
    if not reached:
        assert after is None
    else:
        assert after is not None
        assert max(0, minute - 1) <= after / MINUTE <= minute
