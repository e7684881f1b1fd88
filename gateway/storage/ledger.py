"""The ledger: heartbeats become booked spend, many of them in one transaction.

Heartbeats that arrive while others are being written wait, and the next group writes all of them
together. Those of one workspace keep their order, because it is in one group at a time.

A group that the database refuses is undone and written again in ever smaller parts, beside the
groups that follow: so a bad heartbeat fails alone, and nobody waits for a workspace that somebody
else holds but its own heartbeats. An answer follows its commit. Waiting is bounded by the deadline.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any, TypeAlias

from gateway.core.errors import Conflict, StorageUnavailable
from gateway.storage.booking import Booking, Heartbeat, Refusal, book
from gateway.storage.database import Connections, Contended, StatementFailed
from gateway.storage.turns import Turns
from gateway.storage.workspace_key import WorkspaceKeys


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A heartbeat and its caller's answer."""

    heartbeat: Heartbeat
    answer: "asyncio.Future[Booking]"

    @property
    def is_answered(self) -> bool:
        """Whether there is nothing left to do for it; at its deadline there is not."""
        return self.answer.done()

    def settle(self, result: Booking | Exception) -> None:
        """Answer the caller, unless its deadline has passed."""
        if self.is_answered:
            return
        if isinstance(result, Booking):
            self.answer.set_result(result)
            return
        self.answer.set_exception(result)
        # The caller may have left before; an exception nobody reads is no news then.
        self.answer.exception()


# What is written together: by workspace, those of each in their order.
Group: TypeAlias = dict[str, list[_Waiting]]


@dataclass(slots=True)
class Ledger:
    """Appends spend. Never fails open: what is not committed is not acknowledged."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float
    # How long a transaction waits for workspaces that somebody else holds; and a part of a group
    # that was divided, because one of its workspaces may be held for long.
    lock_timeout_s: float = 0.1
    lock_timeout_apart_s: float = 0.01
    heartbeats_per_group_max: int = 200
    heartbeats_max: int = 2048
    _turns: Turns[_Waiting] = field(init=False, default_factory=Turns)
    _is_writing_groups: bool = field(init=False, default=False)
    _may_write_apart: asyncio.Semaphore = field(init=False)
    _may_write_one: asyncio.Semaphore = field(init=False)
    _running: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        # One connection is for the groups: two at once would be smaller, and cost more in all.
        # Another is for those that are written one by one, maybe again and again.
        self._may_write_apart = asyncio.Semaphore(max(self.connections.size - 2, 1))
        self._may_write_one = asyncio.Semaphore(1)

    async def record(self, heartbeat: Heartbeat) -> Booking:
        """Book a heartbeat and return after the commit.

        Raises UnknownWorkspace, Unauthorized, Conflict, and StorageUnavailable when it may not
        have been booked: the agent's next heartbeat carries the total, so nothing is lost and
        nothing is booked twice. A heartbeat whose sender left is booked all the same.
        """
        key = self.keys.existing(heartbeat.workspace_id)
        if self._turns.count >= self.heartbeats_max:
            raise StorageUnavailable("queue_full")
        waiting = self._wait(replace(heartbeat, workspace_id=key))
        self._turns.add(key, waiting)
        self._write_groups_on()
        # Shielded: a caller that leaves ends its own waiting, not the heartbeat's.
        return await asyncio.shield(waiting.answer)

    def _wait(self, heartbeat: Heartbeat) -> _Waiting:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(heartbeat, loop.create_future())
        timer = loop.call_later(self.timeout_s, waiting.settle, StorageUnavailable("timeout"))
        waiting.answer.add_done_callback(lambda _: timer.cancel())
        return waiting

    async def finish(self) -> None:
        """Wait until nothing is being written, which has its deadlines."""
        while self._running:
            await asyncio.wait(self._running)

    def _write_groups_on(self) -> None:
        if not self._is_writing_groups:
            self._is_writing_groups = True
            self._run(self._write_groups())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _write_groups(self) -> None:
        """Write one group after another until nobody waits."""
        try:
            while group := self._turns.take(self.heartbeats_per_group_max):
                await self._write(group, self.lock_timeout_s)
        finally:
            self._is_writing_groups = False

    async def _write(self, group: Group, lock_timeout_s: float) -> None:
        """Answer heartbeats by one transaction, or divide them if it is undone."""
        waiting = [each for line in group.values() for each in line if not each.is_answered]
        results: Sequence[Booking | Exception]
        try:
            beats = [each.heartbeat for each in waiting]
            results = await self._book(beats, lock_timeout_s)
        except (Conflict, StatementFailed):
            self._divide(group)
            return
        except Exception as error:
            # What was lost on the way may be committed. If a later report of a stream was lower,
            # an earlier one that is written again would be booked twice.
            results = [error] * len(waiting)
        for each, result in zip(waiting, results, strict=True):
            each.settle(result)
        self._give_back(group)

    def _divide(self, group: Group) -> None:
        """Write heartbeats again beside the groups: in parts, those of one workspace one by one."""
        if len(group) == 1:
            self._run(self._write_one_by_one(group))
            return
        # As many parts as each has workspaces: of 200, a bad one costs some 25 transactions more.
        lines, size = list(group.items()), isqrt(len(group))
        for start in range(0, len(lines), size):
            self._run(self._write_apart(dict(lines[start : start + size])))

    async def _write_apart(self, group: Group) -> None:
        async with self._may_write_apart:
            await self._write(group, self.lock_timeout_apart_s)

    async def _write_one_by_one(self, group: Group) -> None:
        """Answer heartbeats in their order, each by a transaction of its own."""
        for each in (each for line in group.values() for each in line):
            while not each.is_answered:
                # Given back between two tries, so that a workspace that stays held stops nobody.
                async with self._may_write_one:
                    await self._try_to_write(each)
        self._give_back(group)

    async def _try_to_write(self, waiting: _Waiting) -> None:
        """Answer one heartbeat, unless somebody else holds its workspace."""
        beat = waiting.heartbeat
        result: Booking | Exception
        try:
            try:
                (result,) = await self._book([beat], self.lock_timeout_s)
            except Conflict:
                # A column of the platform's is too narrow for what the agent tells of itself. The
                # spend counts all the same.
                (result,) = await self._book([beat.without_details()], self.lock_timeout_s)
        except Contended:
            return
        except Exception as error:
            result = error
        waiting.settle(result)

    async def _book(self, beats: list[Heartbeat], lock_timeout_s: float) -> list[Booking | Refusal]:
        if not beats:
            return []
        return await self.connections.run(
            lambda connection: book(connection, beats, lock_timeout_s), self.timeout_s
        )

    def _give_back(self, group: Group) -> None:
        self._turns.give_back(group)
        self._write_groups_on()
