"""`Expect: 100-continue`: the caller waits for a word before it sends the body."""

from aiohttp import hdrs, web


async def leave_expectation(_request: web.Request) -> None:
    """Do not say 100 Continue before it is known that the body is wanted (RFC 9110 10.1.1)."""


async def continue_if_expected(request: web.Request) -> None:
    """Say 100 Continue to a caller who waits for it; any other expectation is ignored."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was written so far is no answer yet; aiohttp would take it for one.
        request.writer.output_size = 0
