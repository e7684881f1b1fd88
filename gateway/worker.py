"""One process that serves: it takes calls from the socket that the supervisor opened.

Its end loses no call: for a moment it says on every answer that it will close, then it takes no
more connections, serves those that it has, and ends when the last call did.
"""

import asyncio
import gc
import os
import signal
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.web.descriptors import DESCRIPTORS, Descriptors
from gateway.web.server import Runner
from gateway.web.services import SERVICES

log = structlog.get_logger()

# What the supervisor reads when calls are taken.
SERVING = b"."

# How long a caller with a connection may still send a call on it after the last was accepted.
SERVE_ON_S = 0.4
# More cannot wait at the socket (supervisor.BACKLOG).
ACCEPTED_MAX = 4096


async def work(
    config: Config,
    keys: WorkspaceKeys,
    listener: socket.socket,
    lifeline: int,
    snapshot: Path | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, or the supervisor's end; then finish the calls in flight."""
    app = create_app(config, keys, snapshot)
    asyncio.get_running_loop().set_exception_handler(partial(log_loop_error, app[DESCRIPTORS]))
    runner = create_runner(app, config)
    await runner.setup()
    site = web.SockSite(runner, listener)
    await site.start()
    spare_collections()
    log.info("worker_started", process_id=os.getpid())
    os.write(lifeline, SERVING)
    await stop_signal(lifeline)
    app[SERVICES].is_draining = True
    await asyncio.sleep(config.server.drain_delay_s)
    waiting = accept_waiting(listener)
    await site.stop()
    await serve_accepted(runner, waiting)
    await asyncio.sleep(SERVE_ON_S)
    await runner.cleanup()
    log.info("worker_stopped", process_id=os.getpid())


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait: if nobody else has the listener, its close would reset them."""
    waiting: list[socket.socket] = []
    # Ends when none is left, or when no more files may be opened.
    with suppress(OSError):
        while len(waiting) < ACCEPTED_MAX:
            waiting.append(listener.accept()[0])
    return waiting


async def serve_accepted(runner: web.AppRunner, connections: list[socket.socket]) -> None:
    """Serve connections that were accepted by hand."""
    loop = asyncio.get_running_loop()
    for connection in connections:
        connection.setblocking(False)
        with suppress(OSError):
            await loop.connect_accepted_socket(cast("Any", runner.server), connection)


def create_runner(app: web.Application, config: Config) -> web.AppRunner:
    """The server around the application, with the options that a proxy needs."""
    return Runner(
        app,
        access_log=None,
        connections_max=config.server.connections_max,
        header_timeout_s=config.server.header_timeout_s,
        keepalive_timeout=config.server.keepalive_timeout_s,
        # A coded body goes to the agent as it came.
        auto_decompress=False,
        # A caller who leaves ends the agent's work, and the money with it.
        handler_cancellation=True,
        shutdown_timeout=config.server.drain_timeout_s,
    )


def spare_collections() -> None:
    """Have the garbage collector come less often, and never look at what the start left behind.

    Calls that succeed leave no cycles behind. With Python's defaults a twelfth of a call's time
    went into looking for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def stop_signal(lifeline: int) -> None:
    """Return when this process should stop.

    The supervisor holds the other end of the lifeline: it closes with the supervisor, even if
    that was killed and could send no signal.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(lifeline, stop.set)
    await stop.wait()
    loop.remove_reader(lifeline)


def log_loop_error(
    descriptors: Descriptors, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    """Log what nobody caught as one line; asyncio itself would write several."""
    error = context.get("exception")
    if not descriptors.is_exhaustion(error):
        log.error("loop_error", message=context.get("message"), exc_info=error)
