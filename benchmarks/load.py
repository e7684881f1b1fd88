"""Calls without a pause, on many connections or on one: wrk where it is installed, else our own."""

import asyncio
import json
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.contestants import Contestant

SCRIPT = Path(__file__).with_name("calls.lua")
HAS_WRK = shutil.which("wrk") is not None
GENERATOR = "wrk" if HAS_WRK else "a raw asyncio client (wrk is not installed)"
READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Load:
    """What was answered in a while."""

    calls: int
    failed: int
    duration_s: float

    @property
    def calls_a_second(self) -> float:
        """Only what was answered well counts."""
        return (self.calls - self.failed) / self.duration_s


def load(
    contestant: Contestant, connections: int, duration_s: float, size_bytes: int, tail: str = ""
) -> Load:
    """Call on so many connections, each without a pause, for a while."""
    body, paths = contestant.body(size_bytes), contestant.paths(tail)
    if HAS_WRK:
        return _wrk(contestant.port, connections, duration_s, body, paths)
    requests = [request(path, body) for path in paths]
    with ThreadPoolExecutor(1) as thread:  # the suite's own loop runs in this one
        calling = _raw(contestant.port, connections, duration_s, requests)
        return thread.submit(uvloop.run, calling).result()


def request(path: str, body: bytes | None = None) -> bytes:
    """A POST with a body, or a GET."""
    fields = b"Host: benchmark\r\n"
    if body is not None:
        fields += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    method = b"GET" if body is None else b"POST"
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, path.encode(), fields, body or b"")


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer is here, by its length or its last chunk."""
    head, end, body = answer.partition(b"\r\n\r\n")
    _, is_known, rest = head.lower().partition(b"content-length:")
    if is_known:
        return len(body) >= int(rest.partition(b"\r\n")[0])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def is_good(answer: bytes) -> bool:
    """Whether the status is 200."""
    return answer.startswith(b"HTTP/1.1 200 ")


def durations_ms(contestant: Contestant, duration_s: float, size_bytes: int) -> list[float]:
    """How long each call took on one connection, one after another.

    A blocking socket: an event loop's own turn would be a large part of what is measured.
    """
    requests = [request(path, contestant.body(size_bytes)) for path in contestant.paths()]
    durations: list[float] = []
    with socket.create_connection(("127.0.0.1", contestant.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + duration_s
        while (started := time.perf_counter()) < end:
            connection.sendall(requests[len(durations) % len(requests)])
            answer = _read_answer(connection)
            durations.append((time.perf_counter() - started) * 1000)
            assert is_good(answer), (contestant.name, answer)
    return durations


def _read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while not is_whole(answer):
        part = connection.recv(READ_BYTES)
        assert part, answer
        answer += part
    return answer


def _wrk(port: int, connections: int, duration_s: float, body: bytes, paths: list[str]) -> Load:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s", "--timeout", "10s"]
        command = ["wrk", *options, "-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--"]
        output = subprocess.run(
            [*command, file.name, *paths], capture_output=True, text=True, check=True
        ).stdout
    return Load(**json.loads(output.splitlines()[-1]))


async def _raw(port: int, connections: int, duration_s: float, requests: list[bytes]) -> Load:
    loop, callers = asyncio.get_running_loop(), []
    started = time.perf_counter()
    for number in range(connections):
        turned = requests[number % len(requests) :] + requests[: number % len(requests)]
        caller_for = partial(_Caller, turned)
        _, caller = await loop.create_connection(caller_for, "127.0.0.1", port)
        callers.append(caller)
    await asyncio.sleep(duration_s)
    for caller in callers:
        caller.transport.abort()
    calls, failed = sum(each.calls for each in callers), sum(each.failed for each in callers)
    return Load(calls, failed, time.perf_counter() - started)


class _Caller(asyncio.Protocol):
    """One connection that calls without a pause."""

    transport: asyncio.Transport

    def __init__(self, requests: list[bytes]) -> None:
        self._requests, self._answer = requests, b""
        self.calls = self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._requests[0])

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if is_whole(self._answer):
            self.calls += 1
            self.failed += not is_good(self._answer)
            self._answer = b""
            self.transport.write(self._requests[self.calls % len(self._requests)])
