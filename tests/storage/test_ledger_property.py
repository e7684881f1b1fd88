"""The ledger under everything that a network and a restart do to heartbeats, against an oracle.

Heartbeats of two workspaces arrive alone and in groups. With an epoch the ledger is exact: it holds
the sum over all streams of the highest report that arrived, in whatever order, however often and
wherever. Without one it follows the rule.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from gateway.core import counter
from gateway.core.errors import StorageUnavailable
from gateway.core.workspaces import Liveness
from gateway.storage.database import Connections, DatabaseSettings
from gateway.storage.ledger import Heartbeat, Ledger
from gateway.storage.workspace_key import WorkspaceKeys
from tests.storage.rows import add_workspace

BOUNDED = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)

CONNECTIONS_PER_REPLICA = 3

WORKSPACES = 2
AGENTS = st.integers(0, 2 * WORKSPACES - 1)

_numbers = itertools.count(1)


@dataclass
class Oracle:
    """What must have been booked, by the contract's words and nothing else."""

    booked_cents: int = 0
    highest: dict[tuple[str, str], int] = field(default_factory=dict)
    last: dict[str, tuple[int, int]] = field(default_factory=dict)

    def receive(self, beat: Heartbeat) -> None:
        cents, stream = beat.spend_cents, (beat.instance_id, beat.counter_epoch)
        if beat.counter_epoch:
            highest = self.highest.get(stream, 0)
            self.highest[stream] = max(highest, cents)
            self.booked_cents += max(cents - highest, 0)
            return
        if cents == 0:
            return
        uptime_s = beat.liveness.uptime_seconds or 0
        mark, last_uptime_s = self.last.get(beat.instance_id, (0, 0))
        is_older = is_one_process(uptime_s, last_uptime_s) and uptime_s < last_uptime_s
        if cents <= mark and is_older:
            return
        self.booked_cents += cents - mark if cents >= mark else cents
        self.last[beat.instance_id] = (cents, uptime_s)


# Processes of one agent are told apart by their start. The rule allows one process 5 s between
# the starts that its heartbeats tell; a machine that stands still for longer must not decide here.
PROCESS_APART_S, BEATS_PER_PROCESS_MAX = 1000, 3
SAME_START_WITHIN = timedelta(seconds=PROCESS_APART_S / 2)


def is_one_process(uptime_s: int, other_s: int) -> bool:
    return uptime_s // PROCESS_APART_S == other_s // PROCESS_APART_S


@dataclass
class AgentCounter:
    """One instance of an agent: a process that counts from 0, and others after it."""

    workspace_id: str
    instance_id: str
    has_epoch: bool
    process: int = 50
    beats: int = 0
    cents: int = 0

    def restart(self) -> None:
        # The younger process was up for a shorter time.
        self.process, self.beats, self.cents = self.process - 1, 0, 0

    def report(self, spent_cents: int) -> Heartbeat:
        if self.beats == BEATS_PER_PROCESS_MAX:
            self.restart()
        self.beats, self.cents = self.beats + 1, self.cents + spent_cents
        if self.has_epoch:  # and nothing else that could tell a late heartbeat
            epoch = f"process {self.process}"
            return Heartbeat(self.workspace_id, self.cents, self.instance_id, epoch, Liveness())
        uptime = Liveness(self.process * PROCESS_APART_S + self.beats)
        return Heartbeat(self.workspace_id, self.cents, self.instance_id, "", uptime)


@dataclass
class Database:
    """Two replicas, a plain connection, and the loop that all of them live in."""

    runner: asyncio.Runner
    connection: asyncpg.Connection
    replicas: Sequence[Ledger]

    def run(self, work: Awaitable[object]) -> None:
        async def awaited() -> None:
            await work

        self.runner.run(awaited())


class Heartbeats(RuleBasedStateMachine):
    """Two instances of each workspace, their heartbeats, and two replicas that receive them."""

    beats: Bundle[Heartbeat] = Bundle("beats")

    def __init__(self, database: Database, has_epoch: bool) -> None:
        super().__init__()
        self.database, self.has_epoch = database, has_epoch
        self.oracles = {f"w{next(_numbers)}": Oracle() for _ in range(WORKSPACES)}
        self.agents = [
            AgentCounter(workspace_id, instance_id, has_epoch)
            for workspace_id in self.oracles
            for instance_id in ("", "pod-2")
        ]

    @initialize()
    def register(self) -> None:
        for workspace_id in self.oracles:
            self.database.run(add_workspace(self.database.connection, workspace_id))

    @rule(target=beats, which=AGENTS, cents=st.integers(0, 500))
    def spend(self, which: int, cents: int) -> Heartbeat:
        """An agent works and sends; nothing has arrived yet."""
        return self.agents[which].report(cents)

    @rule(which=AGENTS)
    def restart(self, which: int) -> None:
        self.agents[which].restart()

    @rule(beat=beats, replica=st.integers(0, 1))
    def deliver(self, beat: Heartbeat, replica: int) -> None:
        """Once, again, or late: any heartbeat that was ever sent."""
        self.oracles[beat.workspace_id].receive(beat)
        self.database.run(self.database.replicas[replica].record(beat))

    @rule(beat=beats, times=st.integers(2, 5))
    def deliver_at_once(self, beat: Heartbeat, times: int) -> None:
        """The same one to both replicas at the same instant."""
        self.oracles[beat.workspace_id].receive(beat)
        self.database.run(self._at_once([beat] * times, self.database.replicas))

    @rule(beats=st.lists(beats, min_size=2, max_size=8))
    def deliver_many_at_once(self, beats: list[Heartbeat]) -> None:
        """Different ones to both: in an order that only the database knows, so one of a stream."""
        if not self.has_epoch:
            beats = list({beat.stream: beat for beat in beats}.values())
        for beat in beats:
            self.oracles[beat.workspace_id].receive(beat)
        self.database.run(self._at_once(beats, self.database.replicas))

    @rule(
        target=beats,
        cents=st.tuples(*[st.integers(0, 500)] * 2 * WORKSPACES),
        late=st.lists(beats, max_size=8),
        replica=st.integers(0, 1),
    )
    def deliver_a_group(
        self, cents: Sequence[int], late: Sequence[Heartbeat], replica: int
    ) -> MultipleResults[Heartbeat]:
        """New ones of all agents and late ones to one replica, which keeps their order."""
        new = [agent.report(spent) for agent, spent in zip(self.agents, cents, strict=True)]
        for beat in (*new, *late):
            self.oracles[beat.workspace_id].receive(beat)
        replicas = self.database.replicas[replica : replica + 1]
        self.database.run(self._at_once([*new, *late], replicas))
        return multiple(*new)

    @rule(beat=beats, patience=st.integers(0, 12), replica=st.integers(0, 1))
    def lose_the_answer(self, beat: Heartbeat, patience: int, replica: int) -> None:
        """The sender gives up, before or after the commit, and sends it again elsewhere."""
        self.oracles[beat.workspace_id].receive(beat)
        self.database.run(self._given_up(beat, patience, replica))

    @rule(beat=beats, timeout_ms=st.integers(0, 8), replica=st.integers(0, 1))
    def lose_the_connection(self, beat: Heartbeat, timeout_ms: int, replica: int) -> None:
        """The replica loses its database, before or after the commit, and answers 503."""
        self.oracles[beat.workspace_id].receive(beat)
        self.database.run(self._cut_off(beat, timeout_ms / 1000, replica))

    async def _at_once(self, beats: Sequence[Heartbeat], replicas: Sequence[Ledger]) -> None:
        ledgers = itertools.cycle(replicas)
        await asyncio.gather(*[next(ledgers).record(beat) for beat in beats])

    async def _given_up(self, beat: Heartbeat, patience: int, replica: int) -> None:
        ledger = self.database.replicas[replica]
        caller = asyncio.create_task(ledger.record(beat))
        for _ in range(patience):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        await self.database.replicas[1 - replica].record(beat)
        # What was given up goes on, and must not arrive after a later heartbeat: without an
        # epoch the rule could not tell it from a counter that started again.
        await ledger.finish()

    async def _cut_off(self, beat: Heartbeat, timeout_s: float, replica: int) -> None:
        hurried = replace(self.database.replicas[replica], timeout_s=timeout_s)
        with contextlib.suppress(StorageUnavailable):
            await hurried.record(beat)
        await self.database.replicas[1 - replica].record(beat)
        await hurried.finish()

    @invariant()
    def ledger_holds_what_the_oracle_says(self) -> None:
        for workspace_id, oracle in self.oracles.items():
            self.database.run(self._compare(workspace_id, oracle))

    async def _compare(self, workspace_id: str, oracle: Oracle) -> None:
        row = await self.database.connection.fetchrow(
            """SELECT coalesce(sum(amount_cents), 0)::bigint AS booked_cents,
                      coalesce((array_agg(running_total_cents ORDER BY event_number DESC))[1], 0)
                          AS total_cents,
                      count(*) = coalesce(max(event_number), 0) AS is_numbered
               FROM workspace_spend_events WHERE workspace_id = $1""",
            workspace_id,
        )
        assert row is not None
        booked_cents = oracle.booked_cents
        assert tuple(row) == (booked_cents, booked_cents, True)
        if self.has_epoch:
            assert booked_cents == sum(oracle.highest.values())


def run_machine(dsn: str, has_epoch: bool) -> None:
    """Run the machine with a loop, replicas and a connection of its own."""
    with asyncio.Runner() as runner:
        database, close = runner.run(open_database(dsn, runner))
        try:
            run_state_machine_as_test(lambda: Heartbeats(database, has_epoch), settings=BOUNDED)
        finally:
            runner.run(close())


async def open_database(
    dsn: str, runner: asyncio.Runner
) -> tuple[Database, Callable[[], Awaitable[None]]]:
    stack = contextlib.AsyncExitStack()
    replicas = []
    for _ in range(2):
        connections = await stack.enter_async_context(
            Connections(DatabaseSettings(dsn), CONNECTIONS_PER_REPLICA)
        )
        replicas.append(Ledger(connections, WorkspaceKeys("text"), timeout_s=30))
    connection = await asyncpg.connect(dsn)
    stack.push_async_callback(connection.close)
    return Database(runner, connection, replicas), stack.aclose


def test_with_an_epoch_the_ledger_is_exact(dsn: str) -> None:
    run_machine(dsn, has_epoch=True)


def test_without_an_epoch_the_ledger_follows_the_rule(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counter, "SAME_START_WITHIN", SAME_START_WITHIN)
    run_machine(dsn, has_epoch=False)
