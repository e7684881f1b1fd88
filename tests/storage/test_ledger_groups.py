"""Many heartbeats in one transaction: the same ledger as one by one, and nobody is harmed."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.counter import Outcome
from gateway.core.errors import Conflict, StorageUnavailable, Unauthorized, UnknownWorkspace
from gateway.core.workspaces import Liveness
from gateway.storage.database import Answer, Connections, DatabaseSettings, Operation
from gateway.storage.ledger import Booking, Heartbeat, Ledger
from gateway.storage.workspace_key import WorkspaceKeys
from tests.running import until
from tests.storage.test_ledger import until_waiting_for_a_lock
from tests.storage.wire import open_wire

EPOCH = "2026-11-01T00:00:00Z"
TEXT = WorkspaceKeys("text")


@dataclass
class CountedConnections(Connections):
    """Connections that count the transactions that a ledger began."""

    count: int = 0

    async def run(self, operation: Operation[Answer], timeout_s: float) -> Answer:
        self.count += 1
        return await super().run(operation, timeout_s)


@pytest_asyncio.fixture
async def counted(settings: DatabaseSettings) -> AsyncIterator[CountedConnections]:
    """Connections of one replica."""
    async with CountedConnections(settings, 4) as connections:
        yield connections


@pytest.fixture
def ledger(counted: CountedConnections) -> Ledger:
    """A ledger that waits as long as a busy machine needs."""
    return Ledger(counted, TEXT, timeout_s=20)


async def add_workspaces(connection: asyncpg.Connection, count: int) -> list[str]:
    """Workspaces named w1, w2 and so on."""
    names = [f"w{number}" for number in range(1, count + 1)]
    await connection.execute("INSERT INTO workspaces (id) SELECT unnest($1::text[])", names)
    return names


def beat(workspace_id: str, cents: int = 100, epoch: str = EPOCH, **told: object) -> Heartbeat:
    return Heartbeat(workspace_id, cents, "", epoch, Liveness(**told))  # type: ignore[arg-type]


async def record_all(ledger: Ledger, beats: Sequence[Heartbeat]) -> list[Booking | BaseException]:
    """Record heartbeats that arrive at one moment, in this order."""
    return await asyncio.gather(*[ledger.record(each) for each in beats], return_exceptions=True)


async def booked(connection: asyncpg.Connection) -> dict[str, list[int]]:
    """The amounts in every ledger, each of which must follow from one row to the next."""
    rows = await connection.fetch(
        """SELECT *, occurred_at < lag(occurred_at) OVER ledger AS is_before,
               sum(amount_cents) OVER ledger AS total_cents, row_number() OVER ledger AS number
           FROM workspace_spend_events
           WINDOW ledger AS (PARTITION BY workspace_id ORDER BY event_number)
           ORDER BY workspace_id, event_number"""
    )
    for row in rows:
        assert not row["is_before"]
        assert (row["total_cents"], row["number"]) == (
            row["running_total_cents"],
            row["event_number"],
        )
    by_workspace = itertools.groupby(rows, key=lambda row: row["workspace_id"])
    return {name: [row["amount_cents"] for row in each] for name, each in by_workspace}


def kinds(results: Sequence[object]) -> list[type]:
    return [type(result) for result in results]


# Few workspaces, streams and values, so that they meet. No two uptimes differ by the 5 s that one
# process may be off: it would depend on a millisecond.
UPTIMES = st.sampled_from([None, 900, 901, 902, 1000])
TOLD = st.builds(
    Liveness,
    uptime_seconds=UPTIMES,
    active_tasks=st.sampled_from([None, 0, 1]),
    current_task=st.sampled_from([None, "write", "\"\\, {}'é"]),
    runtime_metadata=st.sampled_from([None, {}, {'"a\\': ["{é}", None, {"b": 'NULL"'}]}]),
)
# Makes its group fail, and is left out when it is written alone.
TOO_LONG = st.builds(Liveness, uptime_seconds=UPTIMES, current_task=st.just("longer than ten"))
HEARTBEATS = st.builds(
    Heartbeat,
    st.sampled_from(["a", "b", "nobody"]),
    st.sampled_from([0, 10, 20, 30]),
    st.sampled_from(["", "pod-2"]),
    st.sampled_from(["", EPOCH]),
    st.one_of(TOLD, TOLD, TOLD, TOO_LONG),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(beats=st.lists(HEARTBEATS, min_size=2, max_size=20), group_max=st.sampled_from([2, 3, 200]))
def test_group_leaves_the_same_as_one_heartbeat_after_the_other(
    dsn: str, beats: list[Heartbeat], group_max: int
) -> None:
    asyncio.run(compare(dsn, beats, group_max))


async def compare(dsn: str, beats: Sequence[Heartbeat], group_max: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE workspaces ALTER current_task TYPE varchar(10)")
    results, stored = [], []
    for is_grouped in (False, True):
        await connection.execute(
            """DELETE FROM workspaces; DELETE FROM workspace_spend_events;
               DELETE FROM workspace_spend_marks;
               INSERT INTO workspaces (id) VALUES ('a'), ('b')"""
        )
        async with Connections(DatabaseSettings(dsn), 2) as connections:
            ledger = Ledger(connections, TEXT, 20, heartbeats_per_group_max=group_max)
            if is_grouped:
                answers = await record_all(ledger, beats)
            else:
                answers = [(await record_all(ledger, [each]))[0] for each in beats]
        await booked(connection)
        results.append([what_became(each) for each in answers])
        stored.append([await connection.fetch(text) for text in WHAT_IS_STORED])
    await connection.close()
    assert results[0] == results[1]
    assert stored[0] == stored[1]


def what_became(answer: Booking | BaseException) -> object:
    is_booking = isinstance(answer, Booking)
    return (answer.outcome, answer.amount_cents) if is_booking else type(answer)


# Everything but the times.
WHAT_IS_STORED = (
    """SELECT workspace_id, event_number, amount_cents, running_total_cents, source, instance_id,
              counter_epoch, reported_cents FROM workspace_spend_events ORDER BY 1, 2""",
    """SELECT workspace_id, instance_id, counter_epoch, mark_cents, uptime_seconds,
              accepted_at IS NULL FROM workspace_spend_marks ORDER BY 1, 2, 3""",
    """SELECT id, monthly_spend, uptime_seconds, active_tasks, current_task, runtime_metadata,
              last_heartbeat_at IS NULL FROM workspaces ORDER BY 1""",
)


@pytest.mark.parametrize(
    ("workspaces", "transactions_max"),
    [
        (1000, 5),  # groups of 200
        (1, 5),  # the same for one workspace, whose heartbeats are booked in their order
    ],
)
async def test_a_thousand_heartbeats_at_once_take_few_transactions(
    ledger: Ledger,
    counted: CountedConnections,
    connection: asyncpg.Connection,
    workspaces: int,
    transactions_max: int,
) -> None:
    names = await add_workspaces(connection, workspaces)
    beats = [beat(names[number % workspaces], number + 1) for number in range(1000)]
    results = await record_all(ledger, beats)
    assert {result.outcome for result in results} == {Outcome.BOOKED}  # type: ignore[union-attr]
    assert counted.count <= transactions_max
    found = await booked(connection)
    assert sum(map(len, found.values())) == 1000
    if workspaces == 1:
        assert found == {"w1": [1] * 1000}


async def test_heartbeats_of_a_stream_are_booked_in_the_order_in_which_they_came(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await add_workspaces(connection, 1)
    # Without an epoch every other order would book something else.
    beats = [beat("w1", cents, epoch="") for cents in (10, 40, 20, 20, 5, 60)]
    await record_all(ledger, beats)
    assert await booked(connection) == {"w1": [10, 30, 20, 5, 55]}


async def test_refused_heartbeats_leave_their_neighbours_alone(
    ledger: Ledger, counted: CountedConnections, connection: asyncpg.Connection
) -> None:
    await add_workspaces(connection, 3)
    await connection.execute("UPDATE workspaces SET status = 'removed' WHERE id = 'w2'")
    await connection.execute(
        "INSERT INTO workspace_tokens (workspace_id, token_sha256) VALUES ('w3', $1)", b"t" * 32
    )
    wrong, right = (replace(beat("w3"), token_sha256=each * 32) for each in (b"x", b"t"))
    beats = [beat("nobody"), beat("w1"), beat("w2"), wrong, beat("w3"), right]
    results = await record_all(ledger, beats)
    assert kinds(results) == [
        *(UnknownWorkspace, Booking, UnknownWorkspace),
        *(Unauthorized, Unauthorized, Booking),
    ]
    assert await booked(connection) == {"w1": [100], "w3": [100]}
    assert counted.count == 1


REFUSE_W2 = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NEW.id = 'w2' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON workspaces FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.mark.parametrize(
    ("change", "bad", "expected"),
    [
        # What the agent tells is too long for the platform's column: its spend counts all the same.
        (
            "ALTER TABLE workspaces ALTER current_task TYPE varchar(10)",
            beat("w2", current_task="longer than ten"),
            Booking,
        ),
        ("SELECT", replace(beat("w2"), instance_id="\0"), Conflict),  # no text of PostgreSQL
        (REFUSE_W2, beat("w2"), StorageUnavailable),
    ],
    ids=["too long", "no text", "trigger"],
)
async def test_only_the_bad_heartbeat_fails(
    ledger: Ledger, connection: asyncpg.Connection, change: str, bad: Heartbeat, expected: type
) -> None:
    await add_workspaces(connection, 50)
    await connection.execute(change)
    beats = [beat(f"w{number}") for number in range(1, 51)]
    beats[1] = bad
    # Its neighbour in the same workspace keeps its place behind it.
    results = await record_all(ledger, [*beats, beat("w1", 130), beat("w3", 120)])
    assert isinstance(results.pop(1), expected)
    assert kinds(results) == [Booking] * 51
    found = await booked(connection)
    assert (found["w1"], found["w3"]) == ([100, 30], [100, 20])
    assert len(found) == 50 - (expected is not Booking)


async def test_bad_heartbeats_are_found_with_few_transactions(
    ledger: Ledger, counted: CountedConnections, connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 200)
    await connection.execute("ALTER TABLE workspaces ALTER current_task TYPE varchar(10)")
    told = {"w2": "longer than ten", "w150": "longer than ten"}
    results = await record_all(ledger, [beat(name, current_task=told.get(name)) for name in names])
    assert kinds(results) == [Booking] * 200
    # The group, its 15 parts, 5 parts of two of these, and so on.
    assert counted.count <= 40


@pytest.mark.parametrize("held_count", [1, 10])  # 10: more than there are connections
async def test_nobody_waits_for_workspaces_that_somebody_holds_but_their_own_heartbeats(
    counted: CountedConnections, connection: asyncpg.Connection, held_count: int
) -> None:
    names = await add_workspaces(connection, 60)
    # Far too long for anybody who waited for those that are held.
    ledger = Ledger(counted, TEXT, timeout_s=60, lock_timeout_s=0.02)
    held_names = names[:: len(names) // held_count]
    async with connection.transaction():
        await connection.execute(
            "SELECT FROM workspaces WHERE id = ANY ($1) FOR UPDATE", held_names
        )
        calls = {name: asyncio.create_task(ledger.record(beat(name))) for name in names}
        held = [calls.pop(name) for name in held_names]
        later = [asyncio.create_task(ledger.record(beat(name, 150))) for name in held_names]
        async with asyncio.timeout(30):
            await asyncio.gather(*calls.values())
            # Nor do those that come later, while what is held is tried again.
            await asyncio.gather(*[ledger.record(beat(name, 150)) for name in calls])
        assert not any(call.done() for call in (*held, *later))
    assert [each.amount_cents for each in await asyncio.gather(*held, *later)] == (
        [100] * held_count + [50] * held_count
    )
    assert set(map(tuple, (await booked(connection)).values())) == {(100, 50)}


@pytest_asyncio.fixture
async def replicas(settings: DatabaseSettings, stack: AsyncExitStack) -> list[Ledger]:
    """Two ledgers that wait for a lock longer than the server takes to find a circle."""
    connections = [await stack.enter_async_context(Connections(settings, 4)) for _ in range(2)]
    limits = {"timeout_s": 30, "lock_timeout_s": 20, "heartbeats_per_group_max": 25}
    return [Ledger(each, TEXT, **limits) for each in connections]


async def test_workspaces_are_locked_in_one_order_whatever_the_order_of_their_heartbeats(
    replicas: list[Ledger], connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 3)
    orders = (names, names[::-1])
    groups = [[beat(name) for name in order] for order in orders]
    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces WHERE id = 'w2' FOR UPDATE")
        calls = [
            asyncio.create_task(record_all(replica, group))
            for replica, group in zip(replicas, groups, strict=True)
        ]
        waiting = "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted"
        await until(lambda: connection.fetchval(waiting))
        # Whoever held it while the other holds w1 would close a circle.
        await connection.execute("SELECT FROM workspaces WHERE id = 'w3' FOR UPDATE NOWAIT")
    assert kinds([each for call in calls for each in await call]) == [Booking] * 6


async def test_two_replicas_with_the_same_workspaces_book_once_and_never_wait_in_a_circle(
    replicas: list[Ledger], connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 40)
    for cents in range(10, 110, 10):
        one, other = ([beat(name, cents) for name in order] for order in (names, names[::-1]))
        results = await asyncio.gather(
            record_all(replicas[0], one * 2), record_all(replicas[1], other * 2)
        )
        amounts = [each.amount_cents for result in results for each in result]  # type: ignore[union-attr]
        assert sum(amounts) == 10 * len(names)
    assert await booked(connection) == {name: [10] * 10 for name in names}
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await connection.fetchval(deadlocks) == 0


async def test_caller_who_leaves_disturbs_nobody_and_is_booked_all_the_same(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 3)
    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces WHERE id = 'w3' FOR UPDATE")
        calls = [asyncio.create_task(ledger.record(beat(name))) for name in names]
        await until_waiting_for_a_lock(connection)
        calls[0].cancel()
        await asyncio.wait({calls[0]})
    await asyncio.gather(*calls[1:])
    assert calls[0].cancelled()
    assert (await ledger.record(beat("w1"))).outcome is Outcome.UNCHANGED


async def test_heartbeat_whose_deadline_passes_while_it_waits_is_refused_and_not_booked(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    await add_workspaces(connection, 2)
    async with Connections(settings, 1) as connections:
        ledger = Ledger(connections, TEXT, timeout_s=0.4)
        async with connection.transaction():
            await connection.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
            results = await record_all(ledger, [beat("w1"), beat("w2")])
        assert kinds(results) == [StorageUnavailable] * 2
        ledger = replace(ledger, timeout_s=20)
        assert kinds(await record_all(ledger, [beat("w2")])) == [Booking]
    # What was given up may be booked, as its caller was told.
    assert (await booked(connection))["w2"] == [100]


async def test_no_more_heartbeats_wait_than_there_is_room_for(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await add_workspaces(connection, 1)
    small = replace(ledger, heartbeats_max=2)
    results = await record_all(small, [beat("w1", cents) for cents in (10, 20, 30)])
    assert kinds(results) == [Booking, Booking, StorageUnavailable]
    assert (await small.record(beat("w1", 30))).amount_cents == 10


async def test_heartbeats_are_booked_behind_a_pooler_too(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 5)
    async with Connections(replace(settings, statement_cache_size=0), 2) as connections:
        results = await record_all(Ledger(connections, TEXT, 20), [beat(name) for name in names])
    assert kinds(results) == [Booking] * 5


async def test_group_whose_connection_ends_is_refused_and_not_written_again(
    ledger: Ledger, counted: CountedConnections, connection: asyncpg.Connection
) -> None:
    names = await add_workspaces(connection, 3)
    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces WHERE id = 'w2' FOR UPDATE")
        calls = asyncio.create_task(record_all(ledger, [beat(name) for name in names]))
        await until_waiting_for_a_lock(connection)
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        assert kinds(await calls) == [StorageUnavailable] * 3
    assert counted.count == 1
    results = await record_all(ledger, [beat(name) for name in names])
    assert kinds(results) == [Booking] * 3
    assert await booked(connection) == {name: [100] for name in names}


async def test_nothing_acknowledged_is_lost_and_nothing_is_booked_twice_when_connections_break(
    dsn: str, connection: asyncpg.Connection, stack: AsyncExitStack
) -> None:
    names = await add_workspaces(connection, 20)
    wire = await stack.enter_async_context(open_wire(dsn))
    far = await stack.enter_async_context(Connections(DatabaseSettings(wire.dsn), 4))
    ledger = Ledger(far, TEXT, timeout_s=20)
    acknowledged, refused = dict.fromkeys(names, 0), 0

    async def report(name: str) -> None:
        nonlocal refused
        for cents in range(1, 41):
            try:
                await ledger.record(beat(name, cents))
                acknowledged[name] = cents
            except StorageUnavailable:
                refused += 1

    reports = asyncio.gather(*[report(name) for name in names])
    for cut_number in range(1, 6):
        # In the middle of a group, wherever it is.
        await until(
            lambda number=cut_number: reports.done() or sum(acknowledged.values()) > 60 * number
        )
        wire.cut()
        wire.mend()
    await reports
    assert refused > 0
    for name, amounts in (await booked(connection)).items():
        assert acknowledged[name] <= sum(amounts) <= 40
    async with Connections(DatabaseSettings(dsn), 2) as near:
        await record_all(Ledger(near, TEXT, timeout_s=20), [beat(name, 40) for name in names])
    assert {name: sum(amounts) for name, amounts in (await booked(connection)).items()} == (
        dict.fromkeys(names, 40)
    )
