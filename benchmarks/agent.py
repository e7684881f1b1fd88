"""The agent that is called, a process of its own: `python -m benchmarks.agent PORT`.

What it answers is told by the last part of the path, so that it does not matter who calls:

    large    1 MB at once
    events   100 events, one every 2 ms, each with the time.monotonic_ns() of its writing
    idle     the first event of a stream, then nothing
    work     `{}` after a tenth of a second
    counts   how many requests each path has had, as JSON
    (else)   `{}` at once
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import cast

import uvloop

LARGE_BYTES = 1_000_000
EVENTS = 100
EVENT_INTERVAL_S = 0.002
WORK_S = 0.1

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _whole(content_type: bytes, body: bytes) -> bytes:
    fields = b"Content-Type: %b\r\nContent-Length: %d" % (content_type, len(body))
    return b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, body)


SMALL = _whole(b"application/json", b'{"jsonrpc":"2.0","id":1,"result":{}}')
LARGE = _whole(b"application/octet-stream", bytes(LARGE_BYTES))

COUNTS: Counter[str] = Counter()


class Agent(asyncio.Protocol):
    """One connection; raw, so that what is measured is not the agent."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = ""
        self._body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once the whole request is here; callers do not pipeline."""
        if self._body_left > 0:
            self._body_left -= len(data)
        else:
            self._head += data
            if not (end := self._head.find(b"\r\n\r\n")) > 0:
                return
            head, begun = self._head[:end], len(self._head) - end - 4
            self._head = b""
            path = head.split(b" ", 2)[1].decode()
            self._kind = path.rpartition("/")[2]
            COUNTS[path] += 1
            self._body_left = _content_length(head) - begun
        if self._body_left <= 0:
            self._answer()

    def _answer(self) -> None:
        if self._kind == "large":
            self._transport.write(LARGE)
        elif self._kind == "events":
            self._events = asyncio.create_task(self._write_events())
        elif self._kind == "idle":
            self._transport.write(STREAM_HEAD + _event())
        elif self._kind == "counts":
            self._transport.write(_whole(b"application/json", json.dumps(COUNTS).encode()))
        elif self._kind == "work":
            asyncio.get_running_loop().call_later(WORK_S, self._transport.write, SMALL)
        else:
            self._transport.write(SMALL)

    async def _write_events(self) -> None:
        self._transport.write(STREAM_HEAD)
        for _ in range(EVENTS):
            await asyncio.sleep(EVENT_INTERVAL_S)
            self._transport.write(_event())
        self._transport.write(b"0\r\n\r\n")


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0] or b"0")


def _event() -> bytes:
    data = b"data: %d\n\n" % time.monotonic_ns()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Agent, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
