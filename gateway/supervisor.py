"""`gateway serve`: one database, one listening socket, and workers that take calls from it.

The supervisor serves nothing itself. It starts the embedded database if there is no other, opens
the socket, and keeps the workers running. A configured database is migrated first if it answers;
if it is away the workers serve without it, by a snapshot of agents' addresses, and it is migrated
once it is back. SIGHUP replaces them one by one, with the configuration as it is then; address,
database and number of workers stay.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from gateway.config import BACKLOG, Config
from gateway.database import StartError, data_dir_of, locate_database
from gateway.database_care import DatabaseCare
from gateway.storage.database import DatabaseSettings
from gateway.storage.snapshot_name import snapshot_name
from gateway.web.metrics_folder import ensure_folder
from gateway.worker_process import WorkerCommand
from gateway.workers import Workers

log = structlog.get_logger()

# How often the care for the database is cancelled, and how long each time it may take to end.
CANCELS_MAX = 3
CANCEL_TIMEOUT_S = 1.0

Part = TypeVar("Part")
OnReady = Callable[[str], None]


async def supervise(
    config: Config,
    config_file: str | None = None,
    stop: asyncio.Event | None = None,
    on_ready: OnReady | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT, or until `stop` is set; then signals are not ours.

    `listener` takes the place of the configured address. Raises StartError, and what opening and
    preparing the database raises.
    """
    replace = asyncio.Event()
    stop = stop or _follow_signals(replace)
    async with AsyncExitStack() as stack:
        listener = listener or listen(config.server.host, config.server.port)
        stack.enter_context(listener)
        settings = await _unless_stopped(stop, stack.enter_async_context(locate_database(config)))
        if settings is None:
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-")))
        care = DatabaseCare(
            settings,
            config.database.ledger_retention,
            snapshot_path(config, settings, folder),
            config.database.startup_timeout_s,
        )
        async with _cared_for(care, stop):
            await _either(care.is_decided, stop)
            if stop.is_set():
                return
            metrics = folder / "metrics"
            ensure_folder(metrics)
            command = WorkerCommand(
                *(config_file, settings, care.keys, listener, str(metrics), care.snapshot),
                log_format=config.log.format,
                on_ended=partial(_merge_metrics, metrics),
                is_database_away=lambda: care.is_away,
            )
            workers = Workers(command, config.server.workers, stop)
            await _run(workers, replace, on_ready or _log_address)


def _merge_metrics(folder: Path, process_id: int) -> None:
    # Imported here: prometheus_client takes 0.15 s, for which no start has to wait.
    from gateway.web.metrics_files import merge_ended

    merge_ended(folder, process_id)


@asynccontextmanager
async def _cared_for(care: DatabaseCare, stop: asyncio.Event) -> AsyncIterator[None]:
    """The database is cared for; stops the gateway and raises why, if that cannot go on."""
    caring = asyncio.create_task(care.run())
    caring.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        await _end(caring)
    if caring.done() and not caring.cancelled():
        await caring


async def _end(caring: asyncio.Task[None]) -> None:
    """Cancel it, and wait a while: a driver may wait for a silent server, and so swallow that."""
    for _ in range(CANCELS_MAX):
        caring.cancel()
        await asyncio.wait({caring}, timeout=CANCEL_TIMEOUT_S)
        if caring.done():
            return
    log.error("database_care_hangs")


def snapshot_path(config: Config, settings: DatabaseSettings, folder: Path) -> Path:
    """Where the addresses of agents are kept: in `folder`, as long as this runs, if it must be."""
    is_embedded = config.database.dsn is None
    name = "addresses.jsonl" if is_embedded else snapshot_name(settings.dsn, os.environ)
    try:
        data_dir = data_dir_of(config)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise PermissionError(f"{data_dir} cannot be written")
    # A user without a home has no folder for data; which error that is, differs.
    except (OSError, RuntimeError) as error:
        log.warning("snapshot_not_kept", reason=str(error))
        return folder / name
    return data_dir / name


async def _unless_stopped(stop: asyncio.Event, start: Coroutine[Any, Any, Part]) -> Part | None:
    """What `start` gives, or None if the gateway is to stop before it is there."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
    return None if starting.cancelled() else starting.result()


def _log_address(url: str) -> None:
    log.info("listening", url=url)


def _follow_signals(replace: asyncio.Event) -> asyncio.Event:
    """An event for SIGTERM and SIGINT; SIGHUP sets `replace`, unless it is a terminal's end."""
    stop = asyncio.Event()
    is_on_terminal = sys.stdin is not None and sys.stdin.isatty()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, (stop if is_on_terminal else replace).set)
    return stop


async def _run(workers: Workers, replace: asyncio.Event, on_ready: OnReady) -> None:
    """Keep the workers running until the gateway is to stop; raises what either task failed with.

    A mistake of ours there ends the gateway at once: nobody would start workers any more.
    """
    running = asyncio.create_task(workers.run())
    replacing = asyncio.create_task(_replace(workers, replace))
    for task in (running, replacing):
        task.add_done_callback(lambda _: workers.stop.set())
    await _either(workers.is_serving, workers.stop)
    on_ready(url_of(workers.command.listener))
    await workers.stop.wait()
    log.info("stopping")
    replacing.cancel()
    await asyncio.wait({replacing})
    # Only the workers have it now: when they stop accepting, callers are refused at once.
    workers.command.listener.close()
    await running
    if not replacing.cancelled():
        await replacing


async def _replace(workers: Workers, replace: asyncio.Event) -> None:
    while True:
        await replace.wait()
        replace.clear()
        await workers.replace()


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = {asyncio.create_task(one.wait()), asyncio.create_task(other.wait())}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartError(f"Cannot listen on {host} port {port}: {error.strerror}.") from error


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
