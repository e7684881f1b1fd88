"""A browser that opens a call as a page, or as a part of one, is refused before anything else."""

import json

import pytest
from structlog.testing import capture_logs

from tests.raw import RawAgent, answering, call, run_raw_agent, target_of
from tests.running import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

COLOURFUL = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=1\r\nVary: Accept\r\n"
    b'Clear-Site-Data: *\r\nContent-Length: 48\r\n\r\n{"name":"a","url":"http://a/","skills":[],"x":1}'
)

NAVIGATIONS = [
    ["Sec-Fetch-Mode: navigate"],
    ["sec-fetch-mode:\t Navigate \t"],
    ["SEC-FETCH-MODE: NAVIGATE"],
    ["Sec-Fetch-Mode: cors", "Sec-Fetch-Mode: navigate"],
    ["Sec-Fetch-Mode: cors, navigate"],  # as a proxy may put them together
    ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: empty"],
    ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none"],
    *(
        ["Sec-Fetch-Mode: no-cors", f"Sec-Fetch-Dest: {destination}"]
        for destination in (
            *("document", "iframe", "frame", "object", "embed", "script", "style", "image"),
            *("worker", "sharedworker", "serviceworker", "audioworklet", "xslt", "json"),
            *("Document", " iframe\t", "empty, script", "something-new", "empty;x", ""),
        )
    ),
    ["Sec-Fetch-Dest: empty", "Sec-Fetch-Dest: script"],
    ["Upgrade-Insecure-Requests: 1"],  # all that a browser says over plain http
]

PASSING = [
    [],  # a program
    ["Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", "Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: empty", "Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Mode: same-origin", "Sec-Fetch-Dest:\t EMPTY "],
    ["Sec-Fetch-Dest: empty", "Sec-Fetch-Dest: empty"],
    ["Sec-Fetch-Site: none"],
    ["Sec-Fetch-User: ?1"],
    ["X-Sec-Fetch-Mode: navigate"],
]


@pytest.mark.parametrize("fields", NAVIGATIONS, ids=" / ".join)
async def test_navigation_is_a_403_that_no_browser_keeps_and_the_agent_hears_nothing(
    shared_gateway: Gateway, fields: list[str]
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        got = await call(shared_gateway, target, "GET", fields)
        assert agent.connections == []
    assert got.start == "HTTP/1.1 403 Forbidden"
    assert got.values("Content-Type") == ["application/problem+json"]
    assert got.values("Cache-Control") == ["no-store"]
    assert got.values("X-Content-Type-Options") == ["nosniff"]
    assert json.loads(got.body)["detail"] == "Open agents with an A2A client, not in a browser."


@pytest.mark.parametrize("fields", PASSING, ids=" / ".join)
async def test_programs_and_fetch_pass(shared_gateway: Gateway, fields: list[str]) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        assert (await call(shared_gateway, target, "GET", fields)).status == 200
        assert len(agent.requests) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    "tail", ["", "/", "?x", "/v1/card", "/x/y", "/.well-known/agent-card.json", "/v1/message:send"]
)
async def test_navigation_is_refused_at_every_path_by_every_method(
    shared_gateway: Gateway, method: str, tail: str
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        await refused(shared_gateway, agent, await target_of(shared_gateway, agent) + tail, method)


@pytest.mark.parametrize("name", ["agent-card.json", "agent.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_navigation_to_the_card_below_the_workspace_is_refused(
    shared_gateway: Gateway, method: str, name: str
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = (await target_of(shared_gateway, agent)).removesuffix("a2a")
        await refused(shared_gateway, agent, f"{target}.well-known/{name}", method)


async def test_navigation_to_an_encoded_id_and_in_absolute_form_is_refused(
    shared_gateway: Gateway,
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        await refused(shared_gateway, agent, target.replace("raw", "%72aw"))
        await refused(shared_gateway, agent, f"http://gateway{target}")


async def refused(gateway: Gateway, agent: RawAgent, target: str, method: str = "GET") -> None:
    """Navigate there in vain."""
    assert (await call(gateway, target, method, ["Sec-Fetch-Mode: navigate"])).status == 403
    assert agent.connections == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/workspaces/w/b2b", 404),
        ("/workspaces/%20/a2a", 404),
        ("/workspaces/w/a2a/../x", 400),
        # Whether there is such a workspace is not looked up.
        ("/workspaces/nobody/a2a", 403),
    ],
)
async def test_only_what_is_wrong_with_the_target_comes_first(
    shared_gateway: Gateway, target: str, status: int
) -> None:
    got = await call(shared_gateway, target, "GET", ["Sec-Fetch-Mode: navigate"])
    assert got.status == status


async def test_navigation_asks_for_no_budget_and_is_logged_as_rejected(
    shared_gateway: Gateway,
) -> None:
    async with run_raw_agent(answering(ANSWER)) as agent:
        target = await target_of(shared_gateway, agent)
        await shared_gateway.limit(target.split("/")[2], hourly=0)
        with capture_logs() as logs:
            got = await call(shared_gateway, target, "POST", ["Sec-Fetch-Dest: document"])
            await until(lambda: bool(logs))
    assert got.status == 403  # over its budget, a call would be answered 402
    (line,) = [each for each in logs if each["event"] == "call"]
    assert (line["outcome"], line["status"]) == ("rejected", 403)
    assert line["workspace_id"] == target.split("/")[2]


BROWSERS = [
    ["Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", "Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Mode: no-cors"],
    ["Sec-Fetch-Dest: empty"],
    ["sec-fetch-site: none"],
]


@pytest.mark.parametrize("fields", BROWSERS, ids=" / ".join)
@pytest.mark.parametrize("tail", ["", "/v1/card", "/.well-known/agent-card.json"])
async def test_what_fetch_gets_is_no_page_of_this_origin_and_changes_nothing_beyond_itself(
    shared_gateway: Gateway, tail: str, fields: list[str]
) -> None:
    async with run_raw_agent(answering(COLOURFUL)) as agent:
        target = await target_of(shared_gateway, agent) + tail
        got = await call(shared_gateway, target, "GET", fields)
        plain = await call(shared_gateway, target, "GET")
    assert got.values("X-Content-Type-Options") == ["nosniff"]
    assert got.values("Content-Security-Policy") == ["sandbox"]
    assert got.values("Vary") == ["Accept", "Sec-Fetch-Mode, Sec-Fetch-Dest"]
    assert got.values("Set-Cookie") == got.values("Clear-Site-Data") == []
    assert got.body == plain.body
    # For programs nothing changes.
    assert plain.values("Set-Cookie") == ["a=1"]
    assert plain.values("Clear-Site-Data") == ["*"]
    assert plain.values("Vary") == ["Accept"]
    assert plain.values("X-Content-Type-Options") == []
    assert plain.values("Content-Security-Policy") == []
