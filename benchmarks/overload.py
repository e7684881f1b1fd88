"""What it does to accepted calls that ten times as many come, and how soon the others are told.

A gateway with room for 64 calls, an agent that takes 100 ms. First as many callers as there is
room for, then ten times as many; who is refused comes again after about the second it was told.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

from benchmarks.agent import WORK_S
from benchmarks.contestants import Contestant
from benchmarks.load import READ_BYTES, is_good, is_whole, request
from benchmarks.report import Row, Target, percentiles
from benchmarks.suite import Suite

CALLS_MAX = 64
OVERLOAD = 10
PAUSE_S = 1.0
REFUSED_TARGET = Target("below", 10)
ACCEPTED_TARGET = Target("below", 1.1)


@dataclass(slots=True)
class Answers:
    """How soon calls were answered."""

    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    is_told_when: bool = True


async def measure(suite: Suite) -> list[Row]:
    """Accepted and refused calls; the ratio is the accepted ones' over those without overload."""
    own = await suite.gateway("gateway with 64 places", rows=10, proxy__calls_max=CALLS_MAX)
    alone = await _call(own, CALLS_MAX, suite.round_s)
    crowded = await _call(own, OVERLOAD * CALLS_MAX, 2 * suite.round_s)
    if not crowded.is_told_when:
        suite.note("failed: a refusal has no Retry-After")
    before, accepted = percentiles(alone.accepted_ms), percentiles(crowded.accepted_ms)
    refused = percentiles(crowded.refused_ms)
    over = accepted.p50 / before.p50
    return [
        Row("accepted, 64 callers, p50", own.name, before.p50, "ms"),
        Row("accepted, 64 callers, p99", own.name, before.p99, "ms"),
        Row(
            "accepted, 640 callers, p50 / 64 callers",
            own.name,
            accepted.p50,
            "ms",
            over,
            ACCEPTED_TARGET,
        ),
        Row(
            "accepted, 640 callers, p99 / 64 callers",
            own.name,
            accepted.p99,
            "ms",
            accepted.p99 / before.p99,
        ),
        Row("503, 640 callers, p50", own.name, refused.p50, "ms", target=REFUSED_TARGET),
        Row("503, 640 callers, p99", own.name, refused.p99, "ms", target=REFUSED_TARGET),
    ]


async def _call(contestant: Contestant, callers: int, duration_s: float) -> Answers:
    """All callers' answers; everybody is connected before the first calls."""
    connections = [
        await asyncio.open_connection("127.0.0.1", contestant.port) for _ in range(callers)
    ]
    paths, body = contestant.paths("/work"), contestant.body(200)
    answers, end = Answers(), time.monotonic() + duration_s
    calling = []
    for number, connection in enumerate(connections):
        # The first take all the room within the time of a call, so that they do not go on in step.
        pause_s = random.uniform(0, WORK_S if number < CALLS_MAX else PAUSE_S)
        sent = request(paths[number % len(paths)], body)
        calling.append(_call_on(*connection, sent, pause_s, end, answers))
    await asyncio.gather(*calling)
    return answers


async def _call_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    sent: bytes,
    pause_s: float,
    end: float,
    answers: Answers,
) -> None:
    await asyncio.sleep(pause_s)
    while (started := time.monotonic()) < end:
        writer.write(sent)
        answer = b""
        while not is_whole(answer):
            part = await reader.read(READ_BYTES)
            assert part, answer
            answer += part
        duration_ms = (time.monotonic() - started) * 1000
        if is_good(answer):
            answers.accepted_ms.append(duration_ms)
            continue
        assert b" 503 " in answer[:20], answer
        answers.refused_ms.append(duration_ms)
        answers.is_told_when &= b"retry-after:" in answer.lower()
        await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE_S)
    writer.transport.abort()
