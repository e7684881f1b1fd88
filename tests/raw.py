"""Bytes as they go over the wire: an agent and a caller that add, check and hide nothing."""

import asyncio
import itertools
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar, cast
from urllib.parse import urlsplit

from tests.running import Gateway, until

PATIENCE_S = 20
# Closing then resets the connection: the other side sees an error instead of an end.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_CHUNK_SIZE = re.compile(rb"([0-9a-f]+)\r\n")

T = TypeVar("T")


class ConnectionEndedError(Exception):
    """The other side closed before what was waited for had arrived."""


@dataclass(frozen=True)
class Message:
    """A whole request or answer as it was written, its body without the framing."""

    start: str
    fields: list[tuple[str, str]]
    body: bytes
    is_chunked: bool

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.start.split(" ")[1])

    def values(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value for field, value in self.fields if field.lower() == name.lower()]


class RawConnection(asyncio.Protocol):
    """One connection: everything that arrived on it, and how it ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_open = False
        self.was_reset = False
        self._read_bytes = 0
        self._news = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self.was_reset = exc is not None
        self._news.set()
        self._can_write.set()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    @property
    def unread(self) -> bytes:
        """What arrived and was not given by `receive` or `receive_message`."""
        return bytes(self.received[self._read_bytes :])

    def send(self, data: bytes) -> Self:
        """Send exactly these bytes, in one piece if they are few.

        Raises ConnectionEndedError where nobody can receive them.
        """
        if not self.is_open:
            raise ConnectionEndedError
        self.transport.write(data)
        return self

    async def push(self, data: bytes) -> None:
        """Send these bytes, and wait while the other side does not read."""
        self.send(data)
        await self._can_write.wait()

    def close(self) -> None:
        """End the connection in order, after what was sent."""
        self.transport.close()

    def reset(self) -> None:
        """End the connection by a reset: the other side sees ECONNRESET."""
        endpoint = self.transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    async def receive(self) -> bytes:
        """What arrived since the last time, at least a byte; nothing at the end."""
        await self.until(lambda: self.unread or not self.is_open)
        data = self.unread
        self._read_bytes += len(data)
        return data

    async def receive_all(self) -> bytes:
        """Everything that arrives until the end. Raises ConnectionResetError if it was a reset."""
        await self.ended()
        if self.was_reset:
            raise ConnectionResetError
        return bytes(self.received)

    async def receive_message(self, is_bodiless: bool = False) -> Message:
        """The next whole message. Raises ConnectionEndedError if it does not come whole.

        `is_bodiless`: it answers HEAD, or its status is 204 or 304.
        """

        def whole() -> tuple[Message, int] | None:
            found = read_message(self.unread, is_bodiless)
            if found is None and not self.is_open:
                raise ConnectionEndedError
            return found

        message, length = await self.until(whole)
        self._read_bytes += length
        return message

    @property
    def has_whole_answer(self) -> bool:
        """Whether a caller would take what arrived for a whole answer (RFC 9112 section 8)."""
        found = read_message(self.received)
        if found is None:
            return False
        is_ended_by_close = not (found[0].is_chunked or found[0].values("Content-Length"))
        return not (is_ended_by_close and (self.is_open or self.was_reset))

    async def ended(self) -> None:
        """Return when the connection is over."""
        await self.until(lambda: not self.is_open)

    async def until(self, find: Callable[[], T | None]) -> T:
        """What `find` finds, as soon as something arrived that it finds."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := find()):
                self._news.clear()
                await self._news.wait()
        return found


def read_message(data: bytes | bytearray, is_bodiless: bool = False) -> tuple[Message, int] | None:
    """The first message of `data` and how long it is, or None if it is not all there.

    Strict as nobody else: what the gateway writes must be beyond doubt.
    """
    head, end_of_head, rest = bytes(data).partition(b"\r\n\r\n")
    if not end_of_head:
        return None
    start, *lines = head.decode().split("\r\n")
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value for name, value in fields if name.lower() == "transfer-encoding"]
    assert len(lengths) + len(codings) <= 1, "a length told twice"
    assert codings in ([], ["chunked"])
    if codings:
        found = _unchunked(rest)
    else:
        length = int(lengths[0]) if lengths and not is_bodiless else 0
        found = (rest[:length], length) if len(rest) >= length else None
    if found is None:
        return None
    body, body_bytes = found
    message = Message(start, fields, body, bool(codings))
    return message, len(head) + len(end_of_head) + body_bytes


def read_messages(data: bytes | bytearray) -> tuple[list[Message], bytes]:
    """The whole messages of `data`, and what follows them."""
    data, messages = bytes(data), []
    while found := read_message(data):
        messages.append(found[0])
        data = data[found[1] :]
    return messages, data


def _unchunked(data: bytes) -> tuple[bytes, int] | None:
    body, position = b"", 0
    while size := _CHUNK_SIZE.match(data, position):
        length, begin = int(size[1], 16), size.end()
        if len(data) < begin + length + 2:
            return None
        assert data[begin + length : begin + length + 2] == b"\r\n", "a chunk without its end"
        body += data[begin : begin + length]
        position = begin + length + 2
        if not length:
            return body, position
    return None


Script = Callable[[RawConnection], Awaitable[None]]


@dataclass
class RawAgent:
    """A listening agent, and every connection that was made to it."""

    url: str
    connections: list[RawConnection] = field(default_factory=list)

    async def connection(self, number: int) -> RawConnection:
        """The connection of this number from 0, as soon as it is made."""
        await until(lambda: len(self.connections) > number, PATIENCE_S)
        return self.connections[number]

    @property
    def requests(self) -> list[Message]:
        """Every request that arrived whole, by connection."""
        return [
            each
            for connection in self.connections
            for each in read_messages(connection.received)[0]
        ]

    @property
    def open_connections(self) -> list[RawConnection]:
        """The connections that neither side closed."""
        return [connection for connection in self.connections if connection.is_open]


@asynccontextmanager
async def run_raw_agent(script: Script) -> AsyncIterator[RawAgent]:
    """An agent on a free port that does on every connection what the script says.

    A script ends in peace when the other side closes; what else it raises fails the test.
    """
    loop = asyncio.get_running_loop()
    agent = RawAgent("")
    tasks: list[asyncio.Task[None]] = []

    class Accepted(RawConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            agent.connections.append(self)
            tasks.append(loop.create_task(_play(script, self)))

    server = await loop.create_server(Accepted, "127.0.0.1", 0)
    agent.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield agent
    finally:
        server.close()
        for connection in agent.open_connections:
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _play(script: Script, connection: RawConnection) -> None:
    with suppress(ConnectionEndedError):
        await script(connection)


def answering(answer: bytes) -> Script:
    """A script: answer every request that has arrived whole with these bytes, and keep open."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.receive_message()
            connection.send(answer)

    return script


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[RawConnection]:
    """A caller's connection to the server of this URL."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    _, connection = await loop.create_connection(RawConnection, host, port)
    try:
        yield connection
    finally:
        connection.transport.abort()


async def exchange_bytes(url: str, request: bytes) -> bytes:
    """Send these bytes to the server of this URL, and give all that it answers until it closes."""
    async with connect(url) as connection:
        return await connection.send(request).receive_all()


_numbers = itertools.count(1)


async def target_of(gateway: Gateway, agent: RawAgent, path: str = "") -> str:
    """The request target of a new workspace whose agent this is, below `path`."""
    workspace_id = f"raw-{next(_numbers)}"
    await gateway.register(workspace_id, agent.url + path)
    return f"/workspaces/{workspace_id}/a2a"


def request_bytes(
    target: str, method: str = "POST", fields: Sequence[str] = (), body: bytes | None = b"{}"
) -> bytes:
    """A request as a plain caller writes it; without a body it tells no length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


async def call(
    gateway: Gateway, target: str, method: str = "POST", fields: Sequence[str] = ()
) -> Message:
    """One call on a connection of its own; more than one answer on it fails the test."""
    request = request_bytes(target, method, [*fields, "Connection: close"])
    answer = await exchange_bytes(gateway.url, request)
    is_bodiless = method == "HEAD" or answer.split(b" ")[1] in (b"204", b"304")
    found = read_message(answer, is_bodiless)
    assert found is not None, "the answer is not whole"
    assert found[1] == len(answer), "something follows the answer"
    return found[0]
