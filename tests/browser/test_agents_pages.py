"""What an agent answers a browser: no page, no script of the Budget page's origin.

The operator is signed in, so whatever ran there could change limits.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from tests.browser.conftest import ADMIN_TOKEN, PLAIN_HOST, Tab, open_tab, sign_in
from tests.running import Agent, Gateway, Received

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALL = "/workspaces/w/a2a"
CARD = "/workspaces/w/.well-known/agent-card.json"

# Shows itself, and tells the agent that it ran.
HTML = """<!doctype html><title>mine</title><p>zebra</p>
<script>document.title = "ran"; fetch("/workspaces/w/a2a/ran", {method: "POST"})</script>"""
SCRIPT = 'globalThis.ran = true; fetch("/workspaces/w/a2a/ran", {method: "POST"})'

# How a page makes its browser load an address; each ends when the browser is done with it.
LOADS = {
    "script": """url => new Promise(done => { const each = document.createElement("script");
        each.onload = each.onerror = done; each.src = url; document.head.append(each) })""",
    "module": """url => import(url).catch(() => 0)""",
    "iframe": """url => new Promise(done => { const each = document.createElement("iframe");
        each.onload = each.onerror = done; each.src = url; document.body.append(each) })""",
    "object": """url => new Promise(done => { const each = document.createElement("object");
        each.onload = each.onerror = done; each.data = url; document.body.append(each) })""",
    "worker": """url => new Promise(done => { const each = new Worker(url);
        each.onerror = each.onmessage = done; })""",
    "service worker": """url => navigator.serviceWorker.register(url)
        .then(() => "registered", () => 0)""",
    "style": """url => new Promise(done => { const each = document.createElement("link");
        each.rel = "stylesheet"; each.onload = each.onerror = done; each.href = url;
        document.head.append(each) })""",
    "image": """url => new Promise(done => { const each = new Image();
        each.onload = each.onerror = done; each.src = url })""",
}


@pytest_asyncio.fixture(loop_scope="session")
async def hostile(agent: Agent, guarded: Gateway) -> Agent:
    """An agent of the workspace `w` that answers everything with a page or a script."""

    async def respond(request: web.Request) -> web.Response:
        fields = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        body = await request.content.read()
        agent.received.append(Received(request.method, request.raw_path, fields, body))
        is_script = "script" in request.path
        return web.Response(
            text=SCRIPT if is_script else HTML,
            content_type="text/javascript" if is_script else "text/html",
            headers={
                "Cache-Control": "max-age=600",
                "Service-Worker-Allowed": "/",
                "Set-Cookie": "gateway-session=zebra",
            },
        )

    agent.respond = respond
    await guarded.register("w", agent.url)
    return agent


@pytest_asyncio.fixture(loop_scope="session")
async def operator(browser: Any, guarded: Gateway) -> AsyncIterator[Tab]:
    """A tab in which an operator is signed in."""
    async with open_tab(browser, guarded) as tab:
        await tab.page.goto(guarded.url)
        await sign_in(tab, ADMIN_TOKEN)
        await tab.shows("h1", "Workspaces")
        yield tab


@pytest.mark.parametrize("path", [CALL, f"{CALL}/", f"{CALL}/x.html?y", CARD])
async def test_operator_who_opens_a_call_sees_a_sentence_and_no_page_of_the_agent(
    operator: Tab, hostile: Agent, path: str
) -> None:
    answer = await operator.page.goto(operator.gateway.url + path)
    assert answer.status == 403
    text = await operator.page.content()
    assert "Open agents with an A2A client, not in a browser." in text
    assert "zebra" not in text
    assert hostile.received == []


async def test_navigation_over_plain_http_shows_no_page_of_the_agent(
    browser: Any, hostile: Agent, guarded: Gateway
) -> None:
    address = guarded.url.replace("127.0.0.1", PLAIN_HOST)
    async with open_tab(browser, guarded) as tab:
        assert (await tab.page.goto(address + CALL)).status == 403
    assert hostile.received == []


async def test_form_and_frame_of_the_agents_own_site_open_no_call(
    operator: Tab, hostile: Agent, guarded: Gateway
) -> None:
    """The agent has a site of its own, under the same name: the operator's cookie goes along."""

    async def page(_: web.Request) -> web.Response:
        text = f"""<iframe src="{guarded.url}{CALL}"></iframe>
        <form method="post" action="{guarded.url}{CALL}"><button>Go</button></form>"""
        return web.Response(text=text, content_type="text/html")

    respond, hostile.respond = hostile.respond, page
    await operator.page.goto(hostile.url)
    hostile.respond = respond
    async with operator.page.expect_navigation():
        await operator.page.get_by_role("button").click()
    assert "Open agents with an A2A client" in await operator.page.content()
    assert hostile.received == []


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("path", [f"{CALL}/page", f"{CALL}/script.js"])
async def test_nothing_that_a_page_of_the_gateway_loads_from_an_agent_runs(
    browser: Any, hostile: Agent, guarded: Gateway, load: str, path: str
) -> None:
    # Our pages' own policy would stop some of it before the gateway is asked.
    async with open_tab(browser, guarded, bypass_csp=True) as tab:
        await tab.page.goto(guarded.url)
        await sign_in(tab, ADMIN_TOKEN)
        await tab.shows("h1", "Workspaces")
        assert await tab.page.evaluate(LOADS[load], path) != "registered"
        assert await tab.page.evaluate("globalThis.ran") is None
        for frame in tab.page.frames:
            assert "zebra" not in await frame.content()
        assert hostile.received == []


async def test_fetch_passes_without_the_operators_cookie_and_sets_none(
    operator: Tab, hostile: Agent
) -> None:
    fetched = await operator.page.evaluate(
        """async ([url, token]) => {
            const headers = {Authorization: `Bearer ${token}`, "X-Gateway-Token": token}
            const answer = await fetch(url, {method: "POST", credentials: "include", headers})
            return [answer.status, await answer.text()]
        }""",
        [CALL, ADMIN_TOKEN],
    )
    assert fetched == [200, HTML]
    cookies = await operator.page.context.cookies()
    assert [each["name"] for each in cookies] == ["gateway-session"]
    session = cookies[0]["value"]
    assert session != "zebra"
    (request,) = hostile.received
    assert ADMIN_TOKEN not in repr(request)
    assert session not in repr(request)
    assert "gateway-session" not in repr(request)
    # The session is as good as before.
    await operator.page.reload()
    await operator.shows("h1", "Workspaces")


async def test_what_a_page_fetched_does_not_come_out_of_the_browsers_cache_as_a_page(
    operator: Tab, hostile: Agent, guarded: Gateway
) -> None:
    fetch = "url => fetch(url, {mode: 'no-cors', credentials: 'include'}).then(() => 0)"
    await operator.page.evaluate(fetch, guarded.url + CALL)
    assert len(hostile.received) == 1
    await operator.page.evaluate("url => { location = url }", guarded.url + CALL)
    await operator.page.wait_for_url(f"**{CALL}")
    await operator.page.wait_for_load_state()
    assert "zebra" not in await operator.page.content()
    assert len(hostile.received) == 1
