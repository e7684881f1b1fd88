"""One worker as the supervisor sees it: a process that is started, watched, told to end, reaped."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.lifeline import Deadlines, SupervisorEnd
from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.web.metrics_folder import FOLDER_VARIABLE, ensure_folder

log = structlog.get_logger()

# How long a new worker may take until it serves; and how long its end may take before that.
START_TIMEOUT_S = 60.0
STOP_BEFORE_SERVING_S = 5.0

# The worker's time is counted in slices, each counted once however late its timer fires: after a
# suspension of the machine, or where this process was starved, no time is charged to the worker
# in which it could not speak, or in which nobody listened.
SLICE_S = 1.0

# How long the callback for an ended worker may take before the next one may run beside it.
ON_ENDED_TIMEOUT_S = 10.0

# Told to workers by the environment, as everything else is.
DSN_VARIABLE = "GATEWAY_DATABASE__DSN"


def _nothing(_process_id: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What every worker is given. `on_ended` is called in a thread after a worker's end."""

    config_file: str | None
    settings: DatabaseSettings
    keys: WorkspaceKeys
    listener: socket.socket
    metrics_folder: str
    snapshot: Path
    # For the one line of a worker that cannot read its configuration.
    log_format: str | None = None
    on_ended: Callable[[int], None] = _nothing
    # Whether the supervisor knows that the database is away; asked before a worker has said so.
    is_database_away: Callable[[], bool] = bool

    async def start(self, *, is_database_away: bool = False) -> "Worker":
        """Start a worker. Raises OSError where there is no memory or no process for it.

        One that is told that the database is away does not wait for it.
        """
        ours, its = SupervisorEnd.pair()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments(its.fileno(), is_database_away=is_database_away),
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

    async def end(self, process_id: int) -> None:
        """Call `on_ended`, off the loop; whatever becomes of it, the workers go on."""
        try:
            async with asyncio.timeout(ON_ENDED_TIMEOUT_S):
                await asyncio.to_thread(self.on_ended, process_id)
        except Exception as error:
            cause = type(error).__name__
            log.exception("ended_worker_not_handled", process_id=process_id, cause=cause)

    def _arguments(self, lifeline: int, *, is_database_away: bool) -> list[str]:
        arguments = [sys.executable, "-m", "gateway", "worker"]
        arguments += ["--listener", str(self.listener.fileno()), "--lifeline", str(lifeline)]
        arguments += ["--snapshot", str(self.snapshot)]
        arguments += ["--id-type", self.keys.id_type] if self.keys.id_type else []
        arguments += ["--database-away"] if is_database_away else []
        arguments += ["--log-format", self.log_format] if self.log_format else []
        return arguments + (["--config", self.config_file] if self.config_file else [])

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        variables = {**environment, DSN_VARIABLE: self.settings.dsn}
        try:
            # Something that clears temporary folders may have removed it.
            ensure_folder(Path(self.metrics_folder))
        except OSError as error:
            # A worker that counts for itself alone is better than none.
            log.error("metrics_folder_not_made", cause=type(error).__name__)
            return variables
        return {**variables, FOLDER_VARIABLE: self.metrics_folder}


class Worker:
    """One process that serves. `left` is set when it ended, or was told to retire."""

    def __init__(self, process: Process, lifeline: SupervisorEnd) -> None:
        self.process_id = process.pid
        self.is_retired = False
        self.left = asyncio.Event()
        self.ended = asyncio.Event()
        self._process = process
        self._lifeline = lifeline
        self._silent_s = 0.0
        # Until it must have ended, once it was told to.
        self._left_s: float | None = None
        self._serving_since: float | None = None

    @property
    def is_database_away(self) -> bool | None:
        """What it said last of the database; None if it did not say."""
        return self._lifeline.is_database_away

    @property
    def status(self) -> int | None:
        """Its exit status, or the negative number of the signal that killed it."""
        return self._process.returncode

    @property
    def served_s(self) -> float | None:
        """How long it has served; None if it never did."""
        if self._serving_since is None:
            return None
        return asyncio.get_running_loop().time() - self._serving_since

    async def is_serving(self) -> bool:
        """Wait until it takes calls; False if it ends, or is killed as late, before it does."""
        # Others may wait for the same, and this one may be cancelled.
        if await asyncio.shield(self._lifeline.deadlines) is None:
            return False
        if self._serving_since is None:
            self._serving_since = asyncio.get_running_loop().time()
        return True

    async def live(self) -> None:
        """Watch it until it ended, and kill it if it hangs."""
        ending = asyncio.create_task(self._process.wait())
        while not ending.done():
            await asyncio.wait({ending}, timeout=SLICE_S)
            if not ending.done() and self._hangs_after_slice():
                log.error("worker_hung", process_id=self.process_id, silent_s=self._silent_s)
                with suppress(ProcessLookupError):
                    self._process.kill()
                await ending
        self._lifeline.close()
        self.ended.set()
        self.left.set()

    def retire(self) -> None:
        """Ask it to finish its calls, which may take long, because another one serves."""
        self.is_retired = True
        self._lifeline.say_retire()
        self._end_within(self._deadlines.retire_s)
        self.left.set()

    def terminate(self) -> None:
        """Ask it to finish its calls soon and end."""
        self._end_within(self._deadlines.stop_s)
        with suppress(ProcessLookupError):
            self._process.terminate()

    @property
    def _deadlines(self) -> Deadlines:
        told = self._lifeline.deadlines
        deadlines = told.result() if told.done() else None
        return deadlines or Deadlines(START_TIMEOUT_S, STOP_BEFORE_SERVING_S, STOP_BEFORE_SERVING_S)

    def _end_within(self, end_s: float) -> None:
        self._left_s = end_s if self._left_s is None else min(self._left_s, end_s)

    def _hangs_after_slice(self) -> bool:
        """Count a slice, and tell whether the worker was silent or its end took for too long."""
        self._silent_s = 0.0 if self._lifeline.has_spoken() else self._silent_s + SLICE_S
        if self._left_s is not None:
            self._left_s -= SLICE_S
        is_late = self._left_s is not None and self._left_s <= 0
        return is_late or self._silent_s >= self._deadlines.silent_s
