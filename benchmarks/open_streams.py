"""What a worker holds: after its first call, and with 1,000 streams open."""

import socket
from contextlib import ExitStack

from benchmarks import memory
from benchmarks.contestants import Contestant
from benchmarks.load import READ_BYTES, request
from benchmarks.processes import memory_per_worker_bytes
from benchmarks.report import Row, Target
from benchmarks.suite import Suite

STREAMS = 1_000
MB = 1_000_000
STALLED_TARGET = Target("below", memory.STALLED_GROWTH_MB_MAX)


async def measure(suite: Suite) -> list[Row]:
    """Everybody's memory per worker, and the gateway's growth with readers that stall."""
    gateways, peers = await suite.gateways(), await suite.peers("nginx", "naive-tuned")
    rows = []
    for contestant in (*gateways, *peers.values()):
        with ExitStack() as stack:
            _open(contestant, 1, stack)
            idle = memory_per_worker_bytes(contestant.process_id)
            _open(contestant, STREAMS, stack)
            streaming = memory_per_worker_bytes(contestant.process_id)
        rows.append(Row("memory per worker, idle", contestant.name, idle / MB, "MB"))
        rows.append(Row("... with 1,000 open streams", contestant.name, streaming / MB, "MB"))
    stalled_mb = await memory.growth_mb("endless", memory.STALLED_READERS)
    what = f"growth, {memory.STALLED_READERS} stalled readers"
    return [*rows, Row(what, gateways[0].name, stalled_mb, "MB", target=STALLED_TARGET)]


def _open(contestant: Contestant, count: int, stack: ExitStack) -> None:
    """Begin streams, and read their first event."""
    paths = contestant.paths("/idle")
    for number in range(count):
        address = ("127.0.0.1", contestant.port)
        connection = stack.enter_context(socket.create_connection(address))
        connection.sendall(request(paths[number % len(paths)]))
        received = b""
        while b"data: " not in received:
            part = connection.recv(READ_BYTES)
            assert part, (contestant.name, received)
            received += part
