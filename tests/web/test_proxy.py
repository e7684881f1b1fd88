"""The proxied call: what the agent gets, what the caller gets, what happens when either leaves."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from yarl import URL

from tests.running import Agent, Gateway, until


@pytest.fixture
async def call_url(gateway: Gateway, agent: Agent) -> str:
    """The address of a workspace without limits."""
    await gateway.register("w", agent.url + "/base")
    return f"{gateway.url}/workspaces/w/a2a"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_reaches_the_agent(
    gateway: Gateway, agent: Agent, call_url: str, method: str
) -> None:
    async with gateway.client.request(method, call_url) as answer:
        assert answer.status == 200
    assert [each.method for each in agent.received] == [method]


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("", "/base"),
        ("/", "/base/"),  # no redirect between the two
        ("/v1/message:send", "/base/v1/message:send"),
        ("/a%20b/%C3%A9?x=1&x=%2F&y", "/base/a%20b/%C3%A9?x=1&x=%2F&y"),  # byte for byte
        ("?a2a=1", "/base?a2a=1"),
    ],
)
async def test_path_and_query_reach_the_agent_as_they_were_sent(
    gateway: Gateway, agent: Agent, call_url: str, tail: str, target: str
) -> None:
    async with gateway.client.get(URL(call_url + tail, encoded=True)) as answer:
        assert answer.status == 200
    assert agent.received[0].target == target


async def test_headers_for_this_hop_stay_here_and_the_others_go_on(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    sent = [
        ("Connection", "close, X-Named"),
        ("X-Named", "removed"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("X-Forwarded-For", "203.0.113.9"),  # anybody can write this
        ("A2A-Version", "1.0"),
        ("A2A-Extensions", "one"),
        ("A2A-Extensions", "two"),
        ("Authorization", "Bearer for-the-agent"),
    ]
    async with gateway.client.post(call_url, headers=sent, data=b"x") as answer:
        assert answer.status == 200
    got = [(name.lower(), value) for name, value in agent.received[0].headers]
    names = {name for name, _ in got}
    assert names.isdisjoint({"x-named", "keep-alive", "te", "upgrade"})
    assert ("x-forwarded-for", "127.0.0.1") in got
    assert [value for name, value in got if name == "a2a-extensions"] == ["one", "two"]
    assert ("authorization", "Bearer for-the-agent") in got
    assert ("a2a-version", "1.0") in got


async def test_answer_of_the_agent_comes_back_as_it_was_sent(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    async def respond(_request: web.Request) -> web.StreamResponse:
        headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Agent", "yes")]
        return web.Response(status=402, reason="Mine", headers=headers, body=b"agent's own")

    agent.respond = respond
    async with gateway.client.get(call_url) as answer:
        assert (answer.status, answer.reason) == (402, "Mine")
        assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert answer.headers["X-Agent"] == "yes"
        assert await answer.read() == b"agent's own"


async def test_large_body_passes_both_ways_unchanged(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    sent = os.urandom(3 * 1024 * 1024)

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.content.read())

    agent.respond = respond
    async with gateway.client.post(call_url, data=io.BytesIO(sent)) as answer:
        digest = hashlib.sha256(await answer.read()).digest()
    assert digest == hashlib.sha256(sent).digest()


async def test_coded_body_is_not_decoded_on_the_way(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    coded = b"\x1f\x8b not really gzip"
    headers = {"Content-Encoding": "gzip"}
    async with gateway.client.post(call_url, data=coded, headers=headers) as answer:
        assert answer.status == 200
    assert agent.received[0].body == coded


async def test_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    limit = gateway.services.config.proxy.request_body_bytes_max

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(limit // 65536 + 2):
            yield bytes(65536)

    for body in (io.BytesIO(bytes(limit + 1)), chunks()):
        async with gateway.client.post(call_url, data=body) as answer:
            assert answer.status == 413
    assert agent.received == []


async def test_every_event_of_a_stream_arrives_before_the_next_is_sent(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    wanted: asyncio.Queue[bytes] = asyncio.Queue()

    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while event := await wanted.get():
            await answer.write(event)
        return answer

    agent.respond = respond
    async with gateway.client.post(call_url, data=b"{}") as answer:
        for number in range(5):
            event = b"data: %d\n\n" % number
            wanted.put_nowait(event)
            assert await answer.content.readany() == event
        wanted.put_nowait(b"")
        assert await answer.content.read() == b""


@pytest.mark.parametrize("has_begun", [False, True])
async def test_caller_who_leaves_ends_the_call_at_the_agent(
    gateway: Gateway, agent: Agent, call_url: str, has_begun: bool
) -> None:
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if has_begun:
            await answer.prepare(request)
            await answer.write(b"first")
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return answer

    agent.respond = respond
    caller = asyncio.create_task(gateway.client.post(call_url, data=b"{}"))
    await reached.wait()
    if has_begun:
        (await caller).close()
    else:
        caller.cancel()
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_answer_that_breaks_off_is_seen_broken_by_the_caller(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return answer

    agent.respond = respond
    with pytest.raises(aiohttp.ClientError):
        async with gateway.client.get(call_url) as answer:
            await answer.read()


async def test_agent_that_cannot_be_reached_is_a_502(gateway: Gateway) -> None:
    await gateway.register("gone", "http://127.0.0.1:9")
    status, problem = await gateway.json("POST", "/workspaces/gone/a2a", {})
    assert (status, problem["title"]) == (502, "Bad Gateway")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",  # stored before it was forbidden, or by another hand
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:80/",
    ],
)
async def test_address_where_no_agent_may_live_is_never_connected_to(
    gateway: Gateway, connection: asyncpg.Connection, url: str
) -> None:
    await connection.execute("INSERT INTO workspaces (id, url) VALUES ('w', $1)", url)
    status, _ = await gateway.json("POST", "/workspaces/w/a2a", {})
    assert status == 502


async def test_request_that_the_agent_read_is_never_sent_again(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    count = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    agent.respond = respond
    async with gateway.client.post(call_url, data=b"{}") as answer:
        assert answer.status == 502
    assert count == 1


async def test_workspace_without_an_agent_is_a_503_with_retry_after(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO workspaces (id) VALUES ('platform-made')")
    async with gateway.client.post(f"{gateway.url}/workspaces/platform-made/a2a") as answer:
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)


async def test_nothing_is_left_after_many_calls_whose_callers_left(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    async def respond(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    agent.respond = respond
    before = len(asyncio.all_tasks())
    callers = [asyncio.create_task(gateway.client.post(call_url)) for _ in range(50)]
    await until(lambda: len(asyncio.all_tasks()) >= before + 100)
    for caller in callers:
        caller.cancel()
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_request_id_of_the_caller_goes_to_the_agent_and_comes_back(
    gateway: Gateway, agent: Agent, call_url: str
) -> None:
    async with gateway.client.get(call_url, headers={"X-Request-ID": "mine-7"}) as answer:
        assert answer.headers["X-Request-ID"] == "mine-7"
    assert ("X-Request-ID", "mine-7") in agent.received[0].headers
