"""Headers and targets: all pass as they were sent, but what is the gateway's to say.

RFC 9110 section 7.6, RFC 7239. The agents are raw sockets and show the very bytes.
"""

import pytest

from tests.raw import (
    Message,
    RawAgent,
    RawConnection,
    answering,
    call,
    connect,
    exchange_bytes,
    request_bytes,
    run_raw_agent,
    target_of,
)
from tests.running import Gateway, run_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATED = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
ANSWER = DATED + b"Content-Length: 2\r\n\r\n{}"

# What a caller on this machine makes the gateway say of the way.
WAY = (
    "Via: 1.1 a2a-budget-gateway\r\n"
    "X-Forwarded-For: 127.0.0.1\r\n"
    "X-Forwarded-Proto: http\r\n"
    "X-Forwarded-Host: gateway\r\n"
    'Forwarded: for=127.0.0.1;host="gateway";proto=http\r\n'
    "X-Request-ID: mine-7\r\n"
)


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        pytest.param(
            "GET {target} HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: mine-7\r\n\r\n",
            "GET /base HTTP/1.1\r\nHost: {agent}\r\n" + WAY + "\r\n",
            id="GET",
        ),
        pytest.param(
            "POST {target} HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: mine-7\r\n"
            "Content-Length: 2\r\n\r\n{{}}",
            "POST /base HTTP/1.1\r\nHost: {agent}\r\nContent-Length: 2\r\n" + WAY + "\r\n{{}}",
            id="POST",
        ),
        pytest.param(
            "POST {target} HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: mine-7\r\n\r\n",
            "POST /base HTTP/1.1\r\nHost: {agent}\r\n" + WAY + "\r\n",
            id="POST without a body",
        ),
        pytest.param(
            "PROPFIND {target}/ HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: mine-7\r\n"
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
            "PROPFIND /base/ HTTP/1.1\r\nHost: {agent}\r\n" + WAY + "Transfer-Encoding: chunked\r\n"
            "\r\n2\r\n{{}}\r\n0\r\n\r\n",
            id="chunks",
        ),
    ],
)
async def test_agent_gets_what_the_caller_sent_the_way_and_nothing_else(
    shared_gateway: Gateway, sent: str, got: str
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent, "/base")
        async with connect(shared_gateway.url) as caller:
            caller.send(sent.format(target=target).encode())
            await caller.receive_message()
    authority = agent.url.removeprefix("http://")
    assert agent.connections[0].received.decode() == got.format(agent=authority)


@pytest.mark.parametrize("is_over_budget", [False, True])
async def test_call_without_a_body_stays_one_even_if_the_gateway_looked_for_it(
    shared_gateway: Gateway, is_over_budget: bool
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        if is_over_budget:
            await shared_gateway.limit(target.split("/")[2], hourly=0)
        async with connect(shared_gateway.url) as caller:
            caller.send(request_bytes(f"{target}/v1/tasks/7:cancel", body=None))
            assert (await caller.receive_message()).status == 200
        (request,) = agent.requests
    assert request.values("Transfer-Encoding") == request.values("Content-Length") == []


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        pytest.param(
            ANSWER,
            DATED + b"Content-Length: 2\r\nX-Request-ID: mine-7\r\nConnection: close\r\n\r\n{}",
            id="plain",
        ),
        pytest.param(
            b"HTTP/1.0 418 I'm a\tteap\xc3\xb6t\r\ndate: now\r\nCONTENT-TYPE: a/b\r\nsErVeR: me\r\n"
            b"Content-Length: 0\r\nX-Empty:\r\nX-Tabbed: \ta \t b\t \r\n\r\n",
            b"HTTP/1.1 418 I'm a\tteap\xc3\xb6t\r\ndate: now\r\nCONTENT-TYPE: a/b\r\nsErVeR: me\r\n"
            b"Content-Length: 0\r\nX-Empty: \r\nX-Tabbed: a \t b\r\nX-Request-ID: mine-7\r\n"
            b"Connection: close\r\n\r\n",
            id="odd",
        ),
        pytest.param(
            DATED + b"X-Request-ID: agent's\r\nx-request-id: too\r\n\r\nuntil the close",
            DATED + b"X-Request-ID: mine-7\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
            b"\r\n%x\r\nuntil the close\r\n0\r\n\r\n" % len("until the close"),
            id="without a length",
        ),
        pytest.param(
            b"HTTP/1.1 200\r\nDate: now\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 \r\nDate: now\r\nContent-Length: 2\r\nX-Request-ID: mine-7\r\n"
            b"Connection: close\r\n\r\n{}",
            id="without a reason",
        ),
        # The agent's own 402 is not ours.
        pytest.param(
            b"HTTP/1.1 402 Mine\r\nDate: now\r\nContent-Length: 4\r\n\r\nmine",
            b"HTTP/1.1 402 Mine\r\nDate: now\r\nContent-Length: 4\r\nX-Request-ID: mine-7\r\n"
            b"Connection: close\r\n\r\nmine",
            id="402",
        ),
        # RFC 9110 section 8.6: no length with 204.
        pytest.param(
            b"HTTP/1.1 204 No Content\r\nDate: now\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nDate: now\r\nX-Request-ID: mine-7\r\n"
            b"Connection: close\r\n\r\n",
            id="without a body",
        ),
    ],
)
async def test_caller_gets_what_the_agent_answered_its_own_request_id_and_nothing_else(
    shared_gateway: Gateway, answer: bytes, got: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(answer).close()

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        fields = ["X-Request-ID: mine-7", "Connection: close"]
        answered = await exchange_bytes(shared_gateway.url, request_bytes(target, "GET", fields))
    assert answered == got


async def test_answer_without_a_date_gets_one(shared_gateway: Gateway) -> None:
    """RFC 9110 section 6.6.1."""
    async with run_raw_agent(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as agent:
        got = await call(shared_gateway, await target_of(shared_gateway, agent))
    (date,) = got.values("Date")
    assert date.endswith(" GMT")


FIELDS = [
    "X-Double: 1",
    "x-double: 2",
    "X-Other: a, b",
    "X-DOUBLE: 1",
    "X-Empty: ",
    "X-Text: caf\xe9 \u20ac \U0001f600",
    "X-Quoted: \"a, b\" 'c'",
    "cOOKIE: a=1; b=2",
    "Authorization: Bearer for-the-agent",
    "A2A-Version: 1.0",
    "A2A-Extensions: one",
    "A2A-Extensions: two",
    "X-A2A-Extensions: three",
    'Content-Type: application/json; charset="utf-8"',
    "Content-Encoding: gzip",
    "Accept-Encoding: br;q=1.0, gzip",
    'If-None-Match: W/"x"',
    "Range: bytes=0-1",
    "Origin: null",
    "Max-Forwards: 0",
    "!#$%&'*+-.^_`|~09: every character of a name",
]


async def test_fields_pass_both_ways_in_their_order_and_spelling_with_doubles(
    shared_gateway: Gateway,
) -> None:
    fields = "\r\n".join([*FIELDS, ""]).encode()
    answer = b"HTTP/1.1 200 OK\r\n" + fields + b"Set-Cookie: a=1\r\nSet-Cookie: a=1\r\n"
    async with run_raw_agent(answering(answer + b"Content-Length: 2\r\n\r\n{}")) as agent:
        request, answered = await exchange(shared_gateway, agent, FIELDS)
    sent = [tuple(field.split(": ", 1)) for field in FIELDS]
    assert request.fields[1 : 1 + len(sent)] == sent
    assert answered.fields[: len(sent) + 2] == [*sent, *[("Set-Cookie", "a=1")] * 2]


async def exchange(gateway: Gateway, agent: RawAgent, fields: list[str]) -> tuple[Message, Message]:
    """What the agent and what the caller got, when the caller sent these fields."""
    async with connect(gateway.url) as caller:
        caller.send(request_bytes(await target_of(gateway, agent), fields=fields))
        answer = await caller.receive_message()
    (request,) = agent.requests
    return request, answer


async def test_body_is_not_decoded_on_either_way(shared_gateway: Gateway) -> None:
    coded = b"\x1f\x8b not really gzip"
    answer = DATED + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded) + coded
    async with run_raw_agent(answering(answer)) as agent:
        request = request_bytes(
            await target_of(shared_gateway, agent), fields=["Content-Encoding: gzip"], body=coded
        )
        async with connect(shared_gateway.url) as caller:
            answered = await caller.send(request).receive_message()
        (got,) = agent.requests
    assert got.body == answered.body == coded
    assert got.values("Content-Encoding") == answered.values("Content-Encoding") == ["gzip"]


async def test_nothing_is_kept_from_one_call_to_the_next(shared_gateway: Gateway) -> None:
    answer = DATED + b"Set-Cookie: a=1; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with run_raw_agent(answering(answer)) as agent:
        target = await target_of(shared_gateway, agent)
        async with connect(shared_gateway.url) as caller:
            for fields in (["Cookie: mine=1", "Authorization: Bearer x"], []):
                await caller.send(request_bytes(target, fields=fields)).receive_message()
        first, second = agent.requests
    assert (first.values("Cookie"), second.values("Cookie")) == (["mine=1"], [])
    assert second.values("Authorization") == []


@pytest.mark.parametrize(
    ("given", "passed"),
    [("mine-7", True), ("a" * 129, False), ("a b", False), ("\xe9", False), ("", False)],
)
async def test_request_id_goes_to_the_agent_and_back_if_it_is_a_plain_one(
    shared_gateway: Gateway, given: str, passed: bool
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        request, answered = await exchange(shared_gateway, agent, [f"X-Request-ID: {given}"])
    (request_id,) = request.values("X-Request-ID")
    assert answered.values("X-Request-ID") == [request_id]
    assert (request_id == given) is passed
    assert request_id.isascii()
    assert request_id


SAID_OF_THE_WAY = [
    "Via: 1.0 edge",
    "X-Forwarded-For: 203.0.113.9, 10.0.0.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: agents.example",
    "Forwarded: for=203.0.113.9;proto=https",
    "VIA: 1.1 inner",
    "x-forwarded-for: 10.0.0.8",
]
OWN_ELEMENT = 'for=127.0.0.1;host="gateway";proto=http'


async def test_what_a_stranger_says_of_the_way_is_replaced(shared_gateway: Gateway) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        request, _ = await exchange(shared_gateway, agent, SAID_OF_THE_WAY)
    # Via has no authority, and shows loops: it is kept.
    assert request.values("Via") == ["1.0 edge, 1.1 inner, 1.1 a2a-budget-gateway"]
    assert request.values("X-Forwarded-For") == ["127.0.0.1"]
    assert request.values("X-Forwarded-Proto") == ["http"]
    assert request.values("X-Forwarded-Host") == ["gateway"]
    assert request.values("Forwarded") == [OWN_ELEMENT]


async def test_what_a_trusted_proxy_says_of_the_way_is_continued(shared_dsn: str) -> None:
    environment = {"GATEWAY_SERVER__TRUSTED_PROXIES": "127.0.0.0/8"}
    async with (
        run_gateway(shared_dsn, environment) as gateway,
        run_raw_agent(answering(ANSWER)) as agent,
    ):
        request, _ = await exchange(gateway, agent, SAID_OF_THE_WAY)
    assert request.values("Via") == ["1.0 edge, 1.1 inner, 1.1 a2a-budget-gateway"]
    assert request.values("X-Forwarded-For") == ["203.0.113.9, 10.0.0.7, 10.0.0.8, 127.0.0.1"]
    assert request.values("X-Forwarded-Proto") == ["https"]
    assert request.values("X-Forwarded-Host") == ["agents.example"]
    assert request.values("Forwarded") == [f"for=203.0.113.9;proto=https, {OWN_ELEMENT}"]


async def test_version_in_via_is_that_of_the_call(shared_gateway: Gateway) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        request = f"GET {target} HTTP/1.0\r\nHost: gateway\r\n\r\n".encode()
        await exchange_bytes(shared_gateway.url, request)
        (got,) = agent.requests
    assert got.start == "GET / HTTP/1.1"
    assert got.values("Via") == ["1.0 a2a-budget-gateway"]


@pytest.mark.parametrize(
    ("request_line", "host", "told"),
    [
        ("GET {target} HTTP/1.1", "Host: gateway\r\n", "gateway"),
        # RFC 9112 section 3.2.2: the target's, whatever Host says.
        ("GET http://agents.example{target} HTTP/1.1", "Host: gateway\r\n", "agents.example"),
        ("GET http://a'b{target} HTTP/1.1", "Host: gateway\r\n", "gateway"),  # no host
        ("GET {target} HTTP/1.0", "", "{own}"),  # which need not say
    ],
    ids=["Host", "absolute form", "absolute form without a host", "neither"],
)
async def test_agent_is_told_how_the_caller_calls_the_gateway(
    shared_gateway: Gateway, request_line: str, host: str, told: str
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        line = request_line.format(target=await target_of(shared_gateway, agent))
        await exchange_bytes(
            shared_gateway.url, f"{line}\r\n{host}Connection: close\r\n\r\n".encode()
        )
        (got,) = agent.requests
    own = shared_gateway.url.removeprefix("http://")
    assert got.values("X-Forwarded-Host") == [told.format(own=own)]


@pytest.mark.parametrize(
    "via",
    [
        "1.1 a2a-budget-gateway",
        "1.0 edge, 1.1 A2A-Budget-Gateway (comment), 1.1 other",
        "HTTP/1.1 a2a-budget-gateway",
    ],
)
async def test_call_that_passed_here_before_is_a_508(shared_gateway: Gateway, via: str) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        got = await call(shared_gateway, target, fields=["Via: 1.0 edge", f"Via: {via}"])
        assert got.start == "HTTP/1.1 508 Loop Detected"
        assert agent.connections == []


async def test_workspace_whose_url_leads_back_to_the_gateway_is_a_508(
    shared_gateway: Gateway,
) -> None:
    await shared_gateway.register("loop", f"{shared_gateway.url}/workspaces/loop/a2a")
    got = await call(shared_gateway, "/workspaces/loop/a2a")
    assert got.start == "HTTP/1.1 508 Loop Detected"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_reaches_the_agent(shared_gateway: Gateway, method: str) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        await call(shared_gateway, await target_of(shared_gateway, agent), method)
        assert [each.start for each in agent.requests] == [f"{method} / HTTP/1.1"]


@pytest.mark.parametrize(
    ("registered", "tail", "target"),
    [
        ("/base", "", "/base"),
        ("/base", "/", "/base/"),  # no redirect between the two
        ("/base/", "", "/base/"),
        ("/base/", "/x", "/base/x"),
        ("", "", "/"),
        ("", "?q", "/?q"),
        ("/base", "/v1/message:send", "/base/v1/message:send"),
        ("/base", "/v1/tasks/7:cancel?a=b?c&&=&d=", "/base/v1/tasks/7:cancel?a=b?c&&=&d="),
        # Byte for byte: nothing decoded, coded or brought to one case.
        ("/base", "/a%20b/%C3%a9?x=1&x=%2F&y", "/base/a%20b/%C3%a9?x=1&x=%2F&y"),
        ("/base", "/~%7E;v=1,2/(x)*'!$&+=@?+%2B%", "/base/~%7E;v=1,2/(x)*'!$&+=@?+%2B%"),
        ("/base", '/{a}"<b>|`^[c]?{a}"<b>|`^[c]', '/base/{a}"<b>|`^[c]?{a}"<b>|`^[c]'),
        ("/base", "/...?../..", "/base/...?../.."),  # dots that mean nothing
        ("/base", "/a2a/workspaces/2/a2a", "/base/a2a/workspaces/2/a2a"),
        ("/b%61se?key=1", "/x?y", "/b%61se/x?key=1&y"),
    ],
)
async def test_path_and_query_reach_the_agent_as_they_were_sent(
    shared_gateway: Gateway, registered: str, tail: str, target: str
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        called = await target_of(shared_gateway, agent, registered)
        assert (await call(shared_gateway, called + tail)).status == 200
        assert [each.start for each in agent.requests] == [f"POST {target} HTTP/1.1"]


@pytest.mark.parametrize(
    "authority", ["http://gateway", "HTTP://evil.example:8000", "https://user:word@evil.example"]
)
async def test_target_in_absolute_form_has_a_path_and_nothing_else(
    shared_gateway: Gateway, authority: str
) -> None:
    """RFC 9112 section 3.2.2: whom to ask is registered, not called."""
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent, "/base")
        assert (await call(shared_gateway, f"{authority}{target}/x?y=http://z")).status == 200
        (request,) = agent.requests
    assert request.start == "POST /base/x?y=http://z HTTP/1.1"
    assert request.values("Host") == [agent.url.removeprefix("http://")]
