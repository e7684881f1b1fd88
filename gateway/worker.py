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
from gateway.config import BACKLOG, Config, Database
from gateway.lifeline import Deadlines, WorkerEnd
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.web.descriptors import DESCRIPTORS, Descriptors
from gateway.web.drain import DRAIN, Drain
from gateway.web.server import Runner
from gateway.web.services import SERVICES

log = structlog.get_logger()

ACCEPTED_PER_TURN = 8
# How long a caller with a connection may still send a call on it after the last was accepted.
SERVE_ON_S = 0.4
# What is no call, such as an operator's request, has its own deadlines; it may take that long when
# all calls ended, and that long again once it was cancelled.
REQUESTS_END_S = 3.0
# Beside what has a deadline of its own.
CLOSE_MARGIN_S = 2.0
# A loop that turns not for less than this is busy, and does not hang.
SILENT_MIN_S = 5.0


async def work(
    config: Config,
    keys: WorkspaceKeys,
    listener: socket.socket,
    lifeline: WorkerEnd,
    snapshot: Path | None = None,
    is_database_away: bool = False,
) -> None:
    """Serve until told to end, by a signal or on the lifeline; then finish the calls in flight."""
    app = create_app(config, keys, snapshot, is_database_away=is_database_away)
    asyncio.get_running_loop().set_exception_handler(partial(log_loop_error, app[DESCRIPTORS]))
    runner = create_runner(app, config)
    await runner.setup()
    sites = await accept_on(runner, listener)
    spare_collections()
    log.info("worker_started", process_id=os.getpid())
    follow_signals(app[DRAIN], lifeline)
    gate = app[SERVICES].gate
    lifeline.begin(deadlines_of(config), lambda: gate.is_open)
    await app[DRAIN].begun.wait()
    app[SERVICES].is_draining = True
    await asyncio.sleep(config.server.drain_delay_s)
    waiting = accept_waiting(listener)
    for site in sites:
        await site.stop()
    await serve_accepted(runner, waiting)
    await asyncio.sleep(SERVE_ON_S)
    await runner.cleanup()
    log.info("worker_stopped", process_id=os.getpid())


async def accept_on(runner: web.AppRunner, listener: socket.socket) -> list[web.BaseSite]:
    """Accept connections from the listener, several in a turn of the event loop.

    uvloop accepts one from each socket in a turn, which is why the listener is there several times.
    Where turns are long and many callers connect, the others would wait for seconds.
    """
    listeners = [listener, *(listener.dup() for _ in range(ACCEPTED_PER_TURN - 1))]
    # They listen anew, and would let 128 wait by default.
    sites = [web.SockSite(runner, each, backlog=BACKLOG) for each in listeners]
    for site in sites:
        await site.start()
    return list(sites)


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait: if nobody else has the listener, its close would reset them."""
    waiting: list[socket.socket] = []
    # Ends when none is left, or when no more files may be opened.
    with suppress(OSError):
        while len(waiting) < BACKLOG:
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
        # For what is no call, which `finish_calls` waits for. aiohttp takes 0 for no limit.
        shutdown_timeout=min(config.server.drain_timeout_s, REQUESTS_END_S) or 0.1,
    )


def spare_collections() -> None:
    """Have the garbage collector come less often, and never look at what the start left behind.

    Calls that succeed leave no cycles behind. With Python's defaults a twelfth of a call's time
    went into looking for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def deadlines_of(config: Config) -> Deadlines:
    """When the supervisor should take this process for one that hangs."""
    server = config.server
    close_s = server.drain_delay_s + SERVE_ON_S + close_timeout_s(config.database)
    return Deadlines(
        silent_s=max(server.drain_timeout_s, SILENT_MIN_S),
        stop_s=close_s + server.drain_timeout_s,
        retire_s=close_s + server.reload_drain_timeout_s,
    )


def close_timeout_s(database: Database) -> float:
    """How long the end may take beside calls: other requests, the last writes, connections."""
    # A group of heartbeats, and those of them that are written again one by one.
    writes_s = 2 * database.query_timeout_ms / 1000
    return 2 * REQUESTS_END_S + writes_s + database.connect_timeout_ms / 1000 + CLOSE_MARGIN_S


def follow_signals(drain: Drain, lifeline: WorkerEnd) -> None:
    """Begin to drain when this process should stop.

    The end of the supervisor is like SIGTERM, which it could not send if it was killed.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain.terminate)
    lifeline.follow(on_retire=drain.retire, on_end=drain.terminate)


def log_loop_error(
    descriptors: Descriptors, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    """Log what nobody caught as one line; asyncio itself would write several."""
    error = context.get("exception")
    if not descriptors.is_exhaustion(error):
        log.error("loop_error", message=context.get("message"), exc_info=error)
