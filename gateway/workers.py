"""The processes that serve: started, kept running, replaced one by one, and ended.

All of them take connections from one listening socket, which the supervisor holds: a connection
that waits to be accepted is lost with none of them.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import WorkspaceKeys

log = structlog.get_logger()

RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 10.0
# How long a new worker may take until it serves, before the old one is kept instead.
START_TIMEOUT_S = 60.0

# Told to workers by the environment, as everything else is.
DSN_VARIABLE = "GATEWAY_DATABASE__DSN"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What every worker is given."""

    config_file: str | None
    settings: DatabaseSettings
    keys: WorkspaceKeys
    listener: socket.socket
    metrics_folder: str
    snapshot: Path

    async def start(self) -> "Worker":
        """Start a worker. Raises OSError where there is no memory or no process for it."""
        # It sees the end of ours, which the kernel closes for us, and says on it when it serves.
        ours, its = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments(its.fileno()),
                pass_fds=(self.listener.fileno(), its.fileno()),
                env=self._environment(os.environ),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        return Worker(process, ours)

    def _arguments(self, lifeline: int) -> list[str]:
        arguments = [sys.executable, "-m", "gateway", "worker"]
        arguments += ["--listener", str(self.listener.fileno()), "--lifeline", str(lifeline)]
        arguments += ["--snapshot", str(self.snapshot)]
        arguments += ["--id-type", self.keys.id_type] if self.keys.id_type else []
        return arguments + (["--config", self.config_file] if self.config_file else [])

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {
            **environment,
            DSN_VARIABLE: self.settings.dsn,
            METRICS_VARIABLE: self.metrics_folder,
        }


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that serves."""

    process: Process
    lifeline: socket.socket

    async def is_serving(self) -> bool:
        """Wait until it takes calls, or ends before it does."""
        try:
            return bool(await asyncio.get_running_loop().sock_recv(self.lifeline, 1))
        except OSError:
            return False

    async def ended(self) -> int:
        """Wait for its end and give its status."""
        status = await self.process.wait()
        self.lifeline.close()
        return status

    def terminate(self) -> None:
        """Ask it to finish what is under way and end."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()


@dataclass(slots=True)
class _Slot:
    """The place of one worker; `successor` serves already when the worker in it is ended."""

    worker: Worker | None = None
    successor: Worker | None = None


@dataclass(slots=True)
class Workers:
    """As many workers as there should be, until `stop` is set."""

    command: WorkerCommand
    count: int
    stop: asyncio.Event
    is_serving: asyncio.Event = field(default_factory=asyncio.Event)
    _slots: list[_Slot] = field(default_factory=list)

    async def run(self) -> None:
        """Keep the workers running; when told to stop, end them and wait for their ends."""
        self._slots = [_Slot() for _ in range(self.count)]
        keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        await self.stop.wait()
        self.terminate()
        await asyncio.gather(*keepers)

    async def replace(self) -> None:
        """Put a new process in every worker's place, one after another; no call is lost.

        A new one that does not come to serve, because of a mistake in the configuration maybe,
        ends the replacement, and the old ones go on.
        """
        for slot in self._slots:
            if slot.successor is not None:
                break  # the last replacement is not complete
            successor = await self._start()
            if successor is None or not await _is_serving(successor):
                break
            slot.successor = successor
            if slot.worker is not None:
                slot.worker.terminate()
                await slot.worker.process.wait()
        else:
            log.info("workers_replaced", count=self.count)
            return
        log.error("workers_not_replaced")

    def terminate(self) -> None:
        """Ask every worker to end."""
        for slot in self._slots:
            for worker in (slot.worker, slot.successor):
                if worker is not None:
                    worker.terminate()

    async def _keep(self, slot: _Slot) -> None:
        """Run one worker, and another when it ends before it should."""
        loop = asyncio.get_running_loop()
        delay_s = RESTART_DELAY_S
        while not self.stop.is_set() or slot.successor is not None:
            started = loop.time()
            status = await self._run_one(slot)
            if self.stop.is_set() or slot.successor is not None:
                continue
            if loop.time() - started > RESTART_DELAY_MAX_S:
                delay_s = RESTART_DELAY_S
            log.error("worker_ended", status=status, restart_in_s=delay_s)
            await _wait(self.stop, delay_s)
            delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)

    async def _run_one(self, slot: _Slot) -> int | None:
        is_new = slot.successor is None
        started = await self._start() if is_new else None
        if slot.successor is not None and started is not None:
            # A replacement came in between, and serves already.
            started.terminate()
            await started.ended()
        slot.worker, slot.successor = slot.successor or started, None
        if slot.worker is None:
            return None
        if self.stop.is_set():
            slot.worker.terminate()
        if is_new and await slot.worker.is_serving():
            self.is_serving.set()
        return await slot.worker.ended()

    async def _start(self) -> Worker | None:
        try:
            return await self.command.start()
        except OSError as error:
            log.error("worker_not_started", cause=type(error).__name__)
            return None


async def _is_serving(worker: Worker) -> bool:
    """Whether a worker comes to serve; one that does not, or is not waited for, is ended."""
    is_serving = False
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                is_serving = await worker.is_serving()
    finally:
        if not is_serving:
            worker.terminate()
            await worker.ended()
    return is_serving


async def _wait(stop: asyncio.Event, delay_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stop.wait()
