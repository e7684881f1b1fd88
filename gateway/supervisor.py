"""`gateway serve`: one database, one listening socket, and workers that take calls from it.

The supervisor serves nothing itself. It starts the embedded database if there is no other,
migrates once, opens the socket, and keeps the workers running. All workers share the socket, so a
connection that waits to be accepted is lost with none of them.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from gateway.config import Config
from gateway.database import StartError, open_database, prepare_database
from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import WorkspaceKeys

log = structlog.get_logger()

BACKLOG = 4096
RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 10.0

# Told to workers by the environment, as everything else is.
DSN_VARIABLE = "GATEWAY_DATABASE__DSN"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

Part = TypeVar("Part")
OnReady = Callable[[str], None]


async def supervise(
    config: Config,
    config_file: str | None = None,
    stop: asyncio.Event | None = None,
    on_ready: OnReady | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT, or until `stop` is set.

    `listener` takes the place of the configured address. Raises StartError, and what opening and
    preparing the database raises.
    """
    stop = stop or _stopped_by_signals()
    async with AsyncExitStack() as stack:
        listener = listener or listen(config.server.host, config.server.port)
        stack.enter_context(listener)
        settings = await _unless_stopped(stop, stack.enter_async_context(open_database(config)))
        if settings is None:
            return
        keys = await _unless_stopped(stop, prepare_database(settings))
        if keys is None:
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-metrics-"))
        workers = Workers(config, config_file, settings, keys, listener, folder)
        await _run(workers, config.server.workers, stop, on_ready or _log_address)


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


def _stopped_by_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _run(workers: "Workers", count: int, stop: asyncio.Event, on_ready: OnReady) -> None:
    slots = [asyncio.create_task(workers.keep_one(stop)) for _ in range(count)]
    on_ready(url_of(workers.listener))
    await stop.wait()
    log.info("stopping")
    # Only the workers have it now: when they stop accepting, callers are refused at once.
    workers.listener.close()
    workers.terminate()
    await asyncio.gather(*slots)


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


@dataclass(slots=True)
class Workers:
    """The processes that serve, and what each is given."""

    config: Config
    config_file: str | None
    settings: DatabaseSettings
    keys: WorkspaceKeys
    listener: socket.socket
    metrics_folder: str
    _running: set[asyncio.subprocess.Process] = field(default_factory=set)

    async def keep_one(self, stop: asyncio.Event) -> None:
        """Run one worker, and another when it ends before it should."""
        delay_s = RESTART_DELAY_S
        while not stop.is_set():
            started = asyncio.get_running_loop().time()
            status = await self._run_one(stop)
            if stop.is_set():
                return
            if asyncio.get_running_loop().time() - started > RESTART_DELAY_MAX_S:
                delay_s = RESTART_DELAY_S
            log.error("worker_ended", status=status, restart_in_s=delay_s)
            await _wait(stop, delay_s)
            delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)

    def terminate(self) -> None:
        """Ask every worker to finish what is under way and end."""
        for process in self._running:
            if process.returncode is None:
                process.terminate()

    async def _run_one(self, stop: asyncio.Event) -> int | None:
        # Its end of the pipe is readable when ours closes, which the kernel does for us.
        reading, writing = os.pipe()
        try:
            process = await self._start(reading)
        except OSError:  # no memory, or no process, for the moment
            os.close(writing)
            return None
        finally:
            os.close(reading)
        self._running.add(process)
        if stop.is_set():
            self.terminate()
        status = await process.wait()
        self._running.discard(process)
        os.close(writing)
        return status

    async def _start(self, lifeline: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command(lifeline),
            pass_fds=(self.listener.fileno(), lifeline),
            env=self._environment(os.environ),
            start_new_session=True,
        )

    def _command(self, lifeline: int) -> list[str]:
        command = [sys.executable, "-m", "gateway", "worker"]
        command += ["--listener", str(self.listener.fileno()), "--lifeline", str(lifeline)]
        command += ["--id-type", self.keys.id_type]
        return command + (["--config", self.config_file] if self.config_file else [])

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {
            **environment,
            DSN_VARIABLE: self.settings.dsn,
            METRICS_VARIABLE: self.metrics_folder,
        }


async def _wait(stop: asyncio.Event, delay_s: float) -> None:
    try:
        async with asyncio.timeout(delay_s):
            await stop.wait()
    except TimeoutError:
        return
