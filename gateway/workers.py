"""The processes that serve: started, kept running, replaced one by one, and ended.

All of them take connections from one listening socket, which the supervisor holds: a connection
that waits to be accepted is lost with none of them.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from gateway.worker_process import Worker, WorkerCommand

log = structlog.get_logger()

# A worker that served for longer is not in a loop of crashes.
STABLE_S = 10.0
# So often in a row a worker that served is restarted at once, however soon it ended.
RESTARTS_AT_ONCE = 3
RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 10.0

# Workers that finish their calls after a reload, for each one that serves. They add up where
# calls last longer than the time between two reloads, and each takes the memory of a worker.
RETIRED_PER_WORKER_MAX = 3


@dataclass(slots=True)
class BackOff:
    """How long one slot waits for its next worker. It is the first that callers wait for."""

    _ends: int = 0

    def delay_s(self, served_s: float | None) -> float:
        """Seconds until the restart of a worker that served for so long; None is never."""
        if served_s is not None and served_s >= STABLE_S:
            self._ends = 0
            return 0.0
        self._ends += 1
        beyond = self._ends - (0 if served_s is None else RESTARTS_AT_ONCE)
        if beyond <= 0:
            return 0.0
        # The power is bounded, because it would outgrow a float.
        return min(RESTART_DELAY_S * (1 << min(beyond - 1, 10)), RESTART_DELAY_MAX_S)


@dataclass(slots=True)
class _Slot:
    """The place of one worker; `starting` is held while a new one comes to serve."""

    worker: Worker | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Workers:
    """As many workers as there should be, until `stop` is set."""

    command: WorkerCommand
    count: int
    stop: asyncio.Event
    is_serving: asyncio.Event = field(default_factory=asyncio.Event)
    _slots: list[_Slot] = field(default_factory=list)
    # Every process that has not been reaped, the oldest first, and the task that watches it.
    _lives: dict[Worker, asyncio.Task[None]] = field(default_factory=dict)
    _ending: asyncio.Lock = field(default_factory=asyncio.Lock)
    _was_database_away: bool = False

    async def run(self) -> None:
        """Keep the workers running; when told to stop, end them and wait for their ends."""
        self._slots = [_Slot() for _ in range(self.count)]
        keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        for keeper in keepers:
            # One that fails would else be seen only at the end.
            keeper.add_done_callback(lambda _: self.stop.set())
        await self.stop.wait()
        self.terminate()
        try:
            await asyncio.gather(*keepers)
        finally:
            await asyncio.gather(*self._lives.values())

    async def replace(self) -> None:
        """Put a new process in every worker's place, one after another; no call is lost.

        An old one retires: it finishes its calls, and nobody waits for that. A new one that does
        not come to serve, because of a mistake in the configuration maybe, ends the replacement,
        and the old ones go on.
        """
        for slot in self._slots:
            await self._limit_retired()
            if not await self._replace_in(slot):
                log.error("workers_not_replaced")
                return
        log.info("workers_replaced", count=self.count)

    def terminate(self) -> None:
        """Ask every worker to end, those too that retired."""
        for worker in self._lives:
            worker.terminate()

    async def _keep(self, slot: _Slot) -> None:
        """Have one worker serve, and another when it ends before it should."""
        back_off = BackOff()
        while not self.stop.is_set():
            worker = await self._serving_in(slot)
            if worker is not None:
                await worker.left.wait()
            if self.stop.is_set() or slot.worker is not worker:
                continue
            slot.worker = None
            delay_s = back_off.delay_s(worker.served_s if worker else None)
            status = worker.status if worker else None
            log.error("worker_ended", status=status, restart_in_s=delay_s)
            await _wait(self.stop, delay_s)

    async def _serving_in(self, slot: _Slot) -> Worker | None:
        """The slot's worker, started if there is none; it serves, or has ended."""
        async with slot.starting:
            if slot.worker is None:
                slot.worker = await self._start()
                if slot.worker is not None and await slot.worker.is_serving():
                    self.is_serving.set()
            return slot.worker

    async def _replace_in(self, slot: _Slot) -> bool:
        async with slot.starting:
            successor = await self._start()
            if successor is None or not await successor.is_serving():
                return False
            self.is_serving.set()
            old, slot.worker = slot.worker, successor
            if old is not None:
                log.info("worker_retires", process_id=old.process_id)
                old.retire()
        return True

    async def _limit_retired(self) -> None:
        """Hurry the worker that retired first, where there are too many, and wait for its end."""
        retired_max = RETIRED_PER_WORKER_MAX * self.count
        while len(retired := self._retired()) >= retired_max:
            oldest = retired[0]
            log.warning("retired_worker_hurried", process_id=oldest.process_id, retired=retired_max)
            oldest.terminate()
            await oldest.ended.wait()

    def _retired(self) -> list[Worker]:
        return [each for each in self._lives if each.is_retired and not each.ended.is_set()]

    async def _start(self) -> Worker | None:
        try:
            worker = await self.command.start(is_database_away=self._is_database_away())
        except OSError as error:
            log.error("worker_not_started", cause=type(error).__name__)
            return None
        self._lives[worker] = asyncio.create_task(self._see_through(worker))
        if self.stop.is_set():
            worker.terminate()
        return worker

    def _is_database_away(self) -> bool:
        """What workers said last of the database; those that ended only if no other did."""
        said = [each.is_database_away for each in self._lives]
        known = [each for each in said if each is not None]
        was_away = self._was_database_away or self.command.is_database_away()
        return any(known) if known else was_away

    async def _see_through(self, worker: Worker) -> None:
        """Watch a worker until it ended, and clear up after it."""
        try:
            await worker.live()
            self._was_database_away = bool(worker.is_database_away)
            if worker.is_retired:
                status = worker.status
                log.info("retired_worker_ended", process_id=worker.process_id, status=status)
            # One after another: what is cleared up belongs to all of them.
            async with self._ending:
                await self.command.end(worker.process_id)
        finally:
            del self._lives[worker]


async def _wait(stop: asyncio.Event, delay_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stop.wait()
