"""Framing towards callers: where a request ends, when its body is wanted, who closes when.

RFC 9112 and RFC 9110 section 10.1.1. On raw sockets, because no client sends most of this.
"""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio
from yarl import URL

from tests.raw import PATIENCE_S, connect
from tests.running import Agent, Gateway, run_agent, until
from tests.web.refusals import beside, receive_refusal, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

API, CALL, NOWHERE = b"/registry/heartbeat", b"/workspaces/w/a2a", b"/nowhere"
HOST = b"Host: x"
CHUNKED = b"Transfer-Encoding: chunked"

# A budget is read however busy the machine is.
PATIENT = {"GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "10000"}

# What the kernel's buffers of both sockets take, about 4 MiB, and what was read before the answer.
BUFFERS_BYTES_MAX = 8 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent() -> AsyncIterator[Agent]:
    """The agent that nothing of what is refused may reach."""
    async with run_agent() as agent:
        yield agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: Gateway, agent: Agent) -> AsyncIterator[Gateway]:
    """A gateway with two workspaces: `w` has no limit, `over` may spend nothing."""
    async with beside(shared_gateway, PATIENT) as gateway:
        await gateway.register("w", agent.url)
        await gateway.register("over", agent.url)
        await gateway.limit("over", hourly=0)
        yield gateway


def request(*fields: bytes, start: bytes = b"POST %s HTTP/1.1", body: bytes = b"") -> bytes:
    """A request whose target is still to be filled in."""
    head = b"\r\n".join([start, *(field.replace(b"%", b"%%") for field in fields), b"", b""])
    return head + body


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A POST that is right but for these fields and its body."""
    return request(HOST, *fields, body=body)


def get(*fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A GET with nothing but these fields."""
    return request(*fields, start=b"GET %s " + version)


# What the parser refuses by itself, which it must go on doing.
BY_THE_PARSER = {
    "length with coding": (400, post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    "coding with length": (400, post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n")),
    "two lengths that differ": (400, post(b"Content-Length: 5", b"Content-Length: 6")),
    "two lengths that agree": (400, post(b"Content-Length: 5", b"Content-Length: 5")),
    "two lengths in one field": (400, post(b"Content-Length: 5, 5", body=b"zebra")),
    "length that is no number": (400, post(b"Content-Length: zebra")),
    "length that is empty": (400, post(b"Content-Length:")),
    "length with a sign": (400, post(b"Content-Length: +5", body=b"zebra")),
    "length below zero": (400, post(b"Content-Length: -1")),
    "length in hexadecimal": (400, post(b"Content-Length: 0x5", body=b"zebra")),
    "length with a space": (400, post(b"Content-Length: 5 5", body=b"zebra")),
    "length that no computer holds": (400, post(b"Content-Length: " + b"9" * 40)),
    "coding that is not chunked": (400, post(b"Transfer-Encoding: zebra")),
    "coding that does not end in chunked": (400, post(b"Transfer-Encoding: chunked, zebra")),
    "coding that is chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked")),
    "coding in two fields": (400, post(b"Transfer-Encoding: gzip", CHUNKED)),
    "coding with a tab in its name": (400, post(b"Transfer-Encoding\t: chunked")),
    "coding on a folded line": (400, post(b"Transfer-Encoding:\r\n chunked")),
    "coding behind a bare line feed": (400, post(b"X: zebra\nTransfer-Encoding: chunked")),
    "lines without carriage returns": (400, b"GET %s HTTP/1.1\nHost: x\n\n"),
    "chunk size that is no number": (400, post(CHUNKED, body=b"zebra\r\n\r\n")),
    "chunk longer than its size": (400, post(CHUNKED, body=b"2\r\nzebra\r\n0\r\n\r\n")),
    "chunk size too long for a number": (400, post(CHUNKED, body=b"f" * 17 + b"\r\n")),
    "version 1.2": (505, get(HOST, version=b"HTTP/1.2")),
    "version 3.0": (505, get(HOST, version=b"HTTP/3.0")),
    "version 9.9": (505, get(HOST, version=b"HTTP/9.9")),
    "version that is none": (400, get(HOST, version=b"HTTP/zebra")),
    "preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, get()),
    "host twice": (400, get(HOST, HOST)),
    "host with a control character": (400, get(b"Host: x\x01zebra")),
}

# What the parser lets pass, and the gate does not.
BY_THE_GATE = {
    "coding of two": (501, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "coding with an empty element": (501, post(b"Transfer-Encoding: ,chunked")),
    "coding that is empty": (501, post(b"Transfer-Encoding:")),
    "coding in HTTP/1.0": (400, request(CHUNKED, start=b"POST %s HTTP/1.0", body=b"0\r\n\r\n")),
    "version 0.9": (505, get(HOST, version=b"HTTP/0.9")),
    "version 2.0": (505, get(HOST, version=b"HTTP/2.0")),
    "no version": (505, b"GET %s\r\n\r\n"),
    "host that is empty": (400, get(b"Host:")),
    "host with a path": (400, get(b"Host: a/zebra")),
    "host with a space": (400, get(b"Host: a zebra")),
    "host with a user": (400, get(b"Host: zebra@h")),
    "host with a port that is none": (400, get(b"Host: h:zebra")),
    "host with a port over 65535": (400, get(b"Host: h:65536")),
    "host of two names": (400, get(b"Host: a,zebra")),
    "host that is no UTF-8": (400, get(b"Host: zebra\xff")),
    "host that is not ASCII": (400, get(b"Host: zebr\xc3\xa4")),
    "host with a bad address": (400, get(b"Host: [::zebra]")),
    "host with a path in HTTP/1.0": (400, get(b"Host: a/zebra", version=b"HTTP/1.0")),
    "method TRACE": (405, request(HOST, b"Cookie: zebra", start=b"TRACE %s HTTP/1.1")),
    "method CONNECT": (405, request(HOST, start=b"CONNECT zebra:1 HTTP/1.1")),
    "method CONNECT to a path": (405, request(HOST, start=b"CONNECT %s HTTP/1.1")),
}


def aimed(sent: bytes, target: bytes) -> bytes:
    """The request with its target filled in, where it has a place for it."""
    return sent % target if b" %s" in sent else sent


@pytest.mark.parametrize("target", [API, CALL, NOWHERE], ids=["API", "call", "nowhere"])
@pytest.mark.parametrize(
    ("status", "sent"),
    [*BY_THE_PARSER.values(), *BY_THE_GATE.values()],
    ids=[*BY_THE_PARSER, *BY_THE_GATE],
)
async def test_framing_in_doubt_is_refused_and_the_connection_closed(
    gateway: Gateway, agent: Agent, status: int, sent: bytes, target: bytes
) -> None:
    answer = await refusal(gateway, aimed(sent, target))
    assert answer.status == status
    assert answer.start.startswith("HTTP/1.0 " if b"HTTP/1.0" in sent else "HTTP/1.1 ")
    assert agent.received == []


@pytest.mark.parametrize(("status", "sent"), BY_THE_GATE.values(), ids=BY_THE_GATE)
async def test_request_refused_by_the_gate_has_its_id_in_the_answer(
    gateway: Gateway, status: int, sent: bytes
) -> None:
    assert (await refusal(gateway, aimed(sent, CALL))).values("X-Request-ID")


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (b"/healthz", {"GET", "HEAD"}),
        (b"/workspaces/w", {"GET", "HEAD", "DELETE"}),
        (CALL, {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}),
    ],
)
async def test_refused_method_names_those_that_the_address_knows(
    gateway: Gateway, target: bytes, allowed: set[str]
) -> None:
    answer = await refusal(gateway, b"TRACE " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert set(answer.values("Allow")[0].split(", ")) == allowed


@pytest.mark.parametrize(
    "sent",
    [
        get(HOST),
        get(b"Host: example.com:8080"),
        get(b"Host: [::1]:8080"),
        get(version=b"HTTP/1.0"),  # it did not know the field
        get(HOST, version=b"HTTP/1.0"),
        get(HOST, b"tRANSFER-eNCODING: cHUNKED") + b"0\r\n\r\n",
        get(HOST, "X: h\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode()),
    ],
    ids=lambda sent: repr(sent[8:48]),
)
async def test_unusual_but_right_request_is_answered(gateway: Gateway, sent: bytes) -> None:
    async with connect(gateway.url) as connection:
        assert (await connection.send(sent % b"/healthz").receive_message()).status == 200


async def test_requests_in_one_packet_are_answered_one_after_the_other(gateway: Gateway) -> None:
    sent = get(HOST) % b"/healthz" + get(HOST) % NOWHERE + get(b"Host: a/b") % b"/healthz"
    async with connect(gateway.url) as connection:
        connection.send(sent)
        assert [(await connection.receive_message()).status for _ in range(2)] == [200, 404]
        assert (await receive_refusal(connection)).status == 400


async def test_nothing_behind_an_upgrade_is_answered(gateway: Gateway) -> None:
    """aiohttp's parser drops it: a later answer would be taken for that of another request."""
    upgrade = get(HOST, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c") % b"/healthz"
    async with connect(gateway.url) as connection:
        answer = await connection.send(upgrade + get(HOST) % NOWHERE).receive_message()
        assert (answer.status, answer.values("Connection")) == (200, ["close"])
        await connection.ended()
        assert connection.unread == b""


BROKEN_BODIES = {
    "chunk size that is no number": b"zebra\r\n",
    "chunk longer than its size": b"2\r\nzebra\r\n",
    "chunk without its line end": b"5\r\nzebra0\r\n\r\n",
    "trailer with a control character": b"0\r\nX: zebra\x01\r\n\r\n",
}


@pytest.mark.parametrize("target", [API, CALL], ids=["API", "call"])
@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
async def test_body_whose_framing_breaks_while_it_is_read_is_400(
    gateway: Gateway, agent: Agent, body: bytes, target: bytes
) -> None:
    async with connect(gateway.url) as connection:
        connection.send(post(CHUNKED, b"Expect: 100-continue") % target)
        await connection.receive_message()  # 100: now the body is being read
        assert (await receive_refusal(connection.send(body))).status == 400
    assert agent.received == []


async def test_bytes_behind_a_body_do_not_spoil_it(gateway: Gateway) -> None:
    body = b'{"workspace_id": "unknown"}'
    length = b"Content-Length: %d" % len(body)
    async with connect(gateway.url) as connection:
        connection.send(post(length, b"Expect: 100-continue") % API)
        await connection.receive_message()
        connection.send(body + b"zebra\r\n\r\n")
        assert (await connection.receive_message()).status == 404
        assert (await receive_refusal(connection)).status == 400


UNWANTED = {
    "of an unknown address": (404, b"POST /nowhere"),
    "of an unknown method": (405, b"PUT /healthz"),
    "of TRACE": (405, b"TRACE /healthz"),
    "of a call to an unknown workspace": (404, b"POST /workspaces/unknown/a2a"),
    "that is too large for the API": (413, b"POST /registry/heartbeat"),
    "that is too large for a call": (413, b"POST /workspaces/w/a2a"),
    "of nobody we know": (401, b"PATCH /workspaces/w/budget"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded_gateway(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A gateway that knows its operators."""
    async with beside(gateway, {**PATIENT, "GATEWAY_AUTH__ADMIN_TOKENS": "secret"}) as guarded:
        yield guarded


@pytest.mark.parametrize(("status", "start"), UNWANTED.values(), ids=UNWANTED)
async def test_body_that_is_not_wanted_is_not_asked_for(
    guarded_gateway: Gateway, agent: Agent, status: int, start: bytes
) -> None:
    fields = b" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    assert (await refusal(guarded_gateway, start + fields)).status == status
    assert agent.received == []


@pytest.mark.parametrize(
    ("target", "status"),
    [(API, 404), (CALL, 200), (b"/workspaces/over/a2a", 402)],
    ids=["API", "call", "call over budget"],
)
async def test_body_that_is_wanted_is_asked_for_once(
    gateway: Gateway, agent: Agent, target: bytes, status: int
) -> None:
    body = b'{"workspace_id": "unknown"}'
    length = b"Content-Length: %d" % len(body)
    async with connect(gateway.url) as connection:
        connection.send(post(length, b"eXPECT: 100-Continue") % target)
        assert await connection.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await connection.send(body).receive_message()).status == status
    agent.received.clear()


@pytest.mark.parametrize(
    "sent",
    [
        request(b"Expect: 100-continue", b"Content-Length: 2", start=b"POST %s HTTP/1.0"),
        post(b"Expect: zebra", b"Content-Length: 2"),
        post(b"Expect: 100-continue, zebra", b"Content-Length: 2"),
    ],
    ids=["in HTTP/1.0", "of something else", "of two things"],
)
async def test_expectation_is_ignored(gateway: Gateway, sent: bytes) -> None:
    async with connect(gateway.url) as connection:
        connection.send(sent % API)
        assert (await gateway.json("GET", "/healthz"))[0] == 200  # so the head is there
        assert (await connection.send(b"[]").receive_message()).status == 400


async def test_body_that_is_already_here_is_not_asked_for(gateway: Gateway) -> None:
    sent = post(b"Expect: 100-continue", b"Content-Length: 2", body=b"[]") % API
    async with connect(gateway.url) as connection:
        assert (await connection.send(sent).receive_message()).status == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [(post(CHUNKED) % NOWHERE, b"404"), (post(b"Content-Length: zebra") % API, b"400")],
    ids=["refused", "unreadable"],
)
async def test_endless_upload_gets_its_answer_and_an_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: bytes
) -> None:
    monkeypatch.setattr("gateway.web.lingering.DISCARDED_BYTES_MAX", BUFFERS_BYTES_MAX)
    # Only the number of bytes ends it.
    monkeypatch.setattr("gateway.web.lingering.LINGER_S", PATIENCE_S)
    url = URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    uploading = asyncio.create_task(upload(writer))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)
    async with asyncio.timeout(PATIENCE_S / 2):
        assert BUFFERS_BYTES_MAX <= await uploading < 4 * BUFFERS_BYTES_MAX
    writer.close()


async def upload(writer: asyncio.StreamWriter) -> int:
    """Send chunks until the connection is reset, and give how much was taken."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    taken_bytes = 0
    with suppress(ConnectionError):
        while True:
            writer.write(chunk)
            await writer.drain()
            taken_bytes += len(chunk)
    return taken_bytes


@pytest.mark.parametrize(
    ("sent", "status"),
    [(post(CHUNKED) % NOWHERE, b"404"), (b"zebra\r\n\r\n", b"400")],
    ids=["refused", "unreadable"],
)
async def test_caller_who_reads_late_gets_the_answer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: bytes
) -> None:
    """A connection that is closed over unread bytes is reset, and the answer is lost with it."""
    # So long that a busy machine does not make the test fail.
    monkeypatch.setattr("gateway.web.lingering.SILENCE_S", 3)
    url = URL(gateway.url)

    def talk() -> bytes:
        with socket.create_connection((url.host, url.port), timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            select.select([connection], [], [], PATIENCE_S)  # now the answer is here
            for _ in range(4):
                connection.sendall(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))

    assert (await asyncio.to_thread(talk)).startswith(b"HTTP/1.1 " + status)


async def test_body_that_arrives_while_the_gateway_stops_is_not_lost(
    gateway: Gateway, agent: Agent
) -> None:
    stack = AsyncExitStack()
    stopping = await stack.enter_async_context(beside(gateway, PATIENT))
    async with connect(stopping.url) as connection:
        connection.send(post(b"Expect: 100-continue", b"Content-Length: 5") % CALL)
        await connection.receive_message()  # 100: now the body is being read
        connection.send(b"zeb")
        stop = asyncio.create_task(stack.aclose())
        await until(lambda: stopping.services.is_draining)
        assert (await connection.send(b"ra").receive_message()).status == 200
        await stop
    assert [received.body for received in agent.received] == [b"zebra"]
    agent.received.clear()


async def test_connection_goes_on_after_a_body_that_nobody_wanted_but_that_is_here(
    gateway: Gateway,
) -> None:
    sent = post(b"Content-Length: 5", body=b"zebra") % NOWHERE
    async with connect(gateway.url) as connection:
        for _ in range(2):
            answer = await connection.send(sent).receive_message()
            assert (answer.status, answer.values("Connection")) == (404, [])


@pytest.mark.parametrize("is_in_one_piece", [True, False])
async def test_trailer_of_one_request_is_no_field_of_the_next(
    shared_gateway: Gateway, is_in_one_piece: bool
) -> None:
    """It may be another caller's, on a connection that a proxy before us shares."""
    first = (
        b"POST /workspaces/nobody/a2a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\nAuthorization: Bearer evil\r\n\r\n"
    )
    second = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connect(shared_gateway.url) as caller:
        caller.send(first + second if is_in_one_piece else first)
        answer = await caller.receive_message()
        assert (answer.status, answer.values("Connection")) == (404, ["close"])
        await caller.ended()
        assert caller.received.count(b"HTTP/1.1 ") == 1
