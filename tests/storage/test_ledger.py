"""Heartbeats into the ledger: the rules of section 4, on PostgreSQL and from two replicas."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from gateway.core.counter import Outcome
from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.core.workspaces import Liveness
from gateway.storage.database import Connections, DatabaseSettings
from gateway.storage.ledger import Heartbeat, Ledger
from gateway.storage.workspace_key import WorkspaceKeys
from tests.storage.rows import add_workspace
from tests.storage.wire import open_wire

EPOCH = "2026-11-01T00:00:00Z"


def heartbeat(
    cents: int, uptime_s: int | None = None, instance: str = "", epoch: str = ""
) -> Heartbeat:
    return Heartbeat("w", cents, instance, epoch, Liveness(uptime_seconds=uptime_s))


@pytest_asyncio.fixture
async def ledgers(settings: DatabaseSettings, keys: WorkspaceKeys) -> AsyncIterator[list[Ledger]]:
    """The ledgers of two replicas."""
    async with Connections(settings, 4) as one, Connections(settings, 4) as other:
        yield [Ledger(connections, keys, timeout_s=10) for connections in (one, other)]


@pytest_asyncio.fixture
async def ledger(ledgers: list[Ledger], connection: asyncpg.Connection) -> Ledger:
    """A ledger with the workspace w."""
    await add_workspace(connection, "w")
    return ledgers[0]


async def amounts(connection: asyncpg.Connection) -> list[int]:
    rows = await connection.fetch(
        "SELECT amount_cents FROM workspace_spend_events ORDER BY workspace_id, event_number"
    )
    return [row["amount_cents"] for row in rows]


@pytest.mark.parametrize(
    ("beats", "booked"),
    [
        ([heartbeat(100)], [100]),  # a stream's first report counts in full
        ([heartbeat(100), heartbeat(140)], [100, 40]),  # cumulative: only what is new
        ([heartbeat(100), heartbeat(100)], [100]),  # nothing new, no row
        ([heartbeat(0)], []),  # no report
        ([heartbeat(100), heartbeat(0), heartbeat(110)], [100, 10]),  # 0 resets nothing
        # With an epoch a lower report came late or twice: it books nothing, ever.
        ([heartbeat(c, epoch=EPOCH) for c in (100, 40, 100, 130)], [100, 30]),
        # A new epoch is a new stream, and so is another instance.
        ([heartbeat(100, epoch=EPOCH), heartbeat(30, epoch="next")], [100, 30]),
        ([heartbeat(100, instance="a"), heartbeat(30, instance="b")], [100, 30]),
        ([heartbeat(100, instance="a"), heartbeat(130, instance="a")], [100, 30]),
        # Without one a lower report is a counter that started again...
        ([heartbeat(100), heartbeat(40)], [100, 40]),
        ([heartbeat(100, 900), heartbeat(40, 10)], [100, 40]),
        # ... unless it is provably older: one process, a smaller uptime.
        ([heartbeat(100, 902), heartbeat(40, 900)], [100]),
        ([heartbeat(100, 902), heartbeat(40, 900), heartbeat(120, 903)], [100, 20]),
        ([heartbeat(100, 900), heartbeat(40, 900)], [100, 40]),  # of one age: not provable
        ([heartbeat(100, 900), heartbeat(40, None)], [100, 40]),  # no uptime: not provable
        ([heartbeat(10**12), heartbeat(1)], [10**12, 1]),  # the largest report there is
    ],
)
async def test_reports_become_increments(
    ledger: Ledger, connection: asyncpg.Connection, beats: list[Heartbeat], booked: list[int]
) -> None:
    answers = [await ledger.record(beat) for beat in beats]
    assert await amounts(connection) == booked
    assert [answer.amount_cents for answer in answers if answer.amount_cents] == booked
    assert answers[-1].budget.budget.windows[0].spend_cents == sum(booked)


async def test_row_tells_what_was_reported_and_by_whom(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.record(heartbeat(100, instance="pod-7f", epoch=EPOCH))
    await ledger.record(heartbeat(140, instance="pod-7f", epoch=EPOCH))
    row = await connection.fetchrow(
        """SELECT event_number, amount_cents, running_total_cents, source, instance_id,
                  counter_epoch, reported_cents
           FROM workspace_spend_events ORDER BY event_number DESC LIMIT 1"""
    )
    assert row is not None
    assert tuple(row) == (2, 40, 140, "heartbeat", "pod-7f", EPOCH, 140)


async def test_legacy_column_keeps_the_last_accepted_report(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    steps = [
        (heartbeat(100, 902), 100),
        (heartbeat(0, 903), 100),  # no report
        (heartbeat(60, 901), 100),  # came late: not accepted
        (heartbeat(30, 5), 30),  # the counter started again
        (heartbeat(30, 6), 30),
    ]
    for beat, expected in steps:
        await ledger.record(beat)
        kept = await connection.fetchval("SELECT monthly_spend FROM workspaces")
        assert kept == expected, beat


async def test_heartbeat_keeps_what_it_tells_and_leaves_the_rest(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    told = Liveness(3600, 2, "write", 0.25, "boom", "busy", {"model": "m"})
    await ledger.record(Heartbeat("w", 0, "", "", told))
    await ledger.record(Heartbeat("w", 0, "", "", Liveness(active_tasks=0)))
    row = await connection.fetchrow(
        """SELECT uptime_seconds, active_tasks, current_task, last_error_rate, last_sample_error,
                  runtime_state, runtime_metadata ->> 'model',
                  last_heartbeat_at > now() - interval '1h'
           FROM workspaces"""
    )
    assert row is not None
    assert tuple(row) == (3600, 0, "write", 0.25, "boom", "busy", "m", True)


async def test_heartbeat_that_came_late_tells_only_that_it_came(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.record(Heartbeat("w", 100, "", EPOCH, Liveness(902, active_tasks=2)))
    await connection.execute("UPDATE workspaces SET last_heartbeat_at = NULL")
    answer = await ledger.record(Heartbeat("w", 40, "", EPOCH, Liveness(900, active_tasks=9)))
    assert answer.outcome is Outcome.STALE
    row = await connection.fetchrow(
        "SELECT uptime_seconds, active_tasks, last_heartbeat_at IS NOT NULL FROM workspaces"
    )
    assert row is not None
    assert tuple(row) == (902, 2, True)


@pytest.mark.parametrize("epoch", ["", EPOCH])
async def test_same_heartbeat_at_two_replicas_at_one_instant_books_once(
    ledger: Ledger, ledgers: list[Ledger], connection: asyncpg.Connection, epoch: str
) -> None:
    for cents in range(10, 110, 10):
        beat = heartbeat(cents, 900, epoch=epoch)
        answers = await asyncio.gather(*[each.record(beat) for each in ledgers * 4])
        assert sorted(answer.amount_cents for answer in answers) == [0] * 7 + [10]
    assert await amounts(connection) == [10] * 10


async def test_times_never_go_back_even_if_the_clock_does(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.record(heartbeat(100))
    ahead = await connection.fetchval(
        """UPDATE workspace_spend_events SET occurred_at = now() + interval '1h'
           RETURNING occurred_at"""
    )
    answer = await ledger.record(heartbeat(130))
    rows = await connection.fetch(
        "SELECT occurred_at FROM workspace_spend_events ORDER BY event_number"
    )
    assert [row[0] for row in rows] == [ahead, ahead]
    assert answer.budget.budget.windows[0].spend_cents == 130


async def test_row_is_dated_by_the_databases_clock(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    before = await connection.fetchval("SELECT clock_timestamp()")
    await ledger.record(heartbeat(100))
    after = await connection.fetchval("SELECT clock_timestamp()")
    occurred_at = await connection.fetchval("SELECT occurred_at FROM workspace_spend_events")
    assert before <= occurred_at <= after


@pytest.mark.parametrize("table", ["workspace_spend_marks", "workspace_spend_events", "workspaces"])
async def test_heartbeat_changes_all_or_nothing(
    ledger: Ledger, connection: asyncpg.Connection, table: str
) -> None:
    await ledger.record(heartbeat(100, 900))
    before = await everything(connection)
    # The table refuses to be written to: whatever was written before it must go too.
    await connection.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    with pytest.raises(StorageUnavailable) as raised:
        await ledger.record(heartbeat(150, 930))
    assert raised.value.cause == "sqlstate_53"
    assert await everything(connection) == before
    await connection.execute(f"DROP TRIGGER refuse ON {table}")
    assert (await ledger.record(heartbeat(150, 930))).amount_cents == 50


async def everything(connection: asyncpg.Connection) -> list[str]:
    return [
        await connection.fetchval(f"SELECT json_agg(each)::text FROM {table} AS each")
        for table in ("workspaces", "workspace_spend_events", "workspace_spend_marks")
    ]


@pytest.mark.parametrize("workspace_id", ["nobody", "removed"])
async def test_heartbeat_of_a_workspace_that_is_not_there_books_nothing(
    ledger: Ledger, connection: asyncpg.Connection, workspace_id: str
) -> None:
    await connection.execute("INSERT INTO workspaces (id, status) VALUES ('removed', 'removed')")
    with pytest.raises(UnknownWorkspace):
        await ledger.record(Heartbeat(workspace_id, 100, "", "", Liveness()))
    assert await amounts(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM workspace_spend_marks") == 0


async def test_heartbeat_whose_caller_gave_up_is_booked_once_all_the_same(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces WHERE id = 'w' FOR UPDATE")
        caller = asyncio.create_task(ledger.record(heartbeat(100)))
        await until_waiting_for_a_lock(connection)
        caller.cancel()
    assert (await ledger.record(heartbeat(100))).outcome in (Outcome.BOOKED, Outcome.UNCHANGED)
    assert await amounts(connection) == [100]


@pytest.mark.parametrize("is_connected", [True, False])  # False: silent from the first byte on
async def test_heartbeat_is_refused_in_time_when_the_server_does_not_answer(
    ledger: Ledger, dsn: str, is_connected: bool
) -> None:
    async with open_wire(dsn) as wire, Connections(DatabaseSettings(wire.dsn), 1) as connections:
        far = replace(ledger, connections=connections, timeout_s=0.1)
        await (replace(far, timeout_s=10) if is_connected else ledger).record(heartbeat(100))
        wire.silence()
        with pytest.raises(StorageUnavailable):  # not the TimeoutError of waiting here
            await asyncio.wait_for(far.record(heartbeat(140)), timeout=2)
    assert (await ledger.record(heartbeat(140))).amount_cents == 40


async def until_waiting_for_a_lock(connection: asyncpg.Connection) -> None:
    is_anybody_waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    async with asyncio.timeout(10):
        while not await connection.fetchval(is_anybody_waiting):
            pass
