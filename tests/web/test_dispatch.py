"""The short way of calls leads where the router would have led."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.app import add_routes
from gateway.web.dispatch import calls_first
from gateway.web.proxy import proxy_call
from tests.raw import exchange_bytes
from tests.running import Gateway


@pytest.mark.parametrize(
    ("target", "is_short"),
    [
        ("/workspaces/w/a2a", True),
        ("/workspaces/w/a2a/", True),
        ("/workspaces/w/a2a/v1/message:send?x=1", True),
        ("/workspaces/w/a2a?x=/a2a", True),
        ("/workspaces/w/a2a/%0a", True),
        ("/workspaces/w.1_~-/a2a", True),
        ("/workspaces/w%2e/a2a", False),
        ("/workspaces/w%2fx/a2a", False),
        ("http://gateway/workspaces/w/a2a", False),
        ("/workspaces/w/a2ax", False),
        ("/workspaces/w/A2A", False),
        ("/workspaces//a2a", False),
        ("/workspaces/a/b/a2a", False),
        ("/workspaces/w", False),
        ("/workspaces/w/budget", False),
        ("/x/workspaces/w/a2a", False),
        ("/healthz", False),
    ],
)
async def test_short_way_is_for_calls_that_the_router_takes_for_calls(
    target: str, is_short: bool
) -> None:
    app = web.Application()
    add_routes(app.router)
    routed: list[str] = []

    async def route(request: web.Request) -> web.StreamResponse:
        routed.append(request.raw_path)
        return web.Response()

    request = make_mocked_request("POST", target)
    called = calls_first(app, route)(request)
    called.close()
    assert (getattr(called, "cr_code", None) is not route.__code__) == is_short
    if is_short:
        match = await app.router.resolve(request)
        assert match.handler is proxy_call
        assert request.match_info.handler is proxy_call


@pytest.mark.parametrize(
    ("host", "status"), [("gateway", b"404 Not Found"), ("a b", b"400 Bad Request")]
)
async def test_refusal_on_the_short_way_is_like_any_other(
    gateway: Gateway, host: str, status: bytes
) -> None:
    fields = f"Host: {host}\r\nX-Request-ID: mine-7\r\nConnection: close"
    request = f"POST /workspaces/nobody/a2a HTTP/1.1\r\n{fields}\r\nContent-Length: 0\r\n\r\n"
    answer = await exchange_bytes(gateway.url, request.encode())
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nX-Request-ID: mine-7\r\n" in answer
    assert b"application/problem+json" in answer
    assert b"\r\nServer:" not in answer
