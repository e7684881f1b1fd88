"""What is no HTTP at all: a problem document like everything else, without the bytes."""

import asyncio
import json

import pytest
from yarl import URL

from tests.running import Gateway


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"zebra\r\n\r\n",
        b"\x16\x03\x01\x02\x00zebra\r\n\r\n",  # TLS on a port without it
        b"GET /workspaces/\xff\xfezebra/budget HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /workspaces?q=\xc3\xa9zebra HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /zebra HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET http://[zebra HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nzebra header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: zebra\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"zebra" * 4000 + b"\r\n\r\n",
        b"GET /" + b"zebra" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /registry/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: zebra\r\n\r\n",
        b"POST /registry/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=lambda request_bytes: repr(request_bytes[:50]),
)
async def test_request_that_is_no_http_is_400(gateway: Gateway, request_bytes: bytes) -> None:
    url = URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_bytes)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.split(b" ")[1] == b"400"
    assert b"Content-Type: application/problem+json" in head
    assert b"Cache-Control: no-store" in head
    assert json.loads(body)["status"] == 400
    assert b"zebra" not in head + body
