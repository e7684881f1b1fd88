"""Budgets, moments of return and history are as if no row had ever been pruned.

Time passes by dating everything back, so that the database's own clock decides. The oracle keeps
every row and follows the definition.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from gateway.core.periods import PERIODS, RETENTION_MIN
from gateway.core.workspaces import Liveness
from gateway.storage import upkeep
from gateway.storage.budgets import read_budgets
from gateway.storage.database import Connection, Connections, DatabaseSettings, connect
from gateway.storage.ledger import Heartbeat, Ledger
from gateway.storage.queries import query
from gateway.storage.registry import Registry, SpendBucket
from gateway.storage.upkeep import prune_ledger
from gateway.storage.workspace_key import WorkspaceKeys
from tests.storage.rows import Row, add_workspace
from tests.storage.test_budgets_property import room_at, spend_at

# What hypothesis tries depends on which modules are imported, even so: 30 examples once pruned 78
# rows, where over 100 are wanted.
BOUNDED = settings(max_examples=50, stateful_step_count=25, deadline=None, derandomize=True)
# As short as it may be; batches of two rows, so that pruning is interrupted everywhere.
RETENTION = RETENTION_MIN + timedelta(days=1)
ROWS_PER_BATCH = 2

# A little, to every window's edge and beyond it, and to the edge of what is kept.
steps = st.sampled_from([period.length for period in PERIODS] + [RETENTION, RETENTION_MIN])
ages = st.one_of(
    st.timedeltas(timedelta(0), timedelta(days=3)),
    st.builds(lambda step, s: step + timedelta(seconds=s), steps, st.integers(-3, 3)),
)

_numbers = itertools.count(1)


@dataclass
class Replica:
    """The parts of a gateway that pruning could disturb, on one database."""

    settings: DatabaseSettings
    connection: Connection
    ledger: Ledger
    registry: Registry


class Pruning(RuleBasedStateMachine):
    """One workspace: heartbeats, corrections, time, and pruning at any moment between."""

    def __init__(self, runner: asyncio.Runner, replica: Replica) -> None:
        super().__init__()
        self.run, self.replica = runner.run, replica
        self.workspace_id = f"w{next(_numbers)}"
        self.rows: dict[int, Row] = {}
        self.reported_cents = 0

    @initialize(limits=st.fixed_dictionaries({each.name: st.integers(1, 900) for each in PERIODS}))
    def register(self, limits: dict[str, int]) -> None:
        self.run(add_workspace(self.replica.connection, self.workspace_id, limits))

    @rule(cents=st.integers(1, 500))
    def beat(self, cents: int) -> None:
        self.run(self._beat(cents))

    @rule(cents=st.integers(-500, -1), is_at_once=st.booleans())
    def correct(self, cents: int, is_at_once: bool) -> None:
        """Take spend back, maybe at the very moment of the row before."""
        self.run(self._correct(cents, is_at_once))

    @rule(age=ages)
    def let_time_pass(self, age: timedelta) -> None:
        self.rows = {number: (at - age, cents) for number, (at, cents) in self.rows.items()}
        self.run(self._date_back(age))

    @rule()
    def prune(self) -> None:
        self.run(self._prune())

    @rule(beats=st.lists(st.integers(1, 500), min_size=1, max_size=5), prunings=st.integers(1, 3))
    def prune_while_heartbeats_arrive(self, beats: list[int], prunings: int) -> None:
        """Several replicas at once."""
        self.run(self._at_once(beats, prunings))

    @invariant()
    def nobody_notices(self) -> None:
        self.run(self._compare())

    async def _beat(self, cents: int) -> None:
        self.reported_cents += cents
        heartbeat = Heartbeat(self.workspace_id, self.reported_cents, "", "epoch", Liveness())
        await self.replica.ledger.record(heartbeat)

    async def _correct(self, cents: int, is_at_once: bool) -> None:
        connection = self.replica.connection
        row = ([self.workspace_id], [cents], [""], [""], [None])
        await connection.execute(query("spend_events_append"), *row, "correction")
        if is_at_once:
            await connection.execute(
                """UPDATE workspace_spend_events AS event SET occurred_at = before.occurred_at
                   FROM workspace_spend_events AS before
                   WHERE event.workspace_id = $1 AND before.workspace_id = $1
                       AND before.event_number = event.event_number - 1
                       AND event.event_number = (
                           SELECT max(event_number) FROM workspace_spend_events
                           WHERE workspace_id = $1)""",
                self.workspace_id,
            )

    async def _date_back(self, age: timedelta) -> None:
        await self.replica.connection.execute(
            """UPDATE workspace_spend_events SET occurred_at = occurred_at - $2::interval
               WHERE workspace_id = $1""",
            self.workspace_id,
            age,
        )

    async def _prune(self) -> None:
        await prune_ledger(self.replica.settings, RETENTION)

    async def _at_once(self, beats: Sequence[int], prunings: int) -> None:
        beating = self._beat_on(beats)
        await asyncio.gather(beating, *[self._prune() for _ in range(prunings)])

    async def _beat_on(self, beats: Sequence[int]) -> None:
        for cents in beats:
            await self._beat(cents)

    async def _compare(self) -> None:
        await self._remember_new_rows()
        rows = [self.rows[number] for number in sorted(self.rows)]
        as_of = await self.replica.connection.fetchval("SELECT clock_timestamp()")
        await self._compare_budget(rows, as_of)
        for period in PERIODS:
            history = await self.replica.registry.history(self.workspace_id, period)
            assert [each.spend_cents for each in history] == history_of(rows, history)
        broken = await self.replica.connection.fetch(query("ledger_breaks"), [self.workspace_id])
        assert broken == []

    async def _remember_new_rows(self) -> None:
        rows = await self.replica.connection.fetch(
            """SELECT event_number, occurred_at, amount_cents FROM workspace_spend_events
               WHERE workspace_id = $1 AND event_number > $2""",
            self.workspace_id,
            max(self.rows, default=0),
        )
        self.rows |= {number: (occurred_at, cents) for number, occurred_at, cents in rows}
        # None was pruned before it was seen, or the oracle would not know it.
        assert sorted(self.rows) == list(range(1, len(self.rows) + 1))

    async def _compare_budget(self, rows: Sequence[Row], as_of: datetime) -> None:
        found = await read_budgets(self.replica.connection, [self.workspace_id], as_of)
        for window in found[self.workspace_id].budget.windows:
            period, limit_cents = window.period, window.limit_cents
            assert limit_cents is not None
            assert window.spend_cents == spend_at(rows, period, as_of)
            expected = room_at(rows, period, limit_cents, as_of) if window.is_exceeded else None
            assert window.retry_at == expected


def history_of(rows: Sequence[Row], history: Sequence[SpendBucket]) -> list[int]:
    """What the rows say of each bucket: it is open at its start and closed at its end."""
    starts = [bucket.starts_at for bucket in history]
    ends = [*starts[1:], None]  # the last one ends now
    return [
        sum(cents for at, cents in rows if start < at and (end is None or at <= end))
        for start, end in zip(starts, ends, strict=True)
    ]


def test_nobody_notices_that_old_rows_were_pruned(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROWS_PER_BATCH", ROWS_PER_BATCH)
    monkeypatch.setattr(upkeep, "PAUSE_S", 0)
    with asyncio.Runner() as runner:
        replica, close = runner.run(open_replica(dsn))
        try:
            run_machine(lambda: Pruning(runner, replica), settings=BOUNDED)
            pruned = runner.run(pruned_count(replica.connection))
        finally:
            runner.run(close())
    # Otherwise the machine has proven nothing.
    assert pruned > 100


async def pruned_count(connection: asyncpg.Connection) -> int:
    """How many rows were pruned in all workspaces."""
    return int(
        await connection.fetchval(
            """SELECT sum(first_number - 1)::bigint FROM (
                   SELECT min(event_number) AS first_number FROM workspace_spend_events
                   GROUP BY workspace_id) AS ledger"""
        )
    )


async def open_replica(dsn: str) -> tuple[Replica, Callable[[], Awaitable[None]]]:
    stack = contextlib.AsyncExitStack()
    settings_, keys = DatabaseSettings(dsn), WorkspaceKeys("text")
    connections = await stack.enter_async_context(Connections(settings_, 2))
    connection = await connect(settings_)
    stack.push_async_callback(connection.close)
    ledger, registry = Ledger(connections, keys, 30), Registry(connections, keys, 30)
    return Replica(settings_, connection, ledger, registry), stack.aclose
