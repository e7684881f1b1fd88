"""`Expect: 100-continue`: the caller waits for a word before it sends the body.

RFC 9110 section 10.1.1. Nobody says it before the checks: who reads the body does.
"""

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

IS_EXPECTING = web.RequestKey("is_expecting", bool)


def is_expecting(message: RawRequestMessage) -> bool:
    """Whether the caller waits; HTTP/1.0 does not, and other expectations may be ignored."""
    expectation = message.headers.get(hdrs.EXPECT, "")
    return message.version == HttpVersion11 and expectation.lower() == "100-continue"


def without_expectation(message: RawRequestMessage) -> RawRequestMessage:
    """The message as aiohttp may see it: it would answer at once, even where there is no route."""
    if hdrs.EXPECT not in message.headers:
        return message
    headers = CIMultiDict(message.headers)
    headers.popall(hdrs.EXPECT)
    return message._replace(headers=CIMultiDictProxy(headers))


async def continue_if_expected(request: web.Request) -> None:
    """Say 100 Continue, once, to a caller who holds its body back until then."""
    if not request.get(IS_EXPECTING):
        return
    request[IS_EXPECTING] = False
    if request.content.is_eof() or request.content.total_bytes:
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # What was written so far is no answer yet; aiohttp would take it for one.
    request.writer.output_size = 0
