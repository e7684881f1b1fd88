"""Agent cards through the gateway: where they are found, what they say, and when they are new."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
from a2a.client import A2ACardResolver
from aiohttp import web

from gateway.web import agent_cards
from tests.running import Agent, Gateway, Received, run_gateway, until
from tests.storage.wire import open_wire

# Everywhere a client looks: the SDKs below the address they were given, the JavaScript SDK beside
# it, 0.2 by the older name.
PLACES = [
    "/a2a/.well-known/agent-card.json",
    "/a2a/.well-known/agent.json",
    "/.well-known/agent-card.json",
    "/.well-known/agent.json",
]
CARD_PATH = "/workspaces/w/a2a/.well-known/agent-card.json"
LARGE = {"name": "x" * agent_cards.CARD_BYTES_MAX}
NOBODY = "http://127.0.0.1:9"

EXTENDED_METHODS = [
    "GetExtendedAgentCard",
    "agent/getAuthenticatedExtendedCard",
    "agent/authenticatedExtendedCard",
]
EXTENDED_PATHS = ["/extendedAgentCard", "/acme/extendedAgentCard", "/v1/card", "/card"]


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """What an agent answers at one path."""

    document: object = None
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    reason: str | None = None

    @property
    def text(self) -> bytes:
        """The body's bytes."""
        return json.dumps(self.document).encode() if self.body is None else self.body


def serve(agent: Agent, pages: Mapping[str, Page]) -> None:
    """Let the agent answer by the path, else 404, and remember what it was sent."""

    async def respond(request: web.Request) -> web.StreamResponse:
        fields = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        body = await request.content.read()
        agent.received.append(Received(request.method, request.raw_path, fields, body))
        page = pages.get(request.path, Page({"error": "not here"}, 404))
        headers = [("Content-Type", "application/json"), *page.headers]
        return web.Response(status=page.status, reason=page.reason, headers=headers, body=page.text)

    agent.respond = respond


def card_at(address: str) -> dict[str, Any]:
    """A card in the forms of 1.0 and 0.3 at once."""
    return {
        "name": "Reno Stars",
        "description": "Knows kitchens.",
        "version": "1",
        "supportedInterfaces": [
            {"url": f"{address}/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": f"{address}/v1", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
        ],
        "url": f"{address}/",
        "preferredTransport": "JSONRPC",
        "protocolVersion": "0.3.0",
        "additionalInterfaces": [{"url": f"{address}/v1", "transport": "HTTP+JSON"}],
        "capabilities": {"streaming": True, "extendedAgentCard": True},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "s", "name": "é", "description": "d", "tags": ["x"]}],
    }


def signed(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card with a signature, which is right as long as nothing changes."""
    return {**card, "signatures": [{"protected": "x", "signature": "y"}]}


def with_grpc(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card with interfaces that only gRPC reaches, each at the first place."""
    old = {"url": "127.0.0.1:50051", "transport": "GRPC"}
    new = {"url": "http://127.0.0.1:50051", "protocolBinding": "GRPC", "protocolVersion": "1.0"}
    return {
        **card,
        "supportedInterfaces": [new, *card["supportedInterfaces"]],
        "additionalInterfaces": [old, *card["additionalInterfaces"]],
    }


async def get(
    gateway: Gateway, path: str, headers: Headers | None = None, method: str = "GET"
) -> tuple[aiohttp.ClientResponse, bytes]:
    """The answer and the bytes of its body."""
    async with gateway.client.request(method, gateway.url + path, headers=headers) as answer:
        return answer, await answer.read()


async def register(gateway: Gateway, url: str, card: object = None) -> None:
    """Register workspace `w` with a card."""
    body = {"id": "w", "url": url, "agent_card": card}
    status, answer = await gateway.json("POST", "/registry/register", body)
    assert status == 200, answer


def coded(document: object, coding: str, tail: bytes = b"") -> Page:
    """A page that is coded as it says, with something behind it."""
    text = json.dumps(document).encode()
    for each in coding.lower().split(", "):
        text = zlib.compress(text) if each == "deflate" else gzip.compress(text, mtime=0)
    return Page(body=text + tail, headers=[("Content-Encoding", coding)])


def targets(agent: Agent) -> list[str]:
    """What the agent was asked for, in order."""
    return [each.target for each in agent.received]


@pytest.fixture
def address(agent: Agent) -> str:
    """The agent's own address, as its card has it."""
    return f"{agent.url}/base"


@pytest.fixture
async def card_gateway(gateway: Gateway, agent: Agent, address: str) -> Gateway:
    """A gateway, and in workspace `w` an agent that serves its card in both versions' places."""
    page = Page(signed(with_grpc(card_at(address))))
    pages = {f"/base{path}": page for path in EXTENDED_PATHS}
    serve(agent, {"/base/.well-known/agent-card.json": page, **pages})
    await register(gateway, address)
    return gateway


def public(gateway: Gateway) -> str:
    """The workspace's address for who asked this gateway without a public URL."""
    return f"{gateway.url}/workspaces/w/a2a"


# What it says.


@pytest.mark.parametrize("place", PLACES)
async def test_card_at_every_place_leads_to_the_gateway_and_nowhere_else(
    card_gateway: Gateway, agent: Agent, place: str
) -> None:
    answer, body = await get(card_gateway, f"/workspaces/w{place}")
    assert answer.status == 200
    assert answer.headers.getall("Content-Type") == ["application/json"]
    assert json.loads(body) == card_at(public(card_gateway))
    assert agent.url.encode() not in body
    assert b"50051" not in body


@pytest.mark.parametrize("path", EXTENDED_PATHS)
async def test_extended_card_over_rest_leads_to_the_gateway_and_nowhere_else(
    card_gateway: Gateway, agent: Agent, path: str
) -> None:
    answer, body = await get(card_gateway, f"/workspaces/w/a2a{path}?x=1")
    assert (answer.status, json.loads(body)) == (200, card_at(public(card_gateway)))
    assert agent.url.encode() not in body
    assert targets(agent) == [f"/base{path}?x=1"]


@pytest.mark.parametrize("method", EXTENDED_METHODS)
async def test_extended_card_over_json_rpc_leads_to_the_gateway_and_nowhere_else(
    gateway: Gateway, agent: Agent, address: str, method: str
) -> None:
    card = signed(with_grpc(card_at(address)))
    serve(agent, {"/base": Page({"jsonrpc": "2.0", "id": 7, "result": card})})
    await register(gateway, address)
    question = {"jsonrpc": "2.0", "id": 7, "method": method}
    async with gateway.client.post(public(gateway), json=question) as answer:
        body = await answer.read()
    expected = {"jsonrpc": "2.0", "id": 7, "result": card_at(public(gateway))}
    assert (answer.status, json.loads(body)) == (200, expected)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert agent.url.encode() not in body


async def test_client_of_the_sdk_reads_the_card_and_finds_only_the_gateway(
    card_gateway: Gateway,
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        card = await A2ACardResolver(client, public(card_gateway)).get_agent_card()
    base = public(card_gateway)
    assert [each.url for each in card.supported_interfaces] == [f"{base}/", f"{base}/v1"]


async def test_public_url_stands_in_the_card_whatever_was_asked(
    dsn: str, agent: Agent, address: str, stack: AsyncExitStack
) -> None:
    environment = {"GATEWAY_SERVER__PUBLIC_URL": "https://gw.example/agents/"}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    serve(agent, {"/base/.well-known/agent-card.json": Page(card_at(address))})
    await register(gateway, address)
    for place in PLACES:
        _, body = await get(gateway, f"/workspaces/w{place}", {"Host": "other.example"})
        assert json.loads(body) == card_at("https://gw.example/agents/workspaces/w/a2a")


async def test_without_a_public_url_the_card_names_the_host_that_was_asked(
    card_gateway: Gateway,
) -> None:
    _, body = await get(card_gateway, CARD_PATH, {"Host": "Gw.example:8080"})
    assert json.loads(body) == card_at("http://Gw.example:8080/workspaces/w/a2a")


async def test_card_that_leads_here_already_stays_as_it_was_signed(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    card = signed(card_at(public(gateway)))
    serve(agent, {"/base/.well-known/agent-card.json": Page(card)})
    await register(gateway, address)
    assert json.loads((await get(gateway, CARD_PATH))[1]) == card


# Who may read it.


async def test_budget_that_is_spent_hides_no_card(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    card = card_at(address)
    page, rpc_page = Page(card), Page({"jsonrpc": "2.0", "id": 1, "result": card})
    paths = ["/base/.well-known/agent-card.json", "/base/v1/card"]
    serve(agent, {**dict.fromkeys(paths, page), "/base": rpc_page})
    await register(gateway, address)
    await gateway.limit("w", hourly=0)
    assert (await gateway.json("POST", "/workspaces/w/a2a", {"method": "SendMessage"}))[0] == 402
    for path in [*PLACES, "/a2a/v1/card"]:
        answer, body = await get(gateway, f"/workspaces/w{path}")
        assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))
    for method in EXTENDED_METHODS:
        question = {"jsonrpc": "2.0", "id": 1, "method": method}
        status, found = await gateway.json("POST", "/workspaces/w/a2a", question)
        assert (status, found["result"]) == (200, card_at(public(gateway)))


async def test_card_of_the_agent_needs_no_database(
    dsn: str, agent: Agent, address: str, stack: AsyncExitStack
) -> None:
    wire = await stack.enter_async_context(open_wire(dsn))
    gateway = await stack.enter_async_context(run_gateway(wire.dsn))
    serve(agent, {"/base/.well-known/agent-card.json": Page(card_at(address))})
    await register(gateway, address)
    wire.cut()
    answer, body = await get(gateway, CARD_PATH)
    assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))
    assert answer.headers["Budget-Check"] == "skipped"
    agent.respond = None  # has no card any more, and the registered one cannot be read
    answer, _ = await get(gateway, CARD_PATH)
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)


async def test_agent_that_is_away_is_told_of_before_a_database_that_is_away_too(
    dsn: str, stack: AsyncExitStack
) -> None:
    wire = await stack.enter_async_context(open_wire(dsn))
    gateway = await stack.enter_async_context(run_gateway(wire.dsn))
    await register(gateway, NOBODY, card_at(NOBODY))
    wire.cut()
    assert (await gateway.json("GET", CARD_PATH))[0] == 502


@pytest.mark.parametrize("path", [CARD_PATH, "/workspaces/w/.well-known/agent.json"])
async def test_workspace_that_is_not_there_has_no_card(gateway: Gateway, path: str) -> None:
    assert (await gateway.json("GET", path))[0] == 404


@pytest.mark.parametrize("status", [401, 403])
async def test_agent_that_wants_to_know_who_asks_is_taken_at_its_word(
    gateway: Gateway, agent: Agent, address: str, status: int
) -> None:
    headers = [("WWW-Authenticate", 'Bearer realm="agent"'), ("WWW-Authenticate", "Basic")]
    headers += [("ETag", '"of-the-refusal"')]
    page = Page(None, status, headers, b"who are you?")
    serve(agent, {"/base/.well-known/agent-card.json": page})
    await register(gateway, address, card_at(address))
    answer, body = await get(gateway, CARD_PATH)
    assert (answer.status, body) == (status, b"who are you?")
    assert answer.headers.getall("WWW-Authenticate") == ['Bearer realm="agent"', "Basic"]
    assert answer.headers["ETag"] == '"of-the-refusal"'
    assert len(agent.received) == 1


async def test_agent_sees_who_asks_and_in_which_version(
    card_gateway: Gateway, agent: Agent
) -> None:
    headers = {"Authorization": "Bearer for-the-agent", "A2A-Version": "1.0", "X-Request-ID": "r-1"}
    await get(card_gateway, f"{CARD_PATH}?tenant=a", headers)
    sent = dict(agent.received[0].headers)
    assert {name: sent[name] for name in headers} == headers
    assert agent.received[0].target == "/base/.well-known/agent-card.json?tenant=a"


# Where it is looked for.


async def test_card_is_looked_for_below_the_registered_url_and_then_at_its_origin(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    serve(agent, {})
    await register(gateway, f"{address}/")
    assert (await get(gateway, "/workspaces/w/a2a/.well-known/agent.json"))[0].status == 404
    assert targets(agent) == [
        "/base/.well-known/agent.json",  # as it was asked
        "/base/.well-known/agent-card.json",
        "/.well-known/agent.json",
        "/.well-known/agent-card.json",
    ]


async def test_agent_at_the_root_of_its_host_is_not_asked_twice(
    gateway: Gateway, agent: Agent
) -> None:
    serve(agent, {})
    await register(gateway, agent.url)
    await get(gateway, CARD_PATH)
    assert targets(agent) == ["/.well-known/agent-card.json", "/.well-known/agent.json"]


@pytest.mark.parametrize(
    "path",
    [
        "/base/.well-known/agent.json",  # an agent of 0.2
        "/.well-known/agent-card.json",  # one below a path of its host
        "/.well-known/agent.json",
    ],
)
async def test_card_is_found_wherever_the_agent_has_it(
    gateway: Gateway, agent: Agent, address: str, path: str
) -> None:
    serve(agent, {path: Page(card_at(address))})
    await register(gateway, address)
    for place in PLACES:
        answer, body = await get(gateway, f"/workspaces/w{place}")
        assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))


@pytest.mark.parametrize(
    "page",
    [
        Page({"name": "error"}, 500),
        Page(card_at("http://elsewhere.example"), 203),
        Page(None, 302, [("Location", "/base/.well-known/agent.json")]),  # never followed
        Page(body=b"<!doctype html>"),  # one page for every path
        Page(body=b""),
        Page(body=b"[" * 100_000),
        Page(["a card"]),
        Page("a card"),
        Page({}),
        Page(body=b"x", headers=[("Content-Encoding", "br")]),
        Page(body=b"no gzip", headers=[("Content-Encoding", "gzip")]),
        Page(LARGE),
        coded(LARGE, "gzip"),
        coded({"name": "twice"}, "gzip, gzip"),
        coded({"name": "followed"}, "gzip", b"by more"),
        Page(
            body=gzip.compress(b'{"name":"x"}', mtime=0)[:-1],
            headers=[("Content-Encoding", "gzip")],
        ),
    ],
    ids=lambda page: f"{page.status} {str(page.body or page.document)[:20]}",
)
async def test_place_without_a_card_is_passed_over(
    gateway: Gateway, agent: Agent, address: str, page: Page
) -> None:
    last = Page(card_at(address))
    serve(agent, {"/base/.well-known/agent-card.json": page, "/.well-known/agent.json": last})
    await register(gateway, address)
    answer, body = await get(gateway, CARD_PATH)
    assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))


async def test_agent_that_is_away_has_the_card_that_it_registered_with(
    gateway: Gateway, address: str
) -> None:
    await register(gateway, f"{NOBODY}/base", signed(with_grpc(card_at(f"{NOBODY}/base"))))
    for place in PLACES:
        answer, body = await get(gateway, f"/workspaces/w{place}")
        assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))
    again, _ = await get(gateway, CARD_PATH, {"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304


async def test_agent_without_a_card_has_the_one_that_it_registered_with(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    serve(agent, {})
    await register(gateway, address, card_at(address))
    answer, body = await get(gateway, CARD_PATH)
    assert (answer.status, json.loads(body)) == (200, card_at(public(gateway)))


@pytest.mark.parametrize("registered", [None, {}])
async def test_agent_without_any_card_is_a_404(
    gateway: Gateway, agent: Agent, address: str, registered: object
) -> None:
    # One place that cannot be read does not make an agent that answers one that is away.
    serve(agent, {"/base/.well-known/agent-card.json": Page(LARGE)})
    await register(gateway, address, registered)
    answer, body = await get(gateway, CARD_PATH)
    assert answer.status == 404
    assert json.loads(body)["detail"] == "This workspace's agent has no card."


@pytest.mark.parametrize("registered", [None, {}])
async def test_agent_that_is_away_and_registered_without_a_card_is_a_502(
    gateway: Gateway, registered: object
) -> None:
    await register(gateway, NOBODY, registered)
    assert (await gateway.json("GET", CARD_PATH))[0] == 502


@pytest.mark.parametrize("has_registered", [True, False])
async def test_agent_that_does_not_answer_is_not_waited_for_long(
    gateway: Gateway,
    agent: Agent,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    has_registered: bool,
) -> None:
    left = asyncio.Event()

    async def respond(_request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return web.Response()

    agent.respond = respond
    monkeypatch.setattr(agent_cards, "SEARCH_TIMEOUT_S", 0.2)
    await register(gateway, address, card_at(address) if has_registered else None)
    status, _ = await gateway.json("GET", CARD_PATH)
    assert status == (200 if has_registered else 504)
    await until(left.is_set)


# When it is new.


async def test_card_has_a_tag_of_its_own_and_is_not_sent_again_to_who_has_it(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    headers = [
        ("ETag", '"of-the-agent"'),
        ("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT"),
        ("Cache-Control", "max-age=60"),
        ("Expires", "Tue, 24 Nov 2026 00:01:00 GMT"),
        ("Content-Location", "/card"),
        ("Vary", "Authorization"),
        ("Vary", "A2A-Version"),
        ("Content-Digest", "sha-256=:AA==:"),
        ("Accept-Ranges", "bytes"),
        ("Connection", "X-Hop"),
        ("X-Hop", "from the agent to the gateway"),
        ("X-Agent", "yes"),
    ]
    page = Page(card_at(address), headers=headers)
    serve(agent, {"/base/.well-known/agent-card.json": page})
    await register(gateway, address)
    first, _ = await get(gateway, CARD_PATH)
    tag = first.headers["ETag"]
    assert (tag[0], first.headers["X-Agent"]) == ('"', "yes")
    assert not {"Last-Modified", "Content-Digest", "Accept-Ranges", "X-Hop"} & set(first.headers)
    for values in ([tag], [f"W/{tag}"], [f'"x", {tag}'], ["*"], ['"x"', tag]):
        lines = [("If-None-Match", value) for value in values]
        again, body = await get(gateway, CARD_PATH, lines)
        assert (again.status, body, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers.getall("Vary") == ["Authorization", "A2A-Version"]
        for name in ("Cache-Control", "Expires", "Content-Location"):
            assert again.headers[name] == first.headers[name]
        assert "Content-Length" not in again.headers
        assert not {"Content-Type", "X-Agent"} & set(again.headers)
    other, _ = await get(gateway, CARD_PATH, {"If-None-Match": '"of-the-agent"'})
    assert (other.status, other.headers["ETag"]) == (200, tag)


async def test_tag_changes_with_the_card_and_with_the_address_in_it(
    card_gateway: Gateway, agent: Agent, address: str
) -> None:
    first, _ = await get(card_gateway, CARD_PATH)
    elsewhere, _ = await get(card_gateway, CARD_PATH, {"Host": "gw.example"})
    serve(agent, {"/base/.well-known/agent-card.json": Page({**card_at(address), "version": "2"})})
    second, _ = await get(card_gateway, CARD_PATH, {"If-None-Match": first.headers["ETag"]})
    tags = {each.headers["ETag"] for each in (first, elsewhere, second)}
    assert (second.status, len(tags)) == (200, 3)


async def test_agent_is_always_asked_for_the_whole_card(
    card_gateway: Gateway, agent: Agent
) -> None:
    asked_with = {
        "If-None-Match": '"x"',
        "If-Match": '"x"',
        "If-Modified-Since": "Tue, 24 Nov 2026 00:00:00 GMT",
        "If-Unmodified-Since": "Tue, 24 Nov 2020 00:00:00 GMT",
        "If-Range": '"x"',
        "Range": "bytes=0-9",
        "Accept-Encoding": "br, gzip",
        "Content-Type": "application/json",
        "X-Kept": "yes",
    }
    for path in (CARD_PATH, "/workspaces/w/a2a/v1/card"):
        agent.received.clear()
        assert (await get(card_gateway, path, asked_with))[0].status == 200
        sent = [(name.lower(), value) for name, value in agent.received[0].headers]
        kept = [each for each in sent if each[0] in map(str.lower, asked_with)]
        assert kept == [("x-kept", "yes"), ("accept-encoding", "identity")]


@pytest.mark.parametrize("path", [CARD_PATH, "/workspaces/w/a2a/v1/card"])
async def test_head_tells_what_get_would_send(card_gateway: Gateway, path: str) -> None:
    whole, body = await get(card_gateway, path)
    head, nothing = await get(card_gateway, path, method="HEAD")
    assert (head.status, nothing) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length"):
        assert head.headers[name] == whole.headers[name]
    assert int(head.headers["Content-Length"]) == len(body)
    tag = {"If-None-Match": whole.headers["ETag"]}
    assert (await get(card_gateway, path, tag, "HEAD"))[0].status == 304


async def test_agent_that_codes_what_may_be_coded_is_asked_for_plain_cards(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.json_response(card_at(address))
        if request.headers.get("Accept-Encoding") != "identity":
            answer.headers["Content-Encoding"] = "br"
        return answer

    agent.respond = respond
    await register(gateway, address)
    for path in (CARD_PATH, "/workspaces/w/a2a/v1/card"):
        _, body = await get(gateway, path, {"Accept-Encoding": "br"})
        assert json.loads(body) == card_at(public(gateway))


@pytest.mark.parametrize("method", ["GetExtendedAgentCard", r"G\u0065tExtendedAgentCard"])
async def test_agent_is_asked_for_a_plain_card_over_json_rpc_and_for_nothing_else_so(
    gateway: Gateway, agent: Agent, address: str, method: str
) -> None:
    welcome: list[list[str]] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        await request.read()
        welcome.append(request.headers.getall("Accept-Encoding", []))
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": card_at(address)})

    agent.respond = respond
    await register(gateway, address)
    headers = {"Accept-Encoding": "br, zstd", "Content-Type": "application/json"}
    for each in (method, "message/send"):
        question = f'{{"jsonrpc": "2.0", "id": 1, "method": "{each}"}}'
        async with gateway.client.post(public(gateway), data=question, headers=headers) as answer:
            assert answer.status == 200
    assert welcome == [["identity"], ["br, zstd"]]


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", "deflate", "identity"])
async def test_agent_that_codes_its_card_all_the_same_breaks_nothing(
    gateway: Gateway, agent: Agent, address: str, coding: str
) -> None:
    page = coded(card_at(address), coding)
    if coding == "identity":
        page = Page(card_at(address), headers=page.headers)
    serve(agent, {"/base/.well-known/agent-card.json": page, "/base/v1/card": page})
    await register(gateway, address)
    for path in (CARD_PATH, "/workspaces/w/a2a/v1/card"):
        answer, body = await get(gateway, path)
        assert json.loads(body) == card_at(public(gateway))
        assert "Content-Encoding" not in answer.headers
        assert int(answer.headers["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("Content-Length", False),
        ("Content-Encoding", False),
        ("Content-Range", False),
        ("Content-MD5", False),
        ("Content-Digest", False),
        ("Repr-Digest", False),
        ("Digest", False),
        ("Accept-Ranges", False),
        ("etag", False),
        ("LAST-MODIFIED", False),
        ("Content-Type", True),
        ("Content-Language", True),  # the words are the agent's
        ("Cache-Control", True),
        ("Vary", True),
        ("Set-Cookie", True),
    ],
)
def test_field_that_is_true_of_the_agents_bytes_only_does_not_pass(
    name: str, is_kept: bool
) -> None:
    assert agent_cards.fresh_fields([(name, "x")]) == ([(name, "x")] if is_kept else [])


# What only looks like a card.


@pytest.mark.parametrize(
    "page",
    [
        Page({"error": {"code": 404}}, 404, [("X-Agent", "yes")], reason="Mine"),
        Page({"type": "business"}, 200, [("ETag", '"agent"'), ("X-Agent", "yes")]),
        Page(None, 200, [("X-Agent", "yes")], b"not JSON"),
        Page(card_at("http://10.0.0.7"), 203, [("X-Agent", "yes")]),  # changed on its way already
        Page(None, 404, [("Content-Encoding", "br"), ("X-Agent", "yes")], b"coded"),
        Page(None, 302, [("Location", "/elsewhere"), ("X-Agent", "yes")], b""),
    ],
    ids=lambda page: str(page.status),
)
async def test_answer_at_an_extended_cards_path_that_is_no_card_passes_unchanged(
    gateway: Gateway, agent: Agent, address: str, page: Page
) -> None:
    serve(agent, {"/base/card": page})
    await register(gateway, address, card_at(address))
    async with gateway.client.get(
        f"{public(gateway)}/card", allow_redirects=False, auto_decompress=False
    ) as answer:
        body = await answer.read()
    assert (answer.status, body) == (page.status, page.text)
    assert answer.reason == page.reason or page.reason is None
    assert {name: answer.headers[name] for name, _ in page.headers} == dict(page.headers)
    assert len(agent.received) == 1


@pytest.mark.parametrize(
    "page",
    [
        Page(body=b"coded", headers=[("Content-Encoding", "br")]),
        Page(LARGE),
        coded(card_at(NOBODY), "gzip, gzip"),
        Page(body=b'{"name":"a","supportedInterfaces":[],"x":%s}' % (b"[" * 300 + b"]" * 300)),
    ],
    ids=["coded", "too large", "coded twice", "too deep"],
)
async def test_extended_card_that_cannot_be_read_is_a_502(
    gateway: Gateway, agent: Agent, address: str, page: Page
) -> None:
    serve(agent, {"/base/v1/card": page})
    await register(gateway, address)
    status, problem = await gateway.json("GET", "/workspaces/w/a2a/v1/card")
    assert (status, problem["detail"]) == (502, "The agent's card cannot be read.")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_card_that_only_a_lax_parser_reads_leads_to_the_gateway_too(
    gateway: Gateway, agent: Agent, address: str, encoding: str
) -> None:
    text = json.dumps({**card_at(address), "ratio": float("nan")}).encode(encoding)
    serve(agent, {"/base/v1/card": Page(body=text)})
    await register(gateway, address)
    _, body = await get(gateway, "/workspaces/w/a2a/v1/card")
    assert json.loads(body) == {**card_at(public(gateway)), "ratio": None}


# The JSON-RPC answer.


@pytest.mark.parametrize(
    "question",
    [
        rb'{"jsonrpc":"2.0","id":1,"method":"Get\u0045xtended\u0041gentCard"}',
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}).encode("utf-16"),
        b'[{"jsonrpc":"2.0","id":1,"method":"GetExtendedAgentCard"}]',
    ],
)
@pytest.mark.parametrize("is_cut", [True, False])
async def test_extended_card_is_noticed_however_it_is_asked_for(
    gateway: Gateway, agent: Agent, address: str, question: bytes, is_cut: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(question), 3):
            yield question[at : at + 3]
            await asyncio.sleep(0)  # lets the piece go out alone

    serve(agent, {"/base": Page([{"jsonrpc": "2.0", "id": 1, "result": card_at(address)}])})
    await register(gateway, address)
    body = pieces() if is_cut else question
    async with gateway.client.post(public(gateway), data=body) as answer:
        found = json.loads(await answer.read())
    assert found == [{"jsonrpc": "2.0", "id": 1, "result": card_at(public(gateway))}]
    assert agent.received[0].body == question


@pytest.mark.parametrize("is_always", [True, False])
async def test_extended_card_over_json_rpc_is_rewritten_for_a_caller_who_takes_codings(
    gateway: Gateway, agent: Agent, address: str, is_always: bool
) -> None:
    plain = json.dumps({"jsonrpc": "2.0", "id": 1, "result": card_at(address)}).encode()
    stale = {"ETag": '"agent"', "Content-Digest": "sha-256=:AA==:"}

    async def respond(request: web.Request) -> web.StreamResponse:
        await request.read()
        if is_always or "gzip" in request.headers.get("Accept-Encoding", "gzip"):
            headers = {**stale, "Content-Encoding": "gzip"}
            return web.Response(body=gzip.compress(plain), headers=headers)
        return web.Response(body=plain, headers=stale)

    agent.respond = respond
    await register(gateway, address)
    question = {"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard"}
    headers = {"Accept-Encoding": "gzip"}  # as httpx always says
    async with gateway.client.post(public(gateway), json=question, headers=headers) as answer:
        found = json.loads(await answer.read())
    assert found["result"] == card_at(public(gateway))
    assert not set(stale) & set(answer.headers)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b'{"jsonrpc": "2.0", "id": 1,  "result": {"id": "t", "status": {}}}\n', "identity"),
        (b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32007, "message": "none"}}', "identity"),
        (b"not JSON", "identity"),
        (b"", "identity"),
        (b'{"result": "' + b"x" * (3 * agent_cards.CARD_BYTES_MAX) + b'"}', "identity"),
        # What was asked may have cost money, and was most likely no card.
        (b"coded", "br"),
        (b"no gzip", "gzip"),
        (gzip.compress(b'{"result": {"id": "t"}}', mtime=0), "gzip"),
    ],
    ids=["task", "error", "not JSON", "empty", "large", "br", "no gzip", "gzip"],
)
async def test_answer_without_a_card_to_a_question_that_names_one_passes_unchanged(
    gateway: Gateway, agent: Agent, address: str, body: bytes, coding: str
) -> None:
    headers = {"ETag": '"agent"', "X-Agent": "yes", "Content-Encoding": coding}
    serve(agent, {"/base": Page(body=body, headers=list(headers.items()))})
    await register(gateway, address)
    question = {"method": "SendMessage", "params": {"text": "what is GetExtendedAgentCard?"}}
    async with gateway.client.post(public(gateway), json=question, auto_decompress=False) as answer:
        assert await answer.read() == body
    assert {name: answer.headers[name] for name in headers} == headers


async def test_answer_to_a_question_that_names_no_card_is_not_looked_into(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    answer = {"jsonrpc": "2.0", "id": 1, "result": card_at(address)}
    serve(agent, {"/base": Page(answer)})
    await register(gateway, address)
    assert await gateway.json("POST", "/workspaces/w/a2a", {"method": "x"}) == (200, answer)


async def test_answer_that_is_too_long_for_a_card_is_not_held_back(
    gateway: Gateway, agent: Agent, address: str
) -> None:
    is_read = asyncio.Event()
    first, last = bytes(agent_cards.CARD_BYTES_MAX + 1), b"last"

    async def respond(request: web.Request) -> web.StreamResponse:
        await request.content.read()
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(first)
        await is_read.wait()
        await answer.write(last)
        return answer

    agent.respond = respond
    await register(gateway, address)
    question = {"method": "GetExtendedAgentCard"}
    async with gateway.client.post(public(gateway), json=question) as answer:
        async with asyncio.timeout(5):
            assert await answer.content.readexactly(len(first)) == first
        is_read.set()
        assert await answer.content.read() == last


@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "Text/Event-Stream"])
async def test_event_stream_is_not_held_back_because_the_question_names_a_card(
    gateway: Gateway, agent: Agent, address: str, content_type: str
) -> None:
    wanted: asyncio.Queue[bytes] = asyncio.Queue()

    async def respond(request: web.Request) -> web.StreamResponse:
        await request.content.read()
        answer = web.StreamResponse(headers={"Content-Type": content_type})
        await answer.prepare(request)
        while event := await wanted.get():
            await answer.write(event)
        return answer

    agent.respond = respond
    await register(gateway, address)
    question = {"method": "message/stream", "params": {"text": "GetExtendedAgentCard"}}
    async with (
        asyncio.timeout(5),
        gateway.client.post(public(gateway), json=question) as answer,
    ):
        for number in range(3):
            event = b"data: %d\n\n" % number
            wanted.put_nowait(event)
            assert await answer.content.readany() == event
        wanted.put_nowait(b"")
        assert await answer.content.read() == b""
