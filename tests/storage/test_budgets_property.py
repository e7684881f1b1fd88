"""The fast query against the definition, on ledgers that nobody would think of."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.periods import PERIODS, Period
from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES, read_budgets
from gateway.storage.database import Connection
from gateway.storage.queries import query
from tests.storage.rows import Row, add_rows, add_workspace

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LONGEST = max(PERIOD_LENGTHS)
BOUNDED = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    # Every example has a workspace of its own in the one database.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

_numbers = itertools.count(1)

# Moments around every window's edge, to the microsecond, and anywhere else, the future too.
edges = st.builds(
    lambda length, off: NOW - length + off * MICROSECOND,
    st.sampled_from(PERIOD_LENGTHS),
    st.integers(-2, 2),
)
anywhere = st.builds(
    lambda seconds: NOW - timedelta(seconds=seconds), st.integers(-60, int(LONGEST.total_seconds()))
)
# Few different moments, so that many rows share one.
crowded = st.integers(0, 3).map(lambda minutes: NOW - timedelta(minutes=minutes))
amounts_cents = st.integers(-150, 200).filter(lambda cents: cents != 0)


def ledgers_at(moments: st.SearchStrategy[datetime]) -> st.SearchStrategy[list[Row]]:
    rows = st.lists(st.tuples(moments, amounts_cents), max_size=20)
    return rows.map(lambda rows: sorted(rows, key=lambda row: row[0]))


ledgers = st.one_of(ledgers_at(st.one_of(edges, anywhere, crowded)), ledgers_at(crowded))
# Limits in percent of what was spent, so that most are reached.
percents_by_name = st.fixed_dictionaries({name: st.integers(0, 110) for name in PERIOD_NAMES})


def spend_at(rows: Sequence[Row], period: Period, moment: datetime) -> int:
    """What the definition says, once more and in Python."""
    return sum(cents for occurred_at, cents in rows if occurred_at > moment - period.length)


def room_at(
    rows: Sequence[Row], period: Period, limit_cents: int, now: datetime = NOW
) -> datetime | None:
    """The earliest moment at which a row leaves and the window no longer stops a call."""
    leaving = sorted({occurred_at + period.length for occurred_at, _ in rows})
    return next(
        (
            moment
            for moment in leaving
            if moment > now and spend_at(rows, period, moment) < limit_cents
        ),
        None,
    )


async def by_definition(connection: Connection, key: str, as_of: datetime) -> dict[str, int]:
    rows = await connection.fetch(
        query("spend_by_definition"), [key], PERIOD_NAMES, PERIOD_LENGTHS, as_of
    )
    return {row["period_name"]: row["spend_cents"] for row in rows}


async def fast(connection: Connection, key: str, as_of: datetime) -> dict[str, int]:
    budget = (await read_budgets(connection, [key], as_of))[key].budget
    return {window.period.name: window.spend_cents for window in budget.windows}


@BOUNDED
@given(rows=ledgers, as_of=st.one_of(st.just(NOW), edges.map(lambda edge: edge + LONGEST)))
async def test_fast_query_equals_the_definition(
    own_connection: Connection, rows: list[Row], as_of: datetime
) -> None:
    key = f"w{next(_numbers)}"
    await add_workspace(own_connection, key)
    await add_rows(own_connection, key, rows)
    expected = {period.name: spend_at(rows, period, as_of) for period in PERIODS}
    assert await by_definition(own_connection, key, as_of) == expected
    assert await fast(own_connection, key, as_of) == expected


@BOUNDED
@given(rows=ledgers, kept=st.integers(0, 3))
async def test_fast_query_equals_the_definition_after_pruning(
    own_connection: Connection, rows: list[Row], kept: int
) -> None:
    key = f"w{next(_numbers)}"
    await add_workspace(own_connection, key)
    old = [(NOW - LONGEST - timedelta(days=days), 100 * days) for days in (3, 2, 1)]
    rows = sorted([*old, *rows], key=lambda row: row[0])
    await add_rows(own_connection, key, rows)
    await own_connection.execute(
        """DELETE FROM workspace_spend_events
           WHERE workspace_id = $1 AND occurred_at <= $2 AND event_number <= 3 - $3::bigint""",
        key,
        NOW - LONGEST,
        kept,
    )
    expected = {period.name: spend_at(rows, period, NOW) for period in PERIODS}
    assert await by_definition(own_connection, key, NOW) == expected
    assert await fast(own_connection, key, NOW) == expected


@BOUNDED
@given(rows=ledgers, percents=percents_by_name)
# A correction at the moment of what it takes back: both leave together.
@example(
    rows=[(NOW - timedelta(minutes=3), 100), (NOW - timedelta(minutes=3), -100), (NOW, 100)],
    percents=dict.fromkeys(PERIOD_NAMES, 100),
)
async def test_room_returns_exactly_when_it_is_told(
    own_connection: Connection, rows: list[Row], percents: dict[str, int]
) -> None:
    key = f"w{next(_numbers)}"
    spend_cents = {period: max(spend_at(rows, period, NOW), 0) for period in PERIODS}
    limits = {period.name: spend_cents[period] * percents[period.name] // 100 for period in PERIODS}
    await add_workspace(own_connection, key, limits)
    await add_rows(own_connection, key, rows)
    for window in (await read_budgets(own_connection, [key], NOW))[key].budget.windows:
        limit_cents = limits[window.period.name]
        assert window.is_exceeded is (spend_at(rows, window.period, NOW) >= limit_cents)
        expected = room_at(rows, window.period, limit_cents) if window.is_exceeded else None
        assert window.retry_at == (expected if limit_cents else None), window
