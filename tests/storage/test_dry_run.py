"""Changes that are tried on PostgreSQL: what they tell is exact, and they leave nothing behind."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.budget import read_change
from gateway.core.budget_changes import limits_etag
from gateway.core.dry_run import REPLAYED, DryRun, Replay
from gateway.core.errors import PreconditionFailed, UnknownWorkspace
from gateway.core.periods import PERIODS, Period
from gateway.storage import dry_run
from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES, Budgets, read_budgets
from gateway.storage.database import Connection, Connections, DatabaseSettings
from gateway.storage.dry_run import DryRuns
from gateway.storage.migrations import migrate
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys
from tests.conftest import CreateDatabase
from tests.storage.platform import BLOCKED, PLATFORMS, REMOVED, Platform
from tests.storage.rows import Row, add_even_rows, add_rows, add_workspace

UNTIL = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SINCE = UNTIL - REPLAYED
HOUR, MINUTE, MICROSECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(microseconds=1)

_numbers = itertools.count(1)

# Around the ends of the replayed time, where rows enter or leave there, and anywhere else.
edges = st.builds(
    lambda end, length, off: end - length + off * MICROSECOND,
    st.sampled_from([SINCE, UNTIL]),
    st.sampled_from([timedelta(0), *PERIOD_LENGTHS]),
    st.integers(-2, 2),
)
anywhere = st.builds(
    lambda seconds: UNTIL - timedelta(seconds=seconds),
    st.integers(-60, int(2.2 * REPLAYED.total_seconds())),
)
# Few different moments, each a length after another, so that rows enter as others leave.
crowded = st.builds(
    lambda length, times: SINCE + HOUR + length * times,
    st.sampled_from([MINUTE, *PERIOD_LENGTHS]),
    st.integers(0, 3),
)
amounts_cents = st.integers(-150, 200).filter(lambda cents: cents != 0)
ledgers = st.lists(st.tuples(st.one_of(edges, anywhere, crowded), amounts_cents), max_size=20).map(
    sorted
)
limits_by_name = st.fixed_dictionaries(
    {name: st.one_of(st.sampled_from([0, 1, 100]), st.integers(0, 600)) for name in PERIOD_NAMES}
)

BOUNDED = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    # Every example has a workspace of its own in the one database.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def replay_by_definition(rows: Sequence[Row], length: timedelta, limit_cents: int) -> Replay:
    """The window's sum, as the check has it, between any two moments at which it may change."""
    moments = {moment for at, _ in rows for moment in (at, at + length)}
    inside = [moment for moment in moments if SINCE < moment < UNTIL]
    refused = [
        (begin, end)
        for begin, end in itertools.pairwise(sorted([SINCE, *inside, UNTIL]))
        if sum(cents for at, cents in rows if begin - length < at <= begin) >= limit_cents
    ]
    touching = sum(end == begin for (_, end), (begin, _) in itertools.pairwise(refused))
    duration = sum((end - begin for begin, end in refused), timedelta(0))
    return Replay(len(refused) - touching, duration)


async def replay(connection: Connection, key: str, period: Period, limit_cents: int) -> Replay:
    """What the query tells of the workspace's ledger."""
    row = await connection.fetchrow(
        query("budget_replay"), key, period.length, limit_cents, SINCE, UNTIL
    )
    assert row is not None
    return Replay(row["stretch_count"], row["duration"])


@BOUNDED
@given(rows=ledgers, limits=limits_by_name)
# One row enters at the moment at which another leaves: it stays one stretch.
@example(
    rows=[(UNTIL - 3 * HOUR, 100), (UNTIL - 2 * HOUR, 100)], limits=dict.fromkeys(PERIOD_NAMES, 100)
)
# A correction at the moment of what it takes back: it was never there.
@example(rows=[(UNTIL - HOUR, 100), (UNTIL - HOUR, -100)], limits=dict.fromkeys(PERIOD_NAMES, 1))
async def test_replay_equals_the_definition_on_any_ledger(
    own_connection: Connection, rows: list[Row], limits: dict[str, int]
) -> None:
    key = f"w{next(_numbers)}"
    await add_workspace(own_connection, key)
    await add_rows(own_connection, key, rows)
    for period in PERIODS:
        limit_cents = limits[period.name]
        expected = replay_by_definition(rows, period.length, limit_cents)
        assert await replay(own_connection, key, period, limit_cents) == expected, period


@BOUNDED
@given(rows=ledgers, limits=limits_by_name)
async def test_room_of_limits_that_are_tried_is_that_of_limits_that_are_stored(
    own_connection: Connection, rows: list[Row], limits: dict[str, int]
) -> None:
    key = f"w{next(_numbers)}"
    await add_workspace(own_connection, key, limits)
    await add_rows(own_connection, key, rows)
    budget = (await read_budgets(own_connection, [key], UNTIL))[key].budget
    reached = [window for window in budget.exceeded if window.limit_cents]
    found = await own_connection.fetch(
        query("budget_rooms"),
        key,
        [window.period.name for window in reached],
        [window.period.length for window in reached],
        [window.limit_cents for window in reached],
        UNTIL,
    )
    rooms = {row["period_name"]: row["room_at"] for row in found}
    assert rooms == {window.period.name: window.room_at for window in reached}


@pytest.mark.parametrize(
    ("rows", "limit_cents", "stretch_count", "minutes"),
    [
        ([], 1, 0, 0),
        ([], 0, 1, 30 * 24 * 60),  # 0 blocks everything, all the time
        ([(600, 100)], 100, 1, 60),  # reaching the limit is enough, until the row leaves
        ([(600, 99)], 100, 0, 0),
        ([(600, 60), (570, 40)], 100, 1, 30),  # from the second's coming to the first's leaving
        ([(600, 100), (540, 100)], 100, 1, 120),  # one comes as the other leaves
        ([(600, 100), (539, 100)], 100, 2, 120),  # a minute later
        ([(20, 100)], 100, 1, 20),  # it is not over yet
        ([(30 * 24 * 60 + 10, 100)], 100, 1, 50),  # it began before
        ([(30 * 24 * 60 + 60, 100)], 100, 0, 0),  # it left at the beginning
        ([(600, 100), (580, -50)], 100, 1, 20),  # taken back
        ([(600, -50), (580, 120)], 100, 1, 20),  # the correction leaves, and it is too much
    ],
)
async def test_refused_time_is_counted_in_stretches(
    own_connection: Connection,
    rows: list[tuple[int, int]],
    limit_cents: int,
    stretch_count: int,
    minutes: int,
) -> None:
    await add_workspace(own_connection, "w")
    await add_rows(own_connection, "w", [(UNTIL - ago * MINUTE, cents) for ago, cents in rows])
    found = await replay(own_connection, "w", PERIODS[0], limit_cents)
    assert found == Replay(stretch_count, minutes * MINUTE)


@pytest.fixture
def dry_runs(connections: Connections, keys: WorkspaceKeys) -> DryRuns:
    return DryRuns(connections, keys, timeout_s=10)


async def run(dry_runs: DryRuns, limits: Mapping[str, int | None]) -> DryRun:
    """Try limits on workspace w."""
    return await dry_runs.run("w", read_change({"budget_limits": limits}))


async def test_budget_that_is_told_is_the_one_that_the_change_makes(
    dry_runs: DryRuns, connections: Connections, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 1, "daily": 500})
    now = await connection.fetchval("SELECT now()")
    await add_rows(connection, "w", [(now - 5 * HOUR, 300), (now - 9 * MINUTE, 90)])
    body = read_change(
        {"budget_limits": {"hourly": 50, "daily": None, "monthly": 380, "weekly": 0}}
    )
    tried = await dry_runs.run("w", body)
    changed = await Budgets(connections, keys, timeout_s=10).change("w", body, "alice")
    assert tried.budget.windows == changed.budget.windows
    assert sum(window.retry_at is not None for window in tried.budget.windows) == 2
    assert tried.limits_now == {"hourly": 1, "daily": 500}


async def test_only_limits_that_would_change_are_replayed(
    dry_runs: DryRuns, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5, "daily": 5, "weekly": 5})
    now = await connection.fetchval("SELECT now()")
    await add_rows(connection, "w", [(now - 5 * HOUR, 9)])
    tried = await run(dry_runs, {"hourly": 5, "daily": None, "weekly": 10, "monthly": 9})
    assert tried.replays == {
        "daily": Replay(0, timedelta(0)),  # a limit that goes refuses nothing
        "weekly": Replay(0, timedelta(0)),
        "monthly": Replay(1, tried.budget.as_of - now + 5 * HOUR),
    }


async def test_trying_changes_nothing_and_waits_for_nobody(
    dry_runs: DryRuns, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    before = await connection.fetchrow("SELECT ctid, xmin, xmax, * FROM workspaces")
    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces FOR UPDATE")
        assert (await run(dry_runs, {"hourly": 7})).budget.limits == {"hourly": 7}
    after = await connection.fetchrow("SELECT ctid, xmin, * FROM workspaces")
    assert {**after, "xmax": before["xmax"]} == dict(before)
    assert await connection.fetchval("SELECT count(*) FROM workspace_budget_changes") == 0


async def test_trying_is_refused_as_the_change_would_be(
    dry_runs: DryRuns, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    await connection.execute("INSERT INTO workspaces (id, status) VALUES ('removed', 'removed')")
    change = read_change({"budget_limit": 1})
    with pytest.raises(PreconditionFailed):
        await dry_runs.run("w", change, [limits_etag({})])
    await dry_runs.run("w", change, [limits_etag({"hourly": 5})])
    for workspace_id in ("nobody", "removed"):
        with pytest.raises(UnknownWorkspace):
            await dry_runs.run(workspace_id, change)


async def test_replay_that_takes_too_long_is_left_out_and_the_rest_is_told(
    dry_runs: DryRuns, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_workspace(connection, "w")
    await add_even_rows(connection, "w", 50_000, 86_400)
    monkeypatch.setattr(dry_run, "REPLAY_TIMEOUT_S", 0.001)
    tried = await run(dry_runs, {"hourly": 5, "daily": 5})
    assert tried.replays == {"hourly": None, "daily": None}
    assert tried.budget.exceeded[0].room_at is not None
    # The bound was the transaction's alone.
    assert dry_runs.connections.open_count == 1
    timeout = await dry_runs.connections.run(
        lambda each: each.fetchval("SHOW statement_timeout"), 9
    )
    assert timeout == "0"


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
async def test_changes_are_tried_on_the_platforms_database_too(
    create_database: CreateDatabase, platform: Platform
) -> None:
    settings = DatabaseSettings(await create_database("template0"))
    await platform.create(settings.dsn)
    await migrate(settings)
    async with Connections(settings, 1) as connections:
        dry_runs = DryRuns(connections, await read_workspace_keys(settings), timeout_s=10)
        tried = await dry_runs.run(BLOCKED, read_change({"budget_limit": 5200}))
        (replayed,) = tried.replays.values()
        assert replayed is not None
        assert replayed.stretch_count == 1  # by what was spent before there was a ledger
        with pytest.raises(UnknownWorkspace):
            await dry_runs.run(REMOVED, read_change({"budget_limit": 5200}))
