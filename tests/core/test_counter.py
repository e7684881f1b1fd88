"""From a cumulative report to an increment: section 4 of the contract."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.counter import REPORT_CENTS_MAX, Advance, Mark, Outcome, Report, advance, clamp
from tests.core.budgets import AS_OF

EPOCH = "2026-11-01T00:00:00Z"
BOOKED, UNCHANGED, RESET, STALE = Outcome.BOOKED, Outcome.UNCHANGED, Outcome.RESET, Outcome.STALE


@pytest.mark.parametrize(
    ("reported", "clamped"),
    [
        (-(10**30), 0),
        (-1, 0),
        (0, 0),
        (1, 1),
        (REPORT_CENTS_MAX, 10**12),
        (REPORT_CENTS_MAX + 1, 10**12),
    ],
)
def test_report_is_clamped(reported: int, clamped: int) -> None:
    assert clamp(reported) == clamped


@pytest.mark.parametrize(
    ("mark_cents", "reported", "epoch", "outcome", "increment_cents"),
    [
        (None, 0, "", Outcome.NO_REPORT, 0),
        (None, 1234, "", BOOKED, 1234),  # a new stream's first report counts in full
        (None, 1234, EPOCH, BOOKED, 1234),
        (0, 7, "", BOOKED, 7),
        (100, 0, "", Outcome.NO_REPORT, 0),  # absent, never a reset
        (100, 0, EPOCH, Outcome.NO_REPORT, 0),
        (100, 101, "", BOOKED, 1),
        (100, 101, EPOCH, BOOKED, 1),
        (100, 100, "", UNCHANGED, 0),
        (100, 100, EPOCH, UNCHANGED, 0),
        (100, 99, "", RESET, 99),  # the counter started again: the whole new value
        (100, 99, EPOCH, STALE, 0),  # a duplicate, or came late
        (0, REPORT_CENTS_MAX, "", BOOKED, 10**12),
    ],
)
def test_report_books_what_it_adds(
    mark_cents: int | None, reported: int, epoch: str, outcome: Outcome, increment_cents: int
) -> None:
    mark = None if mark_cents is None else Mark(mark_cents)
    accepted = Mark(reported, AS_OF, None)
    keeps_mark = outcome in (Outcome.NO_REPORT, STALE)
    assert advance(mark, Report(reported, AS_OF, None, counter_epoch=epoch)) == Advance(
        outcome, increment_cents, None if keeps_mark else accepted
    )


@pytest.mark.parametrize(
    ("after_s", "uptime", "marked_uptime", "reported", "outcome"),
    [
        # The mark is 100 cents. Same start: the report's start is after_s - uptime + marked uptime
        # seconds from the mark's.
        (0, 570, 600, 90, RESET),  # 30 s from it: another process
        (0, 595, 600, 90, STALE),  # 5 s: just the same
        (0.000001, 595, 600, 90, RESET),  # just another
        (-30, 570, 600, 90, STALE),  # 0 s: received before, committed after
        (-35, 570, 600, 90, STALE),  # -5 s
        (-35.000001, 570, 600, 90, RESET),
        (0, 600, 600, 90, RESET),  # not a smaller uptime: proves nothing
        (1, 601, 600, 90, RESET),  # a correction by the same process
        (30, 5, 600, 90, RESET),  # restarted
        (0, 0, 3, 90, STALE),  # two heartbeats of a young process
        (0, None, 600, 90, RESET),  # without an uptime nothing is proven
        (0, 595, None, 90, RESET),
        (0, 595, 600, 110, BOOKED),  # a higher report counts whatever its age
        (0, 595, 600, 100, UNCHANGED),
    ],
)
def test_lower_report_without_an_epoch_is_a_reset_unless_provably_older(
    after_s: float, uptime: int | None, marked_uptime: int | None, reported: int, outcome: Outcome
) -> None:
    mark = Mark(100, AS_OF, marked_uptime)
    report = Report(reported, AS_OF + timedelta(seconds=after_s), uptime)
    increments = {STALE: 0, UNCHANGED: 0, RESET: reported, BOOKED: reported - 100}
    advanced = advance(mark, report)
    assert (advanced.outcome, advanced.increment_cents) == (outcome, increments[outcome])


def test_age_of_the_mark_is_that_of_the_newest_heartbeat_that_confirmed_it() -> None:
    mark = Mark(100, AS_OF, 600)
    newer = Report(100, AS_OF + timedelta(seconds=30), 630)
    older = Report(100, AS_OF, 595)
    assert advance(mark, newer).mark == Mark(100, newer.received_at, 630)
    assert advance(mark, older).mark is None


def test_mark_of_unknown_age_proves_nothing() -> None:
    # The migration books an opening row that no heartbeat brought.
    assert advance(Mark(100, None, 600), Report(90, AS_OF, 595)).outcome is RESET


def test_heartbeat_older_than_a_reset_is_told_from_a_second_reset() -> None:
    after_reset = advance(Mark(5000, AS_OF, 86_400), Report(10, AS_OF, 30)).mark
    assert after_reset == Mark(10, AS_OF, 30)
    assert advance(after_reset, Report(8, AS_OF, 27)).outcome is STALE


cents = st.integers(0, REPORT_CENTS_MAX)
reports = st.lists(
    st.builds(
        Report,
        spend_cents=cents | st.integers(0, 20),
        received_at=st.integers(0, 100).map(lambda second: AS_OF + timedelta(seconds=second)),
        uptime_seconds=st.none() | st.integers(0, 100),
        counter_epoch=st.just(EPOCH),
    ),
    min_size=1,
)


def booked_cents(stream: list[Report]) -> int:
    """What a stream of reports books in all."""
    total_cents, mark = 0, None
    for report in stream:
        advanced = advance(mark, report)
        assert advanced.increment_cents >= 0
        total_cents += advanced.increment_cents
        mark = advanced.mark or mark
    return total_cents


@given(reports, st.randoms(use_true_random=False))
def test_with_an_epoch_reports_in_any_order_and_number_book_the_highest(
    stream: list[Report], random: object
) -> None:
    repeated = stream + stream[: len(stream) // 2]
    random.shuffle(repeated)
    assert booked_cents(repeated) == max(report.spend_cents for report in stream)


@pytest.mark.parametrize(
    ("spends", "total_cents"),
    [
        ([100, 250, 250, 300], 300),
        ([100, 250, 30, 80], 330),  # one restart: both lives in full
        ([100, 0, 120], 120),  # a heartbeat without a report between
        ([100, 30, 10], 140),  # two restarts
        ([100, 150, 170, 20, 0, 20], 190),
        ([100, 40, 100], 200),  # the same value again, after a restart
    ],
)
def test_without_an_epoch_every_life_of_a_counter_is_booked(
    spends: list[int], total_cents: int
) -> None:
    assert booked_cents([Report(spend, AS_OF, None) for spend in spends]) == total_cents
