"""Where a message ends: an answer in doubt is a 502, a request to an agent never is in doubt.

RFC 9112 sections 2, 6, 7 and 11. The agents are raw sockets: nothing corrects what they send.
"""

import asyncio

import pytest

from tests.raw import (
    Message,
    RawAgent,
    RawConnection,
    answering,
    call,
    connect,
    read_messages,
    request_bytes,
    run_raw_agent,
    target_of,
)
from tests.running import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ZEBRA = b"Content-Length: 5\r\n\r\nzebra"
ZEBRA_IN_CHUNKS = b"\r\n5\r\nzebra\r\n0\r\n\r\n"

# Longer than anything a header may hold.
OVER_64_KIB = b"a" * (64 * 1024 + 1)


@pytest.mark.parametrize(
    "answer",
    [
        # RFC 9112 section 6.3: the length is told twice, or not as a number of bytes.
        pytest.param(OK + CHUNKED + ZEBRA, id="Transfer-Encoding and Content-Length"),
        pytest.param(
            OK + b"Content-Length: 5\r\n" + CHUNKED + ZEBRA_IN_CHUNKS,
            id="Content-Length and Transfer-Encoding",
        ),
        pytest.param(OK + b"Content-Length: 4\r\n" + ZEBRA, id="two lengths that differ"),
        pytest.param(OK + b"Content-Length: 5\r\n" + ZEBRA, id="two lengths that are equal"),
        *[
            pytest.param(OK + b"Content-Length: %b\r\n\r\nzebra" % length, id=f"length {name}")
            for name, length in {
                "-1": b"-1",
                "+5": b"+5",
                "0x5": b"0x5",
                "5 5": b"5 5",
                "5,5": b"5,5",
                "5.0": b"5.0",
                "empty": b"",
                # aiohttp would pass it on, without a body.
                "2^64-1": b"18446744073709551615",
                "2^64": b"18446744073709551616",
                # int() refuses what is longer than 4,300 digits.
                "of 5,001 digits": b"0" * 5000 + b"5",
            }.items()
        ],
        # RFC 9112 section 6.1: aiohttp strips one coding and passes the rest on as the body.
        *[
            pytest.param(
                OK + b"Transfer-Encoding: %b\r\n" % coding.encode() + ZEBRA_IN_CHUNKS,
                id=f"coding {coding!r}",
            )
            for coding in (
                "gzip, chunked",
                "gzip",
                "identity",
                "chunked, chunked",
                "chun\N{KELVIN SIGN}ed",
                "chunked, identity",
                "chunked;a=b",
                "xchunked",
                "\x0bchunked",
                "",
            )
        ],
        pytest.param(OK + CHUNKED + CHUNKED + ZEBRA_IN_CHUNKS, id="chunked in two fields"),
        # RFC 9112 section 5.1: a name, for some; aiohttp's parser takes it for the length.
        pytest.param(OK + b"Content-Length : 5\r\n\r\nzebra", id="length before a space"),
        pytest.param(
            OK + b"Transfer-Encoding : chunked\r\n" + ZEBRA_IN_CHUNKS, id="coding before a space"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\n" + CHUNKED + ZEBRA_IN_CHUNKS, id="HTTP 1.0 in chunks"),
        # RFC 9110 section 7.8: the gateway asks for no other protocol.
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nzebra",
            id="101 to h2c",
        ),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + ZEBRA, id="101 to nothing"),
        # The status line, RFC 9112 section 4.
        pytest.param(b"HTTP/2.0 200 OK\r\n" + ZEBRA, id="HTTP 2.0"),
        pytest.param(b"HTTP/1.2 200 OK\r\n" + ZEBRA, id="HTTP 1.2"),
        pytest.param(b"HTTP/0.9 200 OK\r\n" + ZEBRA, id="HTTP 0.9"),
        pytest.param(b"HTTP/1.1 099 OK\r\n" + ZEBRA, id="status 099"),
        pytest.param(b"HTTP/1.1 99 OK\r\n" + ZEBRA, id="status 99"),
        pytest.param(b"HTTP/1.1 1000 OK\r\n" + ZEBRA, id="status 1000"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n" + ZEBRA, id="status 2x0"),
        pytest.param(b"HTTP/1.1 200 \xff\r\n" + ZEBRA, id="reason that is no UTF-8"),
        pytest.param(b"HTTP/1.1 200 O\x01K\r\n" + ZEBRA, id="reason with a control character"),
        pytest.param(b"HTTP/1.1 200 O\x00K\r\n" + ZEBRA, id="reason with NUL"),
        pytest.param(b"HTTP/1.1 200 O\rK\r\n" + ZEBRA, id="reason with a bare CR"),
        pytest.param(b"zebra\r\n\r\n", id="garbage"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", id="a TLS alert"),
        # Fields, RFC 9110 section 5.5 and RFC 9112 section 5.
        *[
            pytest.param(OK + field + b"\r\n" + ZEBRA, id=name)
            for name, field in {
                "value that is no UTF-8": b"X: adm\xffin",
                "value with a surrogate": b"X: \xed\xa0\x80",
                "value with a control character": b"X: a\x01b",
                "value with DEL": b"X: a\x7fb",
                "value with NUL": b"X: a\x00b",
                "value with a bare CR": b"X: a\rY: b",
                "name with a space": b"X Y: a",
                "name before a space and a colon": b"X : a",
                "name that is no ASCII": b"X-\xc3\xa9: a",
                "name that is empty": b": a",
                "line without a colon": b"zebra",
                "value that is folded": b"X: a\r\n b",
                "value that is folded with a tab": b"X: a\r\n\tb",
                "value that is folded after a bare LF": b"X: a\n b",
                # RFC 9112 section 2.2: the first field would disappear, or not, by the reader.
                "space before the first field": b" X: a",
            }.items()
        ],
        # Limits.
        pytest.param(OK + b"X: " + OVER_64_KIB + b"\r\n" + ZEBRA, id="value over 64 KiB"),
        pytest.param(OK + OVER_64_KIB + b": a\r\n" + ZEBRA, id="name over 64 KiB"),
        pytest.param(OK + b"X: a\r\n" * 128 + ZEBRA, id="129 fields"),
        pytest.param(b"HTTP/1.1 200 " + OVER_64_KIB + b"\r\n" + ZEBRA, id="reason over 64 KiB"),
    ],
)
async def test_answer_that_is_in_doubt_is_a_502_and_its_connection_is_closed(
    shared_gateway: Gateway, answer: bytes
) -> None:
    async with run_raw_agent(answering(answer)) as agent:
        got = await call(shared_gateway, await target_of(shared_gateway, agent))
        assert got.start == "HTTP/1.1 502 Bad Gateway"
        assert b"zebra" not in got.body
        await agent.connections[0].ended()
        assert len(agent.connections) == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(OK + ZEBRA, b"zebra", id="with a length"),
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", b"", id="with a length of 0"),
        pytest.param(OK + CHUNKED + ZEBRA_IN_CHUNKS, b"zebra", id="in chunks"),
        pytest.param(OK + b"tRANSFER-eNCODING: Chunked\r\n" + ZEBRA_IN_CHUNKS, b"zebra", id="case"),
        pytest.param(OK + CHUNKED + b"\r\n0\r\n\r\n", b"", id="in no chunks"),
        # More than aiohttp's reader holds before it stops reading.
        pytest.param(
            OK + CHUNKED + b"\r\n" + b"1\r\nz\r\n" * 20_000 + b"0\r\n\r\n",
            b"z" * 20_000,
            id="in 20,000 chunks",
        ),
        # RFC 9112 section 7.1.1: meant for this hop, and for nobody we know.
        pytest.param(
            OK + CHUNKED + b'\r\n3;a=b;c="d;\\"e"\r\nzeb\r\n2;f\r\nra\r\n0;g\r\n\r\n',
            b"zebra",
            id="with chunk extensions",
        ),
        # RFC 9112 section 7.1.2: a trailer field may be dropped, and must not become a header.
        pytest.param(
            OK + CHUNKED + b"Trailer: X-Sum\r\n\r\n5\r\nzebra\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
            b"zebra",
            id="with trailers",
        ),
        # RFC 9112 section 2.2; aiohttp's parser takes it, nobody behind us must.
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nzebra", b"zebra", id="with bare LF"),
        pytest.param(b"\r\n\r\n" + OK + ZEBRA, b"zebra", id="after empty lines"),
        # RFC 9110 section 15.2, for this hop: we expected nothing.
        *[
            pytest.param(b"HTTP/1.1 %b\r\nX: 1\r\n\r\n" % interim + OK + ZEBRA, b"zebra", id=name)
            for name, interim in {
                "after 100": b"100 Continue",
                "after 102": b"102 Processing",
                "after 103": b"103 Early Hints",
                "after 199": b"199 Whatever",
                "after 103 with a length": b"103 Early Hints\r\nContent-Length: 5",
                "after two": b"102 Processing\r\n\r\nHTTP/1.1 103 Early Hints",
            }.items()
        ],
    ],
)
async def test_answer_passes_once_however_its_end_is_told_and_the_connection_is_kept(
    shared_gateway: Gateway, answer: bytes, body: bytes
) -> None:
    async with run_raw_agent(answering(answer)) as agent:
        target = await target_of(shared_gateway, agent)
        for _ in range(2):
            got = await call(shared_gateway, target)
            assert (got.start, got.body) == ("HTTP/1.1 200 OK", body)
            assert {name for name, _ in got.fields} <= FRAMING_FIELDS
        assert len(agent.connections) == 1


# All that the gateway adds to an answer, and how it tells its length.
FRAMING_FIELDS = {"Content-Length", "Transfer-Encoding", "Connection", "Date", "X-Request-ID"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + b"\r\nzebra", id="HTTP 1.1"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nzebra", id="HTTP 1.0"),
        pytest.param(OK + b"Connection: close\r\n\r\nzebra", id="that says so"),
    ],
)
async def test_answer_that_ends_by_a_close_passes_and_is_whole(
    shared_gateway: Gateway, answer: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(answer).close()

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        for _ in range(2):
            got = await call(shared_gateway, target)
            assert (got.body, got.is_chunked) == (b"zebra", True)
        assert len(agent.connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + b"Connection: close\r\n" + ZEBRA, id="HTTP 1.1"),
        pytest.param(b"HTTP/1.0 200 OK\r\n" + ZEBRA, id="HTTP 1.0"),
    ],
)
async def test_connection_that_the_agent_means_to_close_is_not_used_again(
    shared_gateway: Gateway, answer: bytes
) -> None:
    async with run_raw_agent(answering(answer)) as agent:
        target = await target_of(shared_gateway, agent)
        for _ in range(2):
            assert (await call(shared_gateway, target)).body == b"zebra"
        assert len(agent.connections) == 2


# Put before the next answer, each would be taken for it, or break it.
EXTRAS = [
    pytest.param(b"x", id="a byte"),
    pytest.param(OK + b"Content-Length: 4\r\n\r\nevil", id="a whole answer"),
    pytest.param(OK + b"Content-Length: 4\r\n\r\n", id="the head of an answer"),
    pytest.param(OK + b"Content-Le", id="the beginning of an answer"),
    pytest.param(b"H", id="the first byte of an answer"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="an interim answer"),
]


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + ZEBRA, id="after a length"),
        pytest.param(OK + CHUNKED + ZEBRA_IN_CHUNKS, id="after chunks"),
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", id="after no body"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nzebra", id="after bare LF"),
    ],
)
async def test_bytes_behind_an_answer_are_for_nobody_and_its_connection_is_closed(
    shared_gateway: Gateway, answer: bytes, extra: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(answer + extra)

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        for number in range(2):
            got = await call(shared_gateway, target)
            assert (got.status, got.body) == (200, b"zebra" if b"zebra" in answer else b"")
            await agent.connections[number].ended()
        assert len(agent.connections) == 2


@pytest.mark.parametrize("extra", [*EXTRAS, pytest.param(b"\r\n", id="an empty line")])
async def test_bytes_on_an_idle_connection_are_for_nobody_and_it_is_closed(
    shared_gateway: Gateway, extra: bytes
) -> None:
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        target = await target_of(shared_gateway, agent)
        for number in range(2):
            assert (await call(shared_gateway, target)).body == b"zebra"
            await agent.connections[number].send(extra).ended()
        assert len(agent.connections) == 2


@pytest.mark.parametrize("is_split", [False, True], ids=["in one piece", "in two pieces"])
@pytest.mark.parametrize(
    ("method", "head"),
    [
        pytest.param("HEAD", OK + b"Content-Length: 5\r\n", id="HEAD with a length"),
        pytest.param("HEAD", OK + CHUNKED, id="HEAD in chunks"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n", id="204"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n", id="204, length"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n" + CHUNKED, id="204 in chunks"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\n", id="304"),
        pytest.param(
            "GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", id="304, length"
        ),
    ],
)
async def test_body_where_there_is_none_never_reaches_the_caller_and_its_connection_is_closed(
    shared_gateway: Gateway, method: str, head: bytes, is_split: bool
) -> None:
    """RFC 9112 section 6.3: it would be read as the next answer."""
    body = ZEBRA_IN_CHUNKS if CHUNKED in head else b"\r\nzebra"

    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        if not is_split:
            connection.send(head + body)
            return
        connection.send(head + b"\r\n")
        await has_answered.wait()
        connection.send(body[2:])

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        for number in range(2):
            has_answered = asyncio.Event()
            got = await call(shared_gateway, target, method)
            assert got.status == int(head.split()[1])
            has_answered.set()
            await agent.connections[number].ended()
        assert len(agent.connections) == 2


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", OK + b"Content-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
    ids=["HEAD", "204", "304"],
)
async def test_connection_is_kept_after_an_answer_that_has_no_body(
    shared_gateway: Gateway, method: str, head: bytes
) -> None:
    async with run_raw_agent(answering(head)) as agent:
        target = await target_of(shared_gateway, agent)
        for _ in range(2):
            await call(shared_gateway, target, method)
        assert len(agent.connections) == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + ZEBRA, 200, id="after an interim one"),
        pytest.param(OK + ZEBRA + b"x", 200, id="with a byte behind it"),
        pytest.param(OK + CHUNKED + ZEBRA_IN_CHUNKS + OK, 200, id="with the next behind it"),
        pytest.param(OK + b"X: a\r\n b\r\n" + ZEBRA, 502, id="with a folded line"),
    ],
)
async def test_answer_is_read_alike_in_whatever_pieces_it_arrives(
    shared_gateway: Gateway, answer: bytes, status: int
) -> None:
    async def script(connection: RawConnection) -> None:
        while True:
            await connection.receive_message()
            first, second = pieces
            connection.send(first)
            # Two turns of the loop, in which the gateway reads the first piece.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            connection.send(second)

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        for position in range(1, len(answer)):
            pieces = answer[:position], answer[position:]
            assert (await call(shared_gateway, target)).status == status, pieces


@pytest.mark.parametrize(
    ("framing", "body", "is_chunked"),
    [
        pytest.param(b"Content-Length: 5\r\n\r\nzebra", b"zebra", False, id="a length"),
        pytest.param(b"Content-Length: 0\r\n\r\n", b"", False, id="a length of 0"),
        pytest.param(b"\r\n", b"", False, id="no body"),
        pytest.param(CHUNKED + ZEBRA_IN_CHUNKS, b"zebra", True, id="chunks"),
        pytest.param(
            CHUNKED + b"\r\n2;a=b\r\nze\r\n3\r\nbra\r\n0\r\nX-Sum: 1\r\n\r\n",
            b"zebra",
            True,
            id="chunks with extensions and trailers",
        ),
        pytest.param(CHUNKED + b"\r\n0\r\n\r\n", b"", True, id="no chunks"),
        # Named in Connection, the length is not for the agent: it must be told anew.
        pytest.param(
            b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nzebra",
            b"zebra",
            True,
            id="a length for this hop",
        ),
        pytest.param(
            b"Connection: Transfer-Encoding\r\n" + CHUNKED + ZEBRA_IN_CHUNKS,
            b"zebra",
            True,
            id="chunks for this hop",
        ),
    ],
)
@pytest.mark.parametrize("is_late", [False, True], ids=["that is here", "that follows"])
async def test_request_reaches_the_agent_with_one_length_that_is_its_own(
    shared_gateway: Gateway, framing: bytes, body: bytes, is_chunked: bool, is_late: bool
) -> None:
    head, end_of_head, sent = framing.partition(b"\r\n\r\n")
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        target = await target_of(shared_gateway, agent)
        start = f"POST {target} HTTP/1.1\r\nHost: gateway\r\n".encode()
        async with connect(shared_gateway.url) as caller:
            if is_late:
                caller.send(start + head + end_of_head)
                got = await agent.connection(0)
                await got.until(lambda: b"\r\n\r\n" in got.received)
                caller.send(sent)
            else:
                caller.send(start + framing)
            await caller.receive_message()
        # Takes no request that tells two lengths, or a body that is not framed as told.
        (request,), rest = read_messages(agent.connections[0].received)
    assert (request.body, request.is_chunked, rest) == (body, is_chunked, b"")


async def exchange(gateway: Gateway, agent: RawAgent, fields: list[str]) -> tuple[Message, Message]:
    """What the agent and what the caller got, when the caller sent these fields."""
    async with connect(gateway.url) as caller:
        caller.send(request_bytes(await target_of(gateway, agent), fields=fields))
        answer = await caller.receive_message()
    (request,) = agent.requests
    return request, answer


# RFC 9110 section 7.6.1, and what HTTP/2 by Upgrade needs (RFC 9113 section 3.1 forbids it now).
HOP_BY_HOP = [
    "Connection: keep-alive",
    "Proxy-Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Trailer: X-Sum",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
]


@pytest.mark.parametrize("field", HOP_BY_HOP, ids=lambda field: field.partition(":")[0])
async def test_field_of_this_hop_is_removed_on_both_ways(
    shared_gateway: Gateway, field: str
) -> None:
    answer = OK + field.encode() + b"\r\n" + ZEBRA
    async with run_raw_agent(answering(answer)) as agent:
        request, answered = await exchange(shared_gateway, agent, [field, "X: kept"])
    name = field.partition(":")[0]
    assert (request.values(name), request.values("X")) == ([], ["kept"])
    assert (answered.values(name), answered.body) == ([], b"zebra")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
async def test_agent_never_hears_of_another_protocol_that_the_caller_asks_for(
    shared_gateway: Gateway, protocol: str
) -> None:
    fields = [f"Upgrade: {protocol}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMA"]
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        request, answered = await exchange(shared_gateway, agent, fields)
    assert {"upgrade", "http2-settings", "connection"}.isdisjoint(
        name.lower() for name, _ in request.fields
    )
    assert (request.body, answered.body) == (b"{}", b"zebra")


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ("X-Named", "X-Named: 1"),
        ("close, x-named", "X-NAMED: 1"),  # names have no case
        ("keep-alive,X-Named , ,X-Other", "X-Named: 1"),
        ("X-Other\r\nConnection: X-Named", "X-Named: 1"),  # in a second field
        ("Authorization", "Authorization: Bearer x"),  # whatever it is
        ("Set-Cookie", "Set-Cookie: a=1"),
    ],
)
async def test_field_that_connection_names_is_removed_on_both_ways(
    shared_gateway: Gateway, named: str, field: str
) -> None:
    lines = [f"Connection: {named}", field]
    answer = OK + "\r\n".join(lines).encode() + b"\r\n" + ZEBRA
    async with run_raw_agent(answering(answer)) as agent:
        request, answered = await exchange(shared_gateway, agent, lines)
    name = field.partition(":")[0]
    assert request.values(name) == answered.values(name) == []


@pytest.mark.parametrize(
    ("named", "values"),
    [
        ("Host", ["{agent}"]),
        ("Via", ["1.0 edge, 1.1 a2a-budget-gateway"]),  # else a loop would not be seen
        ("X-Forwarded-For", ["127.0.0.1"]),
        ("X-Forwarded-Proto", ["http"]),
        ("X-Forwarded-Host", ["gateway"]),
        ("Forwarded", ['for=127.0.0.1;host="gateway";proto=http']),
        ("X-Request-ID", ["mine"]),
    ],
)
async def test_field_that_the_gateway_writes_stays_when_connection_names_it(
    shared_gateway: Gateway, named: str, values: list[str]
) -> None:
    fields = [f"Connection: {named}", "Via: 1.0 edge", "X-Request-ID: mine"]
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        request, _ = await exchange(shared_gateway, agent, fields)
    authority = agent.url.removeprefix("http://")
    assert request.values(named) == [value.format(agent=authority) for value in values]


@pytest.mark.parametrize("expectation", ["100-continue", "200-ok"])
async def test_expectation_is_not_the_agents_to_meet(
    shared_gateway: Gateway, expectation: str
) -> None:
    """RFC 9110 section 10.1.1: the gateway says 100 itself, when it reads the body."""
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        request, _ = await exchange(shared_gateway, agent, [f"Expect: {expectation}"])
    assert (request.values("Expect"), request.body) == ([], b"{}")


@pytest.mark.parametrize("is_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 100\r\n\r\nhalf", CHUNKED + b"\r\n4\r\nhalf\r\n64\r\n..."],
    ids=["length", "chunks"],
)
async def test_caller_who_dies_within_the_body_takes_the_agents_connection_along(
    shared_gateway: Gateway, framing: bytes, is_reset: bool
) -> None:
    """The agent would wait for the rest, or take the next request for it."""
    async with run_raw_agent(answering(OK + ZEBRA)) as agent:
        target = await target_of(shared_gateway, agent)
        await call(shared_gateway, target)  # leaves a connection that is used again
        async with connect(shared_gateway.url) as caller:
            caller.send(f"POST {target} HTTP/1.1\r\nHost: gateway\r\n".encode() + framing)
            await agent.connections[0].until(lambda: b"half" in agent.connections[0].received)
            caller.reset() if is_reset else caller.close()
            await agent.connections[0].ended()
        assert (await call(shared_gateway, target)).body == b"zebra"
    assert b"half" not in agent.connections[1].received
    assert len(agent.connections) == 2


async def test_connection_that_waits_for_the_rest_of_a_request_is_not_used_again(
    shared_gateway: Gateway,
) -> None:
    """The next request would be read as that rest."""

    async def script(connection: RawConnection) -> None:
        await connection.receive()
        connection.send(OK + ZEBRA)

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        async with connect(shared_gateway.url) as caller:
            caller.send(request_bytes(target, fields=["Content-Length: 100"], body=None) + b"half")
            assert (await caller.receive_message()).body == b"zebra"
            assert (await call(shared_gateway, target)).body == b"zebra"
        await agent.connections[0].ended()
        assert len(agent.connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + OK + ZEBRA, id="17 interim answers"),
        pytest.param(OK + b"X: %b\r\n" % (b"x" * 60_000) * 2 + ZEBRA, id="two fields of 60 KB"),
    ],
)
async def test_answer_that_takes_too_long_to_begin_is_a_502(
    shared_gateway: Gateway, answer: bytes
) -> None:
    async with run_raw_agent(answering(answer)) as agent:
        got = await call(shared_gateway, await target_of(shared_gateway, agent))
    assert got.status == 502
