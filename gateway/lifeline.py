"""The socket between the supervisor and a worker, and what they say to each other on it.

The worker says once that it serves, with its deadlines, and then one byte a second for as long as
its event loop turns: whether the database answers it. A worker that starts later need not find out
by waiting for it. The supervisor says when a worker is to retire. Each of them notices the end
of the other, even one by SIGKILL, because the kernel closes the socket.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

import orjson

BEAT_INTERVAL_S = 1.0

_BEAT = b"."
_BEAT_WITHOUT_DATABASE = b"!"
_RETIRE = b"r"
_END_OF_DEADLINES = b"\n"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a worker may be silent, and how long its end may take; then it hangs.

    The worker knows them and not the supervisor: it may have a newer configuration.
    """

    silent_s: float
    stop_s: float
    retire_s: float


class WorkerEnd:
    """The lifeline as a worker sees it."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._beat: asyncio.TimerHandle | None = None
        self._on_retire: Callable[[], None] = _nothing
        self._on_end: Callable[[], None] = _nothing
        self._is_database_away: Callable[[], bool] = bool

    def follow(self, on_retire: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Call `on_retire` when the supervisor says so, and `on_end` when the supervisor ended."""
        self._on_retire, self._on_end = on_retire, on_end
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def begin(self, deadlines: Deadlines, is_database_away: Callable[[], bool]) -> None:
        """Say that this worker serves, and from now on that its loop turns."""
        self._is_database_away = is_database_away
        self._send(orjson.dumps(asdict(deadlines)) + _END_OF_DEADLINES)
        self._schedule_beat()

    @property
    def has_begun(self) -> bool:
        """Whether the supervisor was told that this worker serves."""
        return self._beat is not None

    def _read(self) -> None:
        try:
            said = self._socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._on_end()
        elif _RETIRE in said:
            self._on_retire()

    def _say_beat(self) -> None:
        self._send(_BEAT_WITHOUT_DATABASE if self._is_database_away() else _BEAT)
        self._schedule_beat()

    def _schedule_beat(self) -> None:
        self._beat = asyncio.get_running_loop().call_later(BEAT_INTERVAL_S, self._say_beat)

    def _send(self, said: bytes) -> None:
        # A supervisor that does not read, or is gone, must not stop the worker here.
        with suppress(OSError):
            self._socket.send(said)


class SupervisorEnd:
    """The lifeline of one worker as the supervisor sees it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._said = b""
        self._has_spoken = False
        # What the worker said last; None before that.
        self.is_database_away: bool | None = None
        # None if the worker ends before it serves.
        self.deadlines: asyncio.Future[Deadlines | None] = self._loop.create_future()
        self._loop.add_reader(connection, self._read)

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """A new lifeline, and the worker's end of it as a socket to hand over."""
        ours, its = socket.socketpair()
        return cls(ours), its

    def has_spoken(self) -> bool:
        """Whether the worker said something since the last time this was asked."""
        # What it said may lie in the socket: this process may have been stopped, or starved.
        self._read()
        has_spoken, self._has_spoken = self._has_spoken, False
        return has_spoken

    def say_retire(self) -> None:
        """Have the worker finish its calls and end."""
        # Its buffer is full only if the worker hangs, and then the worker is killed.
        with suppress(OSError):
            self._socket.send(_RETIRE)

    def close(self) -> None:
        """Close our end."""
        self._end()
        self._socket.close()

    def _read(self) -> None:
        try:
            said = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._end()
            return
        self._has_spoken = True
        if not self.deadlines.done():
            self._take_deadlines(said)
        elif said.endswith((_BEAT, _BEAT_WITHOUT_DATABASE)):
            self.is_database_away = said.endswith(_BEAT_WITHOUT_DATABASE)

    def _take_deadlines(self, said: bytes) -> None:
        self._said += said
        line, end, _ = self._said.partition(_END_OF_DEADLINES)
        if end:
            self.deadlines.set_result(Deadlines(**orjson.loads(line)))

    def _end(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
        if not self.deadlines.done():
            self.deadlines.set_result(None)


def _nothing() -> None:
    pass
