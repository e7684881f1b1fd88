"""A connection for budget checks: made ready before it is used, and replaced while it is in use."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from gateway.core.errors import StorageUnavailable
from gateway.storage.budgets import read_nothing
from gateway.storage.database import (
    DRIVER_ERRORS,
    Connection,
    DatabaseSettings,
    cause_of,
    connect,
    has_unread,
    terminate,
)
from gateway.storage.deadline import Deadline

# How often at most another server is looked for in place of one that takes no writes.
RENEW_INTERVAL_S = 1.0


class State(Enum):
    """What a connection is doing."""

    CONNECTING = "connecting"  # for the first time, or since it was lost
    DOWN = "down"  # the last attempt to connect failed
    IDLE = "idle"
    ASKING = "asking"
    LATE = "late"  # its query is past its deadline


@dataclass(eq=False, slots=True)
class CheckConnection:
    """One connection to the database, through all its ends and beginnings."""

    database: DatabaseSettings
    # Of an attempt to connect, until the first answer.
    attempt_timeout_s: float
    state: State = State.CONNECTING
    connection: Connection | None = None
    # Takes the connection's place before the next query.
    _successor: Connection | None = None
    _pause: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that nobody has closed."""
        return self.connection is not None and not self.connection.is_closed()

    def usable(self) -> Connection | None:
        """The connection for the next query, if there is one."""
        if self._successor is not None:
            self.drop()
            self.connection, self._successor = self._successor, None
        if not self.is_open:
            self.drop()
        return self.connection

    async def connect(self) -> Connection:
        """Connect anew. Raises StorageUnavailable."""
        try:
            self.connection = await self._connect()
        except DRIVER_ERRORS as error:
            self.state = State.DOWN
            raise StorageUnavailable(cause_of(error)) from error
        return self.connection

    async def _connect(self) -> Connection:
        timeout_s = min(self.database.connect_timeout_s, self.attempt_timeout_s)
        connection = await connect(replace(self.database, connect_timeout_s=timeout_s))
        unread = partial(has_unread, connection)
        deadline = Deadline(self.attempt_timeout_s, connection.terminate, unread)
        try:
            await read_nothing(connection)
        except BaseException:
            connection.terminate()
            raise
        finally:
            deadline.cancel()
        # Else a connection that the server has closed would be noticed only by the next query.
        connection.add_termination_listener(self.wake)
        return connection

    async def renew(self) -> None:
        """Have another connection ready for the next query; the old one serves until then."""
        while True:
            with contextlib.suppress(*DRIVER_ERRORS):
                successor = await self._connect()
                break
            await asyncio.sleep(RENEW_INTERVAL_S)
        terminate(self._successor)
        self._successor = successor
        self.wake()

    async def pause(self) -> None:
        """Return when there is something to do."""
        self._pause = asyncio.get_running_loop().create_future()
        try:
            await self._pause
        finally:
            self._pause = None

    def wake(self, _connection: object = None) -> None:
        """End the pause."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def has_unread(self) -> bool:
        """Whether an answer has arrived that the event loop has not read."""
        return self.connection is not None and has_unread(self.connection)

    def drop(self) -> None:
        """Close the connection."""
        terminate(self.connection)
        self.connection = None

    def close(self) -> None:
        """Close the connection and its successor."""
        self.drop()
        terminate(self._successor)
