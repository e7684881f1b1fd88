"""A workspace over its budget: what still reaches its agent, and what does not, as bytes.

The rules themselves are tables in tests/core/test_calls*.py. Here the whole gateway must hold: an
agent that would take anything counts what it gets. Every row is tried under budget, too, where
it reaches the agent; so it is the budget that stops it.
"""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from gateway.core.calls import Form
from tests.conftest import dsn_of
from tests.core.test_calls import FREE, REFUSED
from tests.running import Agent, Gateway, Received, run_agent, run_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A request as the parts in which it is sent.
Parts = Sequence[bytes]

# A slow machine must not let a call pass unchecked.
PATIENT = {"GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "10000"}

JSON = "Content-Type: application/json"
SEND = b'{"jsonrpc":"2.0","id":7,"method":"message/send","params":{}}'
CANCEL = b'{"jsonrpc":"2.0","id":7,"method":"tasks/cancel","params":{"id":"1"}}'
INSPECTED = 64 * 1024
MIB = 1024 * 1024


def call(
    body: bytes = SEND,
    tail: str = "",
    *fields: str,
    method: str = "POST",
    target: str = "/workspaces/w/a2a",
) -> Parts:
    """A call with a body of known length; `fields` take the place of the Content-Type."""
    return [
        _head(method, target + tail, *(fields or [JSON]), f"Content-Length: {len(body)}") + body
    ]


def chunked(*chunks: bytes, tail: str = "", method: str = "POST") -> Parts:
    """The same in chunks, one part each."""
    head = _head(method, f"/workspaces/w/a2a{tail}", JSON, "Transfer-Encoding: chunked")
    return [head, *(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


def _head(method: str, target: str, *fields: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.example", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def rpc(method: str) -> bytes:
    """A JSON-RPC request with this method."""
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method}).encode()


@dataclass
class Answer:
    """What came back."""

    status: int
    fields: dict[str, str]
    body: bytes


async def exchange(gateway: Gateway, parts: Parts, workspace_id: str = "w") -> Answer:
    """Send the parts on a connection of their own, each once the one before has been read."""
    url = URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for number, part in enumerate(parts):
            if number:
                # Its answer is written after what lay on older connections was read.
                assert (await gateway.json("GET", "/healthz"))[0] == 200
            writer.write(part.replace(b"/workspaces/w/", f"/workspaces/{workspace_id}/".encode()))
            await writer.drain()
        async with asyncio.timeout(10):
            return await _read_answer(reader, is_head=parts[0].startswith(b"HEAD "))
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader, is_head: bool = False) -> Answer:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    named = (line.partition(":") for line in lines if line)
    fields = {name.lower(): value.strip() for name, _, value in named}
    length = 0 if is_head else int(fields.get("content-length", 0))
    return Answer(int(status_line.split(" ")[1]), fields, await reader.readexactly(length))


def assert_refused(answer: Answer, form: Form) -> None:
    """The refusal in this form, with everything that tells a caller when to come back."""
    assert answer.status == 402, answer
    document = json.loads(answer.body)
    match form:
        case Form.JSON_RPC:
            assert document.keys() == {"jsonrpc", "id", "error"}
            sentence, details = document["error"]["message"], document["error"]["data"]
        case Form.REST:
            assert document.keys() == {"error"}
            sentence, details = document["error"]["message"], document["error"]["details"]
        case Form.PLAIN:
            sentence, details = document["detail"], [{"reason": "BUDGET_EXCEEDED"}]
            assert document["error"] == "workspace budget limit exceeded"
            assert document["violated-policies"] == ["hourly"]
    assert sentence.startswith("workspace budget limit exceeded: hourly $1.40 of $1.00; earliest")
    assert [detail["reason"] for detail in details] == ["BUDGET_EXCEEDED"]
    media_type = "application/problem+json" if form is Form.PLAIN else "application/json"
    assert answer.fields["content-type"].partition(";")[0] == media_type
    assert_no_invitation_to_pay(answer)
    assert answer.fields["cache-control"] == "no-store"
    assert 3000 < int(answer.fields["retry-after"]) <= 3600
    assert answer.fields["ratelimit-policy"] == (
        '"hourly";q=100;w=3600;qu="cents", "daily";q=1000;w=86400;qu="cents"'
    )
    assert re.fullmatch(r'"hourly";r=0;t=3[0-9]{3}, "daily";r=860', answer.fields["ratelimit"])


def assert_no_invitation_to_pay(answer: Answer) -> None:
    """Nothing that a wallet would act on: there is nothing to pay here."""
    text = " ".join([*answer.fields, *answer.fields.values(), answer.body.decode()]).lower()
    assert not re.search(r"payment|x402|billing|credit|invoice|purchase", text), text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent() -> AsyncIterator[Agent]:
    """An agent that takes anything, and counts a call as soon as its head is there."""
    async with run_agent() as agent:

        async def respond(request: web.Request) -> web.StreamResponse:
            fields = [(name.decode(), value.decode()) for name, value in request.raw_headers]
            received = Received(request.method, request.raw_path, fields, b"")
            agent.received.append(received)
            received.body = await request.content.read()
            return web.Response(body=b"" if request.method == "HEAD" else b"done")

        agent.respond = respond
        yield agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(postgres: str, agent: Agent) -> AsyncIterator[Gateway]:
    """A gateway with `w`, over one of its limits, `under`, and `zero`, whose limit is 0."""
    server = await asyncpg.connect(postgres)
    await server.execute("CREATE DATABASE over_budget TEMPLATE template_gateway STRATEGY file_copy")
    async with run_gateway(dsn_of(postgres, "over_budget"), PATIENT) as gateway:
        for workspace_id, hourly in (("w", 100), ("under", 10_000), ("zero", 0)):
            token = await gateway.register(workspace_id, agent.url)
            await gateway.spend(workspace_id, 140, token)
            await gateway.limit(workspace_id, hourly=hourly, daily=1000)
        yield gateway
    await server.execute("DROP DATABASE over_budget WITH (FORCE)")
    await server.close()


@pytest.fixture(autouse=True)
def received(agent: Agent) -> list[Received]:
    """What the agent got in this test."""
    agent.received.clear()
    return agent.received


BOUNDARY = b'--x\r\nContent-Disposition: form-data; name="method"\r\n\r\ntasks/get\r\n--x--\r\n'

STOPPED = {
    **{f"RPC {method!r}": (Form.JSON_RPC, call(rpc(method))) for method in REFUSED},
    # The method twice, in another case, elsewhere, in no text.
    "two methods, the free one first": (
        Form.JSON_RPC,
        call(b'{"jsonrpc":"2.0","method":"tasks/get","method":"message/send"}'),
    ),
    "two methods, the free one last": (
        Form.JSON_RPC,
        call(b'{"jsonrpc":"2.0","method":"message/send","method":"tasks/get"}'),
    ),
    "two methods, one of them escaped": (
        Form.JSON_RPC,
        call(b'{"jsonrpc":"2.0","method":"tasks/get","m\\u0065thod":"message/send"}'),
    ),
    "two methods in different case": (
        Form.JSON_RPC,
        call(b'{"jsonrpc":"2.0","method":"tasks/get","METHOD":"message/send"}'),
    ),
    "Method": (Form.JSON_RPC, call(b'{"jsonrpc":"2.0","Method":"message/send"}')),
    "METHOD": (Form.JSON_RPC, call(b'{"jsonrpc":"2.0","METHOD":"message/send"}')),
    "a free method in the parameters alone": (
        Form.JSON_RPC,
        call(b'{"jsonrpc":"2.0","params":{"method":"tasks/get"}}'),
    ),
    "a free method in a list": (Form.JSON_RPC, call(b'{"jsonrpc":"2.0","method":["tasks/get"]}')),
    "a space behind the method": (Form.JSON_RPC, call(rpc("tasks/cancel "))),
    "a NUL behind the method": (Form.JSON_RPC, call(rpc("tasks/cancel\0"))),
    # Bodies that laxer parsers read.
    "a batch": (Form.JSON_RPC, call(b"[" + CANCEL + b"]")),
    "a batch with a send": (Form.JSON_RPC, call(b"[" + CANCEL + b"," + SEND + b"]")),
    "two objects": (Form.JSON_RPC, call(CANCEL + SEND)),
    "two objects in two lines": (Form.JSON_RPC, call(CANCEL + b"\n" + SEND)),
    "NaN": (Form.JSON_RPC, call(CANCEL[:-1] + b',"x":NaN}')),
    "a comma at the end": (Form.JSON_RPC, call(CANCEL[:-1] + b",}")),
    "a comment": (Form.JSON_RPC, call(CANCEL[:-1] + b"/**/}")),
    "single quotes": (Form.JSON_RPC, call(b"{'jsonrpc':'2.0','method':'tasks/get'}")),
    "bytes that are no UTF-8": (Form.JSON_RPC, call(CANCEL[:-1] + b',"x":"\xff"}')),
    "UTF-8 of a surrogate": (Form.JSON_RPC, call(CANCEL[:-1] + b',"x":"\xed\xa0\x80"}')),
    "a NUL within a text": (Form.JSON_RPC, call(CANCEL[:-1] + b',"x":"\0"}')),
    "a NUL at the end": (Form.JSON_RPC, call(CANCEL + b"\0")),
    "a byte order mark": (Form.JSON_RPC, call(b"\xef\xbb\xbf" + CANCEL)),
    "UTF-16": (Form.JSON_RPC, call(CANCEL.decode().encode("utf-16"))),
    "UTF-16 without a mark": (Form.JSON_RPC, call(CANCEL.decode().encode("utf-16-le"))),
    "UTF-32": (Form.JSON_RPC, call(CANCEL.decode().encode("utf-32"))),
    "deep nesting": (
        Form.JSON_RPC,
        call(CANCEL[:-1] + b',"x":' + b"[" * 90_000 + b"]" * 90_000 + b"}"),
    ),
    "deep nesting without an end": (
        Form.JSON_RPC,
        call(CANCEL[:-1] + b',"x":' + b'{"a":' * 90_000),
    ),
    "a number of 5,000 digits": (Form.JSON_RPC, call(CANCEL[:-1] + b',"x":%s}' % (b"1" * 5000))),
    "a list": (Form.PLAIN, call(b'["tasks/cancel"]')),
    "a text": (Form.PLAIN, call(b'"tasks/cancel"')),
    "null": (Form.PLAIN, call(b"null")),
    "an empty object": (Form.PLAIN, call(b"{}")),
    "no body": (Form.PLAIN, call(b"")),
    # Bodies that say that they are something else.
    "a send as text": (Form.JSON_RPC, call(SEND, "", "Content-Type: text/plain")),
    "a send without a type": (Form.JSON_RPC, call(SEND, "", "Accept: */*")),
    "a send as a form": (
        Form.JSON_RPC,
        call(SEND, "", "Content-Type: application/x-www-form-urlencoded"),
    ),
    "a form": (
        Form.PLAIN,
        call(b"method=tasks/get", "", "Content-Type: application/x-www-form-urlencoded"),
    ),
    "a form of parts": (
        Form.PLAIN,
        call(BOUNDARY, "", "Content-Type: multipart/form-data; boundary=x"),
    ),
    "XML": (Form.PLAIN, call(b"<method>tasks/get</method>", "", "Content-Type: text/xml")),
    # Bodies that the agent may read otherwise than we do.
    "gzip": (Form.JSON_RPC, call(gzip.compress(CANCEL), "", JSON, "Content-Encoding: gzip")),
    "gzip that is none": (Form.JSON_RPC, call(CANCEL, "", JSON, "Content-Encoding: gzip")),
    "gzip without a word": (Form.JSON_RPC, call(gzip.compress(CANCEL))),
    "an unknown coding": (Form.JSON_RPC, call(CANCEL, "", JSON, "content-encoding: zebra")),
    "the coding of none": (Form.JSON_RPC, call(CANCEL, "", JSON, "Content-Encoding: identity")),
    "UTF-7": (Form.JSON_RPC, call(CANCEL, "", f"{JSON}; charset=utf-7")),
    "UTF-16 by its name": (Form.JSON_RPC, call(CANCEL, "", f"{JSON};charset=UTF-16LE")),
    "a charset in quotes": (Form.JSON_RPC, call(CANCEL, "", f'{JSON}; charset="utf-7"')),
    "two charsets": (Form.JSON_RPC, call(CANCEL, "", f"{JSON}; charset=utf-8; charset=utf-7")),
    "an extended charset": (Form.JSON_RPC, call(CANCEL, "", f"{JSON}; charset*=us-ascii''utf-7")),
    # Bodies that are too long to look into, or whose end is far away.
    "over 64 KiB": (Form.JSON_RPC, call(CANCEL.ljust(INSPECTED + 1))),
    "over 64 KiB in chunks": (Form.JSON_RPC, chunked(CANCEL.ljust(INSPECTED), b" ")),
    "a send behind 64 KiB of blanks": (Form.JSON_RPC, call(SEND.rjust(INSPECTED))),
    "over 1 MiB": (Form.JSON_RPC, call(CANCEL.ljust(MIB + 1))),
    # In the form that the caller seems to understand.
    **{
        f"{what} as {content_type}": (form, call(body, "", *fields))
        for content_type, (rpc_form, other_form) in {
            "application/json": (Form.JSON_RPC, Form.JSON_RPC),
            "Application/JSON ; charset=utf-8": (Form.JSON_RPC, Form.JSON_RPC),
            "application/a2a+json": (Form.JSON_RPC, Form.JSON_RPC),
            "application/json-rpc": (Form.JSON_RPC, Form.JSON_RPC),
            "text/plain": (Form.JSON_RPC, Form.PLAIN),
            "application/jsonl": (Form.JSON_RPC, Form.PLAIN),
        }.items()
        for what, body, form, fields in (
            (
                "JSON-RPC over 64 KiB",
                SEND.ljust(INSPECTED + 1),
                rpc_form,
                [f"Content-Type: {content_type}"],
            ),
            (
                "a prompt over 64 KiB",
                b'{"prompt":"Hello"}'.ljust(INSPECTED + 1),
                other_form,
                [f"Content-Type: {content_type}"],
            ),
            (
                "coded JSON-RPC",
                gzip.compress(SEND),
                other_form,
                [f"Content-Type: {content_type}", "Content-Encoding: gzip"],
            ),
            (
                "JSON-RPC that claims a coding",
                SEND,
                rpc_form,
                [f"Content-Type: {content_type}", "Content-Encoding: identity"],
            ),
            ("a fault", b'{"jsonrpc":"2.0",', rpc_form, [f"Content-Type: {content_type}"]),
            ("another fault", b'{"prompt":"Hello",', other_form, [f"Content-Type: {content_type}"]),
        )
    },
    "PUT of a prompt over 64 KiB": (
        Form.PLAIN,
        call(b'{"prompt":"Hello"}'.ljust(INSPECTED + 1), method="PUT"),
    ),
    "REST over 64 KiB": (Form.REST, call(SEND.ljust(INSPECTED + 1), "/message:send")),
    "a send byte by byte": (
        Form.JSON_RPC,
        chunked(*(SEND[at : at + 1] for at in range(len(SEND)))),
    ),
    "a method that is told late": (
        Form.JSON_RPC,
        chunked(
            b'{"jsonrpc":"2.0",', b'"params":{"method":"tasks/get"},', b'"method":"message/send"}'
        ),
    ),
    "a second method that is told late": (
        Form.JSON_RPC,
        chunked(CANCEL[:-1], b',"method":"message/send"}'),
    ),
    "a first chunk that is a free call": (Form.JSON_RPC, chunked(CANCEL, SEND)),
    "a first chunk that is a free call, then a blank": (Form.JSON_RPC, chunked(CANCEL, b" ", SEND)),
    "a method cut within its name": (Form.JSON_RPC, chunked(CANCEL[:-1] + b',"met', b'hod":"x"}')),
    # HTTP methods.
    **{
        f"{method} of a send": (Form.JSON_RPC, call(method=method))
        for method in ("PUT", "PATCH", "PROPFIND", "MKCOL", "PURGE", "LINK", "QUERY", "M-SEARCH")
    },
    "PUT of nothing": (Form.PLAIN, call(b"", method="PUT")),
    **{
        f"{name}: GET": (Form.JSON_RPC, call(SEND, "", JSON, f"{name}: GET"))
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    },
    "another method in the query": (Form.JSON_RPC, call(SEND, "?_method=GET")),
    # Targets.
    "a free method in the query": (Form.JSON_RPC, call(SEND, "?method=tasks/get")),
    "a slash": (Form.JSON_RPC, call(SEND, "/")),
    "any path": (Form.JSON_RPC, call(SEND, "/rpc")),
    "a path of the agent's own": (Form.PLAIN, call(b'{"prompt":"Hello"}', "/chat")),
    "absolute form": (Form.JSON_RPC, call(target="http://elsewhere.example/workspaces/w/a2a")),
    "absolute form with another's id": (
        Form.JSON_RPC,
        call(target="http://gateway.example:80/workspaces/w/a2a", tail="?/workspaces/zero/a2a"),
    ),
    # A2A's REST paths.
    **{
        f"REST {tail}": (Form.REST, call(b'{"message":{}}', tail))
        for tail in (
            "/message:send",
            "/message:stream",
            "/v1/message:send",
            "/tenant/message:stream",
            "/message%3Asend",
            "/message%3asend",
            "/%6d%65ssage:send",
            "/message:send?/tasks/1:cancel",
            "/tasks",
            "/tasks/1",
            "/tasks/1:send",
            "/tasks/1:cancel%20",
            "/tasks/1:cancel;v=1",
            "/tasks/1%253Acancel",
            "/tasks/1:cancel/message:send",
            # As Express and servlet containers read it.
            "/message:send/",
            "/Message:Send",
            "/message:send;v=1",
            "/message;v=1/message:send",
            "/message:send;/tasks/1:cancel",
            "/message:send%3B/tasks/1:cancel",
            "/message:send%3F/tasks/1:cancel",
        )
    },
    "a REST path with a free RPC body": (Form.REST, call(CANCEL, "/message:send")),
    "a REST path that Express reads, with a free RPC body": (
        Form.REST,
        call(CANCEL, "/Message:send/"),
    ),
    "a REST path with parameters, with a free RPC body": (
        Form.REST,
        call(CANCEL, "/message:send;v=1"),
    ),
    "a REST path as text": (Form.REST, call(b"", "/message:send", "Content-Type: text/plain")),
    "a REST path with a coded body": (
        Form.REST,
        call(b"", "/message:send", "Content-Encoding: br"),
    ),
    "PUT of a free REST path": (Form.REST, call(b"", "/tasks/1:cancel", method="PUT")),
    "a free REST path with a send": (Form.REST, call(SEND, "/tasks/1:cancel")),
    "a free REST path with a batch": (Form.REST, call(b"[" + SEND + b"]", "/tasks/1:subscribe")),
    "a free REST path with a coded send": (
        Form.REST,
        call(gzip.compress(SEND), "/tasks/1:cancel", JSON, "Content-Encoding: gzip"),
    ),
    "a free REST path with a send of over 64 KiB": (
        Form.REST,
        chunked(SEND.ljust(INSPECTED), b" ", tail="/tasks/1:cancel"),
    ),
    "a free REST path with over 64 KiB": (
        Form.REST,
        call(b"{}".ljust(INSPECTED + 1), "/tasks/1:cancel"),
    ),
}

# What our paths and the agent's could mean differently is refused whatever the budget.
AMBIGUOUS = [
    "//message:send",
    "/tasks/1:cancel//message:send",
    "/message:send//",
    "/..",
    "/../../w/a2a/message:send",
    "/tasks/x:cancel/../../message:send",
    "/message:send/../tasks/1:cancel",
    "/message:send/%2e%2e/tasks/1:cancel",
    "/message:send/.%2E/tasks/1:cancel",
    "/./message:send",
    "/message:send/..;/tasks/1:cancel",
    "/message:send%2F..%2Ftasks%2F1:cancel",
    "/message:send%2f",
    "/message:send\\..\\tasks\\1:cancel",
    "/message:send%5c..%5ctasks%5c1:cancel",
    "/message:send%00/tasks/1:cancel",
    "/message:send#/tasks/1:cancel",
    "/message:send?#/tasks/1:cancel",
]

GOES_THROUGH = {
    **{f"RPC {method}": call(rpc(method)) for method in FREE},
    **{f"RPC {method} at a path": call(rpc(method), "/rpc") for method in ("tasks/get", "GetTask")},
    "RPC as text": call(CANCEL, "", "Content-Type: text/plain;charset=UTF-8"),
    "RPC without a type": call(CANCEL, "", "Accept: */*"),
    "RPC with a charset in quotes": call(CANCEL, "", f'{JSON}; charset="UTF-8"'),
    "RPC with blanks": call(b" \r\n\t" + CANCEL + b"\n"),
    "RPC of 64 KiB": call(CANCEL.ljust(INSPECTED)),
    "RPC of 64 KiB in chunks": chunked(CANCEL, b" " * (INSPECTED - len(CANCEL))),
    "RPC byte by byte": chunked(*(CANCEL[at : at + 1] for at in range(len(CANCEL)))),
    "RPC with a method in its parameters": call(
        b'{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"method":"message/send"}}'
    ),
    "RPC in absolute form": call(CANCEL, target="http://elsewhere.example/workspaces/w/a2a"),
    **{
        f"REST {tail}": call(b"{}", tail)
        for tail in (
            "/tasks/1:cancel",
            "/tasks/1:subscribe",
            "/tasks/1/pushNotificationConfigs",
            "/v1/tasks/1:cancel",
            "/v1/tasks/1:subscribe",
            "/v1/tasks/1/pushNotificationConfigs",
            "/tenant/tasks/1:cancel",
            "/tasks/1%3Acancel",
            "/tasks/a%20b:cancel?x=1",
        )
    },
    "REST cancel without a body": call(b"", "/tasks/1:cancel"),
    "REST cancel in chunks": chunked(b"{", b"}", tail="/tasks/1:cancel"),
    **{
        f"{method} {tail}": call(b"", tail, "Accept: */*", method=method)
        for method, tail in (
            ("GET", ""),
            ("GET", "/v1/tasks/1"),
            ("GET", "/tasks/1:subscribe"),
            ("GET", "/message:send"),
            ("HEAD", "/tasks/1"),
            ("OPTIONS", "/message:send"),
            ("DELETE", "/tasks/1/pushNotificationConfigs/2"),
        )
    },
    # By its method alone (section 5): A2A starts no work by it, whatever its body says.
    "GET with a body": call(SEND, method="GET"),
    "DELETE with a body": call(SEND, method="DELETE"),
    "GET with a body of over 1 MiB": chunked(SEND.ljust(MIB), b" ", method="GET"),
}


@pytest.mark.parametrize(("form", "parts"), STOPPED.values(), ids=STOPPED.keys())
async def test_over_budget_this_is_refused_and_the_agent_gets_nothing(
    gateway: Gateway, received: list[Received], form: Form, parts: Parts
) -> None:
    assert_refused(await exchange(gateway, parts), form)
    assert received == []


@pytest.mark.parametrize(("form", "parts"), STOPPED.values(), ids=STOPPED.keys())
async def test_under_budget_the_same_reaches_the_agent_as_it_was_sent(
    gateway: Gateway, received: list[Received], form: Form, parts: Parts
) -> None:
    answer = await exchange(gateway, parts, "under")
    assert (answer.status, answer.body) == (200, b"done")
    assert [each.body for each in received] == [body_of(parts)]


@pytest.mark.parametrize("parts", GOES_THROUGH.values(), ids=GOES_THROUGH.keys())
async def test_over_budget_this_goes_through_as_it_was_sent(
    gateway: Gateway, received: list[Received], parts: Parts
) -> None:
    answer = await exchange(gateway, parts)
    method, target, _ = parts[0].decode().split(" ", 2)
    path = URL(target, encoded=True).raw_path_qs.removeprefix("/workspaces/w/a2a")
    assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"done")
    assert [(each.method, each.target) for each in received] == [(method, path or "/")]
    assert [each.body for each in received] == [body_of(parts)]


def body_of(parts: Parts) -> bytes:
    """The body of a request that is sent in these parts."""
    if len(parts) == 1:
        return parts[0].partition(b"\r\n\r\n")[2]
    return b"".join(part.split(b"\r\n", 1)[1][:-2] for part in parts[1:-1])


@pytest.mark.parametrize("tail", AMBIGUOUS)
async def test_path_that_means_different_things_is_400_whatever_the_budget(
    gateway: Gateway, received: list[Received], tail: str
) -> None:
    for authority in ("", "http://gateway.example"):
        for workspace_id in ("w", "under"):
            parts = call(CANCEL, tail, target=f"{authority}/workspaces/w/a2a")
            answer = await exchange(gateway, parts, workspace_id)
            assert (answer.status, json.loads(answer.body)["status"]) == (400, 400)
            assert answer.fields["content-type"].startswith("application/problem+json")
    assert received == []


async def test_id_in_another_spelling_has_the_same_budget(
    gateway: Gateway, received: list[Received]
) -> None:
    answer = await exchange(gateway, call(target="/workspaces/%77/a2a"))
    assert_refused(answer, Form.JSON_RPC)
    assert received == []


async def test_free_call_in_chunks_reaches_the_agent_only_when_it_is_known_whole(
    gateway: Gateway, received: list[Received]
) -> None:
    *parts, end = chunked(CANCEL, b"\n", b" ")
    url = URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for part in parts:
        writer.write(part)
        assert (await gateway.json("GET", "/healthz"))[0] == 200
        assert received == []
    writer.write(end)
    assert (await _read_answer(reader)).status == 200
    assert [each.body for each in received] == [CANCEL + b"\n "]
    writer.close()


async def test_send_behind_a_free_call_on_one_connection_is_refused(
    gateway: Gateway, received: list[Received]
) -> None:
    url = URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"".join([*call(CANCEL), *call(SEND)]))
    assert (await _read_answer(reader)).status == 200
    assert_refused(await _read_answer(reader), Form.JSON_RPC)
    assert [each.body for each in received] == [CANCEL]
    writer.close()


@pytest.mark.parametrize("rpc_id", ["7", "-1", '"a-1"', "null", "1.5"])
async def test_refusal_repeats_the_id_of_the_call(gateway: Gateway, rpc_id: str) -> None:
    body = b'{"jsonrpc":"2.0","id":%s,"method":"message/send"}' % rpc_id.encode()
    answer = await exchange(gateway, call(body))
    assert json.loads(answer.body)["id"] == json.loads(rpc_id)


@pytest.mark.parametrize(
    "parts",
    [call(), call(b"{}", "/message:send"), call(b"Hello", "", "Content-Type: text/plain")],
    ids=["JSON-RPC", "REST", "plain"],
)
async def test_limit_of_0_tells_no_time_to_come_back(
    gateway: Gateway, received: list[Received], parts: Parts
) -> None:
    answer = await exchange(gateway, parts, "zero")
    assert answer.status == 402
    assert b"hourly $1.40 of $0.00; no retry before the limit is raised" in answer.body
    assert "retry-after" not in answer.fields
    assert answer.fields["ratelimit"] == '"hourly";r=0, "daily";r=860'
    assert answer.fields["cache-control"] == "no-store"
    assert_no_invitation_to_pay(answer)
    assert received == []


TEXT = "Content-Type: text/plain"


@pytest.mark.parametrize(
    ("fields", "sent", "form"),
    [
        # The rest of the body never comes.
        ([JSON, "Content-Length: 9000000"], b"", Form.JSON_RPC),
        ([TEXT, "Content-Length: 9000000"], SEND, Form.JSON_RPC),
        ([TEXT, "Content-Length: 9000000"], b"Hello", Form.PLAIN),
        ([TEXT, "Content-Encoding: br", "Content-Length: 9"], b"\x0b", Form.PLAIN),
        (
            [JSON, "Transfer-Encoding: chunked"],
            b"%x\r\n%b" % (MIB, b"[".ljust(INSPECTED + 1)),
            Form.JSON_RPC,
        ),
        # Who asks whether to send it need not.
        ([TEXT, "Content-Length: 9000000", "Expect: 100-continue"], b"", Form.PLAIN),
        ([JSON, "Content-Length: 9000000", "Expect: 100-continue"], b"", Form.JSON_RPC),
    ],
)
async def test_refusal_waits_for_no_more_of_a_body_than_is_looked_into(
    gateway: Gateway, received: list[Received], fields: list[str], sent: bytes, form: Form
) -> None:
    answer = await exchange(gateway, [_head("POST", "/workspaces/w/a2a", *fields) + sent])
    assert_refused(answer, form)
    assert answer.fields["connection"] == "close"
    assert received == []
