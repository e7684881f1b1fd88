"""The benchmarks' small parts: what they make of figures, and of what callers and agents got."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from benchmarks import agent, hold_ups
from benchmarks.contestants import Contestant
from benchmarks.load import is_whole, request
from benchmarks.outcomes import Caller, Response, Tally, call_times, reached
from benchmarks.report import Percentiles, Row, Target, added_rows, as_json, median_percentiles
from benchmarks.watch import now, worker_started_at


@pytest.mark.parametrize(
    ("row", "is_reached"),
    [
        (Row("calls/s", "nginx", 100, "calls/s", 0.15, Target("at least", 0.15)), True),
        (Row("calls/s", "nginx", 100, "calls/s", 0.14, Target("at least", 0.15)), False),
        (Row("503, p99", "gateway", 9.9, "ms", None, Target("below", 10)), True),  # no ratio
        (Row("503, p99", "gateway", 10, "ms", None, Target("below", 10)), False),
        (Row("calls/s", "no proxy", 100, "calls/s", 0.04), None),
    ],
)
def test_a_target_is_held_against_the_ratio_or_else_the_figure(row, is_reached):
    assert row.is_reached is is_reached


def test_one_disturbed_round_does_not_decide():
    quiet, disturbed = [1.0] * 100, [50.0] * 100
    assert median_percentiles([quiet, disturbed, quiet]) == (1.0, 1.0)


def test_what_is_added_is_what_goes_beyond_calling_the_agent():
    taken = {
        "no proxy": Percentiles(1, 2),
        "gateway": Percentiles(2, 4),
        "nginx": Percentiles(1.5, 3),
        "lucky": Percentiles(0.9, 3),  # faster than no proxy is noise, and no ratio
    }
    rows = added_rows("call", "ms", "no proxy", "gateway", taken, {"nginx": Target("below", 3)})
    p50 = {row.who: (row.figure, row.ratio) for row in rows if row.what == "call, added p50"}
    assert p50 == {"gateway": (1, None), "nginx": (0.5, 2), "lucky": (pytest.approx(-0.1), None)}


def test_the_table_and_the_json_tell_the_same():
    row = Row("calls/s", "nginx", 24_986.3, "calls/s", 0.07, Target("at least", 0.15))
    told = ["calls/s", "nginx", "24,986", "calls/s", "0.070", "at", "least", "0.15:", "MISSED"]
    assert str(row).split() == told
    run = as_json({"cores": 2}, [row], ["skipped: wrk is not installed"])
    assert run["rows"] == [
        {
            "what": "calls/s",
            "who": "nginx",
            "figure": 24_986.3,
            "unit": "calls/s",
            "ratio": 0.07,
            "target": {"relation": "at least", "bound": 0.15},
            "is_reached": False,
        }
    ]


@pytest.mark.parametrize(
    ("answer", "is_all_here"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Len", False),  # not even a head
    ],
)
def test_an_answer_ends_with_its_length_or_its_last_chunk(answer, is_all_here):
    assert is_whole(answer) is is_all_here


@pytest.mark.parametrize(
    ("response", "is_passed", "is_success"),
    [
        (Response(200, False, 1), True, True),
        (Response(200, True, 1), True, False),  # unchecked is no success of the check
        (Response(502, True, 1), True, False),  # unchecked, and then the agent was away
        (Response(402, False, 1), False, False),
        (Response(503, False, 1), False, False),
    ],
)
def test_a_call_passed_if_it_was_forwarded_or_marked_as_unchecked(response, is_passed, is_success):
    assert (response.is_passed, response.is_success) == (is_passed, is_success)


@pytest.mark.parametrize(("reached_count", "passed"), [(0, 1), (3, 3)])
def test_the_larger_of_the_callers_and_the_agents_count_has_passed(reached_count, passed):
    tally = Tally()
    for status in (200, 402, 503, 503):
        tally.add(Response(status, False, 1))
    rows = {row.what: row.figure for row in tally.rows("crowd", "gateway", reached_count)}
    assert rows == {"crowd: passed": passed, "crowd: 402": 1, "crowd: 503": 2}


async def test_the_agent_counts_what_reaches_it_at_each_path():
    server = await asyncio.get_running_loop().create_server(agent.Agent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tally = await call_times(port, request("/blocked", b"{}"), 3, 7)
        counts = await asyncio.to_thread(reached, Contestant("agent", port, 0), "/blocked")
    assert tally.statuses == {200: 7}
    assert counts == 7


async def test_a_caller_connects_anew_after_a_response_that_closes():
    connections = []

    async def answer(reader, writer):
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        fields = b"Content-Length: 0\r\nConnection: close\r\nBudget-Check: skipped\r\n"
        writer.write(b"HTTP/1.1 503 Busy\r\n" + fields + b"\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        caller = Caller(server.sockets[0].getsockname()[1])
        for _ in range(2):
            response = await caller.call(request("/"))
            assert (response.status, response.is_marked) == (503, True)
        caller.close()
    assert len(connections) == 2


def test_the_large_body_has_as_many_keys_and_bytes_as_it_says():
    body = hold_ups.large_body()
    assert len(body) == hold_ups.LARGE_BYTES
    assert len(json.loads(body)["params"]) == hold_ups.LARGE_KEYS


async def test_the_start_of_a_worker_is_read_from_its_own_line_of_the_log(tmp_path):
    log = tmp_path / "gateway.log"
    logged = datetime.now(UTC).isoformat()
    lines = [
        {"event": "worker_started", "process_id": 1, "timestamp": "2026-01-01T00:00:00Z"},
        {"event": "worker_started", "process_id": 2, "timestamp": logged},
    ]
    log.write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))
    assert await worker_started_at(log, 2) == pytest.approx(now(), abs=60)
    assert await worker_started_at(log, 1) < now() - 60
