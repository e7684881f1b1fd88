"""A wire to PostgreSQL that can be cut, or go silent as a server does that was stopped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"


@dataclass
class Wire:
    """Carries connections to the server; `dsn` is the database at this end."""

    server_socket: str
    dsn: str = ""
    is_cut: bool = False
    _speaks: asyncio.Event = field(default_factory=asyncio.Event)
    _carrying: set[asyncio.Task[None]] = field(default_factory=set)

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        self.is_cut = True
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
                asyncio.create_task(self._carry_bytes(server_reader, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_bytes(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(65536):
            await self._speaks.wait()
            writer.write(piece)
            await writer.drain()

    async def close(self) -> None:
        """End every connection and wait for that."""
        self.cut()
        if self._carrying:
            await asyncio.wait(set(self._carrying))


@asynccontextmanager
async def open_wire(dsn: str) -> AsyncIterator[Wire]:
    """A wire to the database's server, for as long as the context is open."""
    parts = urlsplit(dsn)
    wire = Wire(f"{parse_qs(parts.query)['host'][0]}/{SOCKET}")
    wire.speak()
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire.dsn = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield wire
    finally:
        server.close()
        await wire.close()
