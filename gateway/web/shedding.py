"""The cheapest response to a call that is shed: bytes made once, and no task that writes them."""

from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _ErrInfo

from gateway.core.errors import GatewayError
from gateway.core.framing import check_head
from gateway.web.dispatch import PLAIN_CALL
from gateway.web.overload import shed_error
from gateway.web.problems import problem_bytes

SHED = problem_bytes(shed_error(), is_last=False)
SHED_AND_CLOSED = problem_bytes(shed_error())

# A response to HEAD has no body; the other methods are rare.
PLAIN_METHODS = frozenset({"GET", "POST"})


def is_plain_call(message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> bool:
    """Whether these bytes are the response: all of the call is here, and nothing is in doubt."""
    if isinstance(message, _ErrInfo) or not payload.is_eof() or message.chunked or message.upgrade:
        return False
    if message.method not in PLAIN_METHODS or message.version != HttpVersion11:
        return False
    try:
        check_head(message.version, message.raw_headers)
    except GatewayError:
        return False
    return PLAIN_CALL.match(message.path) is not None
