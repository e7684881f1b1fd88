"""What a proxy adds to the way of an event: from the agent's write to the caller's read."""

import socket
import time

from benchmarks.contestants import Contestant
from benchmarks.load import READ_BYTES, request
from benchmarks.report import Row, added_rows, median_percentiles
from benchmarks.suite import Suite

STREAMS_A_TURN = 3


async def measure(suite: Suite) -> list[Row]:
    """What everybody adds, p50 and p99."""
    gateways, peers = await suite.gateways(), await suite.peers("nginx", "naive-tuned")
    direct = suite.agent()
    rounds = suite.in_turns([direct, *gateways, *peers.values()], _delays_ms)
    taken = {name: median_percentiles(each) for name, each in rounds.items()}
    return added_rows("SSE event", "ms", direct.name, gateways[0].name, taken, {})


def _delays_ms(contestant: Contestant) -> list[float]:
    return [delay for _ in range(STREAMS_A_TURN) for delay in _delays_of_stream_ms(contestant)]


def _delays_of_stream_ms(contestant: Contestant) -> list[float]:
    delays, unread = [], b""
    with socket.create_connection(("127.0.0.1", contestant.port)) as connection:
        connection.sendall(request(contestant.paths("/events")[0]))
        while not unread.endswith(b"0\r\n\r\n"):
            received = connection.recv(READ_BYTES)
            now = time.monotonic_ns()
            assert received, (contestant.name, unread)
            *events, unread = (unread + received).split(b"\n\n")
            written = [int(event.rpartition(b"data: ")[2]) for event in events]
            delays += [(now - each) / 1e6 for each in written]
    return delays
