"""What is no HTTP, is too large or too slow, or comes in too many connections.

A problem document like everything else, without the bytes. On raw sockets.
"""

import asyncio
import resource

import pytest
from aiohttp import web

from gateway.app import add_routes
from gateway.web.server import Runner
from tests.raw import RawConnection, connect
from tests.running import Gateway, until
from tests.web.refusals import beside, receive_refusal, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def get(target: bytes, *fields: bytes) -> bytes:
    """A GET that is right but for these."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: x", *fields, b"", b""])


UNREADABLE = {
    "no HTTP": (400, b"zebra\r\n\r\n"),
    "TLS on a port without it": (400, b"\x16\x03\x01\x02\x00zebra\r\n\r\n"),
    "method in lower case": (400, b"get /zebra HTTP/1.1\r\nHost: x\r\n\r\n"),
    "target that is no UTF-8": (400, get(b"/workspaces/\xff\xfezebra/budget")),
    "target that is not ASCII": (400, get(b"/workspaces?q=\xc3\xa9zebra")),
    "target with a control character": (400, get(b"/zebra\x01")),
    "target with half an address": (400, get(b"http://[zebra")),
    "target without a slash": (400, get(b"zebra")),
    "field without a colon": (400, get(b"/", b"zebra header")),
    "field without a name": (400, get(b"/", b": zebra")),
    "field with a space in its name": (400, get(b"/", b"zebra header: x")),
    "field name that is no UTF-8": (400, get(b"/", b"zebra\xff: x")),
    "field value that is no UTF-8": (400, get(b"/", b"X-User: adm\xffin zebra")),
    "field value in Latin-1": (400, get(b"/", b"X-User: zebr\xe4")),
    "field value with half a character": (400, get(b"/", b"X-User: zebra\xc3")),
    "field value with a null": (400, get(b"/", b"X: zebra\x00")),
    "field value with an escape": (400, get(b"/", b"X: zebra\x1b[31m")),
    "field value with a delete": (400, get(b"/", b"X: zebra\x7f")),
    "field value with a bare carriage return": (400, get(b"/", b"X: zebra\rY: x")),
    "folded line": (400, get(b"/", b"X: a\r\n zebra")),
    "target over 8 KiB": (414, get(b"/" + b"z" * 8192)),
    "field value over 16 KiB": (431, get(b"/", b"X: " + b"z" * 16_385)),
    "field name over 16 KiB": (431, get(b"/", b"z" * 16_385 + b": x")),
    "field that never ends": (431, get(b"/", b"X: " + b"z" * 20_000)[:-4]),
    "over 128 fields": (431, get(b"/", *[b"X: zebra"] * 128)),
    "head over 64 KiB that never ends": (431, get(b"/", *[b"X: " + b"z" * 10_000] * 7)[:-2]),
}


@pytest.mark.parametrize(("status", "sent"), UNREADABLE.values(), ids=UNREADABLE)
async def test_request_that_cannot_be_read_is_refused(
    shared_gateway: Gateway, status: int, sent: bytes
) -> None:
    assert (await refusal(shared_gateway, sent)).status == status


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (b"/healthz?" + b"q" * 8183, []),
        (b"/healthz", [b"X: " + b"z" * 16_000]),
        (b"/healthz", [b"X: z"] * 127),
    ],
    ids=["target of 8 KiB", "field of almost 16 KiB", "128 fields"],
)
async def test_request_at_its_limit_is_answered(
    shared_gateway: Gateway, target: bytes, fields: list[bytes]
) -> None:
    async with connect(shared_gateway.url) as connection:
        assert (await connection.send(get(target, *fields)).receive_message()).status == 200


async def require_health(connection: RawConnection, sent: bytes = HEALTH) -> None:
    """Send a request, or what lacks of it, that must be answered."""
    assert (await connection.send(sent).receive_message()).status == 200


@pytest.mark.parametrize("is_first", [True, False], ids=["first request", "second request"])
async def test_head_that_comes_byte_by_byte_is_cut_off(
    shared_gateway: Gateway, is_first: bool
) -> None:
    late = beside(shared_gateway, {"GATEWAY_SERVER__HEADER_TIMEOUT_S": "0.3"})
    async with late as gateway, connect(gateway.url) as connection:
        if not is_first:
            await require_health(connection)
        answer = asyncio.create_task(receive_refusal(connection))
        for byte in get(b"/", b"X: " + b"zebra" * 15):
            connection.send(bytes([byte]))
            # A byte every 50 ms for as long as there is no answer: 6 s if nobody stops it.
            if (await asyncio.wait({answer}, timeout=0.05))[0]:
                break
        assert (await answer).status == 408


@pytest.mark.parametrize("is_first", [True, False], ids=["before a request", "after a request"])
async def test_idle_connection_is_closed_without_a_word(
    shared_gateway: Gateway, is_first: bool
) -> None:
    brief = beside(shared_gateway, {"GATEWAY_SERVER__KEEPALIVE_TIMEOUT_S": "0.3"})
    async with brief as gateway, connect(gateway.url) as connection:
        if not is_first:
            await require_health(connection)
        await connection.ended()
        assert (connection.unread, connection.was_reset) == (b"", False)


async def test_connection_on_which_a_head_has_begun_is_not_idle(shared_gateway: Gateway) -> None:
    brief = beside(shared_gateway, {"GATEWAY_SERVER__KEEPALIVE_TIMEOUT_S": "0.3"})
    async with brief as gateway, connect(gateway.url) as connection:
        connection.send(HEALTH[:20])
        async with connect(gateway.url) as idle:
            # It came later: when its time is over, so is that of the other.
            await idle.ended()
        await require_health(connection, HEALTH[20:])


async def test_head_in_two_parts_does_not_limit_what_comes_after_it(
    shared_gateway: Gateway,
) -> None:
    environment = {
        "GATEWAY_SERVER__HEADER_TIMEOUT_S": "1",
        "GATEWAY_SERVER__KEEPALIVE_TIMEOUT_S": "1.5",
    }
    async with beside(shared_gateway, environment) as gateway, connect(gateway.url) as connection:
        connection.send(HEALTH[:20])
        assert (await gateway.json("GET", "/healthz"))[0] == 200  # so the first part is there
        await require_health(connection, HEALTH[20:])
        await connection.ended()
        assert connection.unread == b""  # closed as idle, not as late


async def test_connection_beyond_the_limit_is_503_until_there_is_room(
    shared_gateway: Gateway,
) -> None:
    async with beside(shared_gateway, {"GATEWAY_SERVER__CONNECTIONS_MAX": "1"}) as gateway:

        async def has_room() -> bool:
            async with connect(gateway.url) as connection:
                return (await connection.send(HEALTH).receive_message()).status == 200

        async with connect(gateway.url) as connection:
            await require_health(connection)
            async with connect(gateway.url) as refused:
                answer = await receive_refusal(refused)
            assert (answer.status, answer.values("Retry-After")) == (503, ["1"])
            await require_health(connection)
        await until(has_room)


async def test_server_may_open_all_the_files_that_the_host_allows(shared_gateway: Gateway) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        async with beside(shared_gateway, {}):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("option", ["keepalive_timeot", "handler_cancelation", "shutdown_timout"])
async def test_misspelt_option_of_the_server_stops_the_start(option: str) -> None:
    options = {"header_timeout_s": 1, option: 1}
    app = web.Application()
    add_routes(app.router)
    runner = Runner(app, connections_max=1, **options)
    with pytest.raises(TypeError, match=option):
        await runner.setup()
