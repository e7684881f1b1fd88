"""Questions about budgets, and the query that answers a batch of them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gateway.core.errors import StorageUnavailable
from gateway.storage.budgets import WorkspaceBudget, read_spends, with_room
from gateway.storage.check_connection import CheckConnection, State
from gateway.storage.database import Connection
from gateway.storage.deadline import Deadline

OnFound = Callable[[WorkspaceBudget], None]


@dataclass(slots=True)
class Question:
    """What callers ask about one workspace; all of them get the same answer, or the same error.

    Each waits for a future of its own: one that leaves takes nothing from the others.
    """

    is_asked_again: bool = False
    _waiting: list[asyncio.Future[WorkspaceBudget | None]] = field(default_factory=list)

    def answered(self) -> asyncio.Future[WorkspaceBudget | None]:
        """A future of the budget, of None if there is no such workspace, or of an error."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    def join(self, other: "Question") -> None:
        """Take over the callers of an earlier question, which are asked for again by this one."""
        self._waiting += other._waiting
        self.is_asked_again = True

    def answer(self, found: WorkspaceBudget | None) -> None:
        """Answer everyone who has no answer yet."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(found)
        self._waiting.clear()

    def refuse(self, cause: str) -> None:
        """Raise StorageUnavailable in everyone who has no answer yet."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(StorageUnavailable(cause))
        self._waiting.clear()


# Questions by the key of their workspace.
Batch = dict[str, Question]
# The key of a question about no workspace: does the database answer?
PING = ""


@dataclass(slots=True)
class Query:
    """The query for a batch of questions, on one connection."""

    batch: Batch
    lane: CheckConnection
    # After these a query is late, and given up.
    timeout_s: float
    late_timeout_s: float
    # Called with every budget that it finds, also those for which nobody waits any more.
    on_found: OnFound
    is_given_up: bool = False
    # Workspaces found over a limit, for which a second query asks when that ends.
    _exceeded: Mapping[str, WorkspaceBudget] = field(default_factory=dict)
    _deadline: Deadline | None = None

    async def read(self, connection: Connection, as_of: datetime | None) -> None:
        """Send it and answer its questions. Raises what the driver raises."""
        self.lane.state = State.ASKING
        self._deadline = Deadline(self.timeout_s, self._be_late, self.lane.has_unread)
        try:
            found = await read_spends(connection, [key for key in self.batch if key != PING], as_of)
            self._exceeded = {key: each for key, each in found.items() if each.budget.exceeded}
            within = {key: each for key, each in found.items() if key not in self._exceeded}
            for key, question in self.batch.items():
                if key not in self._exceeded:
                    question.answer(within.get(key))
            self._report(within)
            if self._exceeded:
                exceeded = await with_room(connection, self._exceeded)
                self._answer_exceeded(exceeded)
                self._report(exceeded)
        finally:
            self._deadline.cancel()

    def refuse(self, cause: str) -> None:
        """Answer what it could not read. What is known to be over a limit is over it."""
        self._answer_exceeded(self._exceeded)
        for question in self.batch.values():
            question.refuse(cause)

    def _answer_exceeded(self, exceeded: Mapping[str, WorkspaceBudget]) -> None:
        for key, found in exceeded.items():
            if key in self.batch:
                self.batch[key].answer(found)

    def _report(self, found: Mapping[str, WorkspaceBudget]) -> None:
        for each in found.values():
            self.on_found(each)

    def _be_late(self) -> None:
        self.lane.state = State.LATE
        self.refuse("timeout")
        self._deadline = Deadline(self.late_timeout_s, self._give_up, self.lane.has_unread)

    def _give_up(self) -> None:
        # The query ends by itself with a connection error. Cancelling it instead would make
        # asyncpg open a connection to cancel it on the server, and wait for that.
        self.is_given_up = True
        self.lane.drop()
