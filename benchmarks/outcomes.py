"""What became of calls, by the status and the `Budget-Check` field of their responses.

A crowd (wrk) sends one request without a pause. Callers in Python are fewer, and record how long
each call took.
"""

import asyncio
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.contestants import Contestant
from benchmarks.load import READ_BYTES, is_whole
from benchmarks.processes import ask
from benchmarks.report import Row, Target

SCRIPT = Path(__file__).with_name("outcomes.lua")
CALL_TIMEOUT_S = 10.0
NONE = Target("below", 1)


class Response(NamedTuple):
    """What a caller got."""

    status: int
    is_marked: bool
    duration_ms: float

    @property
    def is_success(self) -> bool:
        """Whether the agent answered, and the budget was checked before."""
        return self.status == 200 and not self.is_marked

    @property
    def is_marked_success(self) -> bool:
        """Whether the agent answered, and the budget was not checked before."""
        return self.status == 200 and self.is_marked

    @property
    def is_passed(self) -> bool:
        """Whether the call went to the agent, or would have without a failure on the way."""
        return self.status == 200 or self.is_marked


@dataclass(slots=True)
class Tally:
    """What became of many calls."""

    statuses: Counter[int] = field(default_factory=Counter)
    passed: int = 0
    unanswered: int = 0
    duration_s: float = 0.0
    responses: list[Response] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Calls that were refused over budget, or shed."""
        return self.statuses[402] + self.statuses[503]

    def add(self, response: Response) -> None:
        """Count a response."""
        self.statuses[response.status] += 1
        self.passed += response.is_passed
        self.responses.append(response)

    def rows(self, what: str, who: str, reached: int) -> list[Row]:
        """What became of calls to a workspace without budget; `reached` is the agent's count."""
        passed = max(self.passed, reached)
        rows = [Row(f"{what}: passed", who, passed, "calls", target=NONE)]
        rows += [
            Row(f"{what}: {status}", who, self.statuses[status], "calls") for status in (402, 503)
        ]
        others = self.statuses.total() - self.refused - self.statuses[200]
        for name, count in (("other status", others), ("unanswered", self.unanswered)):
            if count:
                rows.append(Row(f"{what}: {name}", who, count, "calls"))
        return rows


def reached(agent: Contestant, path: str) -> int:
    """How many requests the agent has had at this path."""
    counts: dict[str, int] = json.loads(ask(agent.port, "/counts"))
    return counts.get(path, 0)


async def crowd(
    port: int, connections: int, duration_s: float, sent: bytes, enough: int = 0
) -> Tally:
    """Send one request on so many connections without a pause; end early at `enough` refusals."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(sent)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s"]
        timeout = ["--timeout", f"{CALL_TIMEOUT_S:.0f}s"]
        url = ["-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--"]
        process = await asyncio.create_subprocess_exec(
            *("wrk", *options, *timeout, *url, file.name, str(enough)), stdout=subprocess.PIPE
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    counted = json.loads(output.splitlines()[-1])
    statuses = Counter({int(status): count for status, count in counted.pop("statuses").items()})
    return Tally(statuses, **counted)


class Caller:
    """One connection that is opened anew where the gateway closed it; one call at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, sent: bytes) -> Response:
        """Send a request and read its response. Raises OSError where there is none."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                response = await self._exchange(sent)
        except BaseException:
            self.close()
            raise
        duration_ms = (time.perf_counter() - started) * 1000
        head = response.partition(b"\r\n\r\n")[0].lower()
        if b"\r\nconnection: close" in head:
            self.close()
        is_marked = b"\r\nbudget-check: skipped" in head
        return Response(int(response.split(b" ", 2)[1]), is_marked, duration_ms)

    async def _exchange(self, sent: bytes) -> bytes:
        if self._reader is None or self._reader.at_eof():
            self.close()
            connecting = asyncio.open_connection("127.0.0.1", self._port)
            self._reader, self._writer = await connecting
        assert self._writer is not None
        self._writer.write(sent)
        response = b""
        while not is_whole(response):
            part = await self._reader.read(READ_BYTES)
            if not part:
                raise ConnectionError("the gateway closed the connection")
            response += part
        return response

    @property
    def local_port(self) -> int | None:
        """This end of the connection, while there is one."""
        if self._writer is None:
            return None
        return int(self._writer.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


@asynccontextmanager
async def calling(
    port: int, sent: bytes, callers: int, interval_s: float = 0.0
) -> AsyncIterator[Tally]:
    """So many callers for as long as this is open, each with a call every `interval_s`."""
    tally, started = Tally(), time.perf_counter()
    is_over = asyncio.Event()
    tasks = [
        asyncio.create_task(
            _call_on(port, sent, tally, interval_s, number / callers, is_over.is_set)
        )
        for number in range(callers)
    ]
    try:
        yield tally
        tally.duration_s = time.perf_counter() - started
        is_over.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def call_times(port: int, sent: bytes, callers: int, count: int) -> Tally:
    """So many calls, on so many connections, without a pause."""
    tally, turns = Tally(), iter(range(count))
    tasks = [
        _call_on(port, sent, tally, 0, 0, lambda: next(turns, None) is None) for _ in range(callers)
    ]
    await asyncio.gather(*tasks)
    return tally


async def _call_on(
    port: int,
    sent: bytes,
    tally: Tally,
    interval_s: float,
    offset: float,
    is_over: Callable[[], bool],
) -> None:
    """Call until it is over; a call that took longer than the interval delays the next one."""
    caller = Caller(port)
    due = time.perf_counter() + offset * interval_s
    while not is_over():
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due = max(due + interval_s, time.perf_counter() - interval_s)
        try:
            tally.add(await caller.call(sent))
        except OSError:
            tally.unanswered += 1
    caller.close()
