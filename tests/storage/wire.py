"""A wire to PostgreSQL that can be cut, slow, or silent as a server is that was stopped."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"


@dataclass
class Wire:
    """Carries connections to the server; `dsn` is the database at this end."""

    server_socket: str
    dsn: str = ""
    port: int = 0
    is_cut: bool = False
    # How long each piece takes, either way.
    delay_s: float = 0
    # Answers of the server that were held back.
    held_answers: int = 0
    _server: asyncio.Server | None = None
    _answers: asyncio.Event = field(default_factory=asyncio.Event)
    _speaks: asyncio.Event = field(default_factory=asyncio.Event)
    _carrying: set[asyncio.Task[None]] = field(default_factory=set)

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        self.is_cut = True
        self._end_all()

    def _end_all(self) -> None:
        for task in self._carrying:
            task.cancel()

    def mend(self) -> None:
        """Take connections again."""
        self.is_cut = False

    def silence(self) -> None:
        """Take connections and bytes, and answer nothing."""
        self._speaks.clear()

    def speak(self) -> None:
        """Answer again, what was asked meanwhile too."""
        self._speaks.set()

    def hold_answers(self) -> None:
        """Pass on what is asked, and keep what the server answers."""
        self.held_answers = 0
        self._answers.clear()

    def release_answers(self) -> None:
        """Pass on what the server answered, and will answer."""
        self._answers.set()

    async def listen(self) -> None:
        """Take connections, always at the same port."""
        self._server = await asyncio.start_server(self.carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """End every connection and listen no more, as when the server's machine runs without it."""
        assert self._server is not None
        self._server.close()
        self._end_all()

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """Say nothing on connections, and do not even refuse new ones: their packets are lost."""
        self.silence()
        assert self._server is not None
        self._server.close()
        # The kernel drops what arrives for a queue that is full.
        address = ("127.0.0.1", self.port)
        with socket.create_server(address, backlog=0), socket.create_connection(address):
            yield
        self._end_all()
        self.speak()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            if not self.is_cut:
                await self._speaks.wait()
                await self._carry_both(reader, writer)

    async def _carry_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self.server_socket)
        with contextlib.closing(server_writer):
            ways = {
                asyncio.create_task(self._carry_bytes(reader, server_writer)),
                asyncio.create_task(self._carry_bytes(server_reader, writer, self._answers)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_bytes(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passing: asyncio.Event | None = None,
    ) -> None:
        while piece := await reader.read(65536):
            await self._speaks.wait()
            if passing is not None:
                self.held_answers += not passing.is_set()
                await passing.wait()
            await asyncio.sleep(self.delay_s)
            writer.write(piece)
            await writer.drain()

    async def close(self) -> None:
        """End everything and wait for that."""
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._carrying:
            await asyncio.wait(set(self._carrying))


@asynccontextmanager
async def open_wire(dsn: str) -> AsyncIterator[Wire]:
    """A wire to the database's server, for as long as the context is open."""
    parts = urlsplit(dsn)
    wire = Wire(f"{parse_qs(parts.query)['host'][0]}/{SOCKET}")
    wire.speak()
    wire.release_answers()
    await wire.listen()
    address = f"127.0.0.1:{wire.port}"
    wire.dsn = f"postgresql://{parts.username}@{address}{parts.path}?sslmode=disable"
    try:
        yield wire
    finally:
        await wire.close()
