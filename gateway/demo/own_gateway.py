"""The gateway that the demo plays on: the supervisor and its worker, on a database of its own.

Of the user's configuration only the port, the data folder and the log's level count here: a demo
must neither open a port to other machines nor write into a database that means something.
"""

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from pydantic import SecretStr

from gateway.config import ENVIRONMENT_PREFIX, Config, Database, Log, Server
from gateway.database import StartError, open_database
from gateway.logs import configure_logs, flush_logs
from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import default_data_dir, open_private
from gateway.storage.embedded_process import takes_lock
from gateway.supervisor import listen, supervise

FOLDERS_MAX = 20
PORTS_TRIED = 100
# Callers are gone by the time the worker is stopped.
DRAIN_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """What is the demo's alone as long as it runs: a folder, a file for logs, and a port."""

    folder: Path
    log_file: Path
    listener: socket
    wanted_port: int

    @property
    def port(self) -> int:
        """The port that was found; not the wanted one if that is in use."""
        return int(self.listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class OwnGateway:
    """A running gateway, and where everything is."""

    url: str
    place: Place
    database: DatabaseSettings


@contextmanager
def claimed_place(config: Config) -> Iterator[Place]:
    """A place to play. Logs, and all that goes to standard error, go to its file meanwhile."""
    wanted_port = config.server.port
    with (
        claimed_folder(config.database.data_dir or default_data_dir()) as folder,
        listen_on_free_port(wanted_port) as listener,
        standard_error_into(folder / "gateway.log") as log_file,
    ):
        configure_logs(config.log.level, config.log.format)
        yield Place(folder, log_file, listener, wanted_port)


@asynccontextmanager
async def run_own_gateway(config: Config, place: Place) -> AsyncIterator[OwnGateway]:
    """The gateway on its own database."""
    async with open_database(Config(database=Database(data_dir=place.folder))) as database:
        own = own_config(database.dsn, place.folder, config.log)
        tell_workers(own)
        async with supervised(own, place.listener) as url:
            yield OwnGateway(url, place, database)


@contextmanager
def claimed_folder(data_dir: Path) -> Iterator[Path]:
    """A data folder that no other demo uses at this time."""
    # Two demos on one database would end together, and each would forget the other's workspaces.
    for number in range(1, FOLDERS_MAX + 1):
        folder = data_dir / ("demo" if number == 1 else f"demo-{number}")
        with open_private(folder / "demo.lock") as lock:
            if takes_lock(lock):
                yield folder
                return
    raise StartError(f"{FOLDERS_MAX} demos run already in {data_dir}: stop one of them.")


def own_config(dsn: str, data_dir: Path, log: Log) -> Config:
    """The configuration of the demo's gateway: the defaults, on this machine alone."""
    server = Server(drain_timeout_s=DRAIN_TIMEOUT_S)
    return Config(server=server, database=Database(dsn=SecretStr(dsn), data_dir=data_dir), log=log)


def tell_workers(config: Config) -> None:
    """Let the environment, where workers read their configuration, say what `config` says."""
    for variable in list(os.environ):
        if variable.startswith(ENVIRONMENT_PREFIX):
            del os.environ[variable]
    os.environ[f"{ENVIRONMENT_PREFIX}SERVER__DRAIN_TIMEOUT_S"] = str(config.server.drain_timeout_s)
    os.environ[f"{ENVIRONMENT_PREFIX}LOG__LEVEL"] = config.log.level


def listen_on_free_port(port: int) -> socket:
    """A listening socket on this port, or on the next one that is free. Raises StartError."""
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            return listen(Server().host, candidate)
        except StartError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
    raise StartError(f"Port {port} is in use, and so are those after it: set server.port.")


@contextmanager
def standard_error_into(path: Path) -> Iterator[Path]:
    """Write standard error into a new file, that of worker processes too: the table needs quiet."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield path
    finally:
        flush_logs()
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@asynccontextmanager
async def supervised(config: Config, listener: socket) -> AsyncIterator[str]:
    """The supervisor in this process, as `gateway serve` runs it; yields the gateway's URL."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    supervisor = asyncio.create_task(
        supervise(config, stop=stop, on_ready=ready.set_result, listener=listener)
    )
    first: set[asyncio.Future[Any]] = {supervisor, ready}
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        # A supervisor that ends before it is ready has failed: it is awaited below and raises.
        if not supervisor.done():
            yield ready.result()
    finally:
        stop.set()
        await supervisor
