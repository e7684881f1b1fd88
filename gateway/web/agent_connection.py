"""One connection to an agent: a request goes out, an answer comes in, and again.

aiohttp's C parser reads the answers. It is made for servers as they are and lets pass what a
proxy must not pass on (RFC 9112 section 11); that is checked here. An answer is complete or
broken, never in doubt: who reads its body gets all of it or an error.
"""

import asyncio
import re
import select
from contextlib import suppress

from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, HttpVersion10, HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from gateway.core.errors import BadGateway, GatewayError, GatewayTimeout

# Of the whole head, with the interim answers before it.
HEADER_BYTES_MAX = 64 * 1024
INTERIM_ANSWERS_MAX = 16
# What one answer may hold in memory while its caller does not read: twice this, and one read.
BUFFER_BYTES = 32 * 1024

# The parser takes a bare LF for the end of a line, as RFC 9112 section 2.2 allows.
_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\n[ \t]")
# The parser passes 2**64 - 1 on as a length without a body, and int() refuses 4,301 digits.
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_NAMES = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+:)*")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

AnswerHead = tuple[RawResponseMessage, StreamReader]


class AgentConnection(BaseProtocol):
    """The protocol of one connection. Every exchange is `begin`, maybe `write`, then `end`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: asyncio.Future[AnswerHead] | None = None
        # The last bytes of a head that is not complete.
        self._head_tail = b""
        self._head_bytes = 0
        self._interim_answers = 0
        self._body: StreamReader | None = None
        self._is_last = False
        self._readable = select.poll()
        # Sends the rest of the request's body, if it had not arrived when the exchange began.
        self.sending: asyncio.Task[None] | None = None
        # When the exchange before ended, by the loop's clock; kept by the pool.
        self.idle_since = 0.0

    @property
    def is_reusable(self) -> bool:
        """Whether both messages are complete and neither side means to close."""
        if self.transport is None or self.transport.get_write_buffer_size():
            return False
        is_sent = self.sending is None or self.sending.done()
        return is_sent and self._is_answered and not self._is_last and self.is_open

    @property
    def is_open(self) -> bool:
        """Whether neither side closed it."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came since the answer, neither bytes nor the end.

        It asks the system, because the loop may not have come to read it: a request sent now
        would be lost, or get an answer that was not meant for it.
        """
        return not self._readable.poll(0)

    def begin(self, data: bytes, is_head: bool) -> asyncio.Future[AnswerHead]:
        """Send a request's head, maybe with its body; gives the answer once its head is there.

        `is_head` tells that the request's method is HEAD, whose answer has no body. The future,
        and later the body, raise BadGateway if the agent breaks off.
        """
        self.sending = None
        self._head = self._loop.create_future()
        self._head_tail = b""
        self._head_bytes = self._interim_answers = 0
        self._body = None
        self._parser = HttpResponseParser(
            self,
            self._loop,
            BUFFER_BYTES,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            response_with_body=not is_head,
            read_until_eof=True,
            auto_decompress=False,
        )
        if self.transport is not None:
            self.transport.write(data)
        return self._head

    async def write(self, data: bytes) -> None:
        """Send a part of the request; waits while the agent does not read.

        Raises ConnectionError if the connection is lost, which the answer then tells, too.
        """
        if self.transport is None:
            raise ConnectionResetError("the agent closed the connection")
        self.transport.write(data)
        await self._drain_helper()

    def fail(self, error: GatewayError) -> None:
        """End the exchange: whoever waits for the answer, or reads its body, gets the error.

        If it failed before, they get what was first: the rest only follows from it.
        """
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            # Nobody waits for it if the call was given up.
            self._head.exception()
        elif self._body is not None and not self._body.is_eof() and not self._is_broken:
            self._body.set_exception(error)
        self._abort()

    def fail_later(self, delay_s: float, late: str) -> asyncio.TimerHandle:
        """`fail` with a GatewayTimeout, if the handle is not cancelled until then."""
        return self._loop.call_later(delay_s, self._fail_late, late)

    def _fail_late(self, late: str) -> None:
        self.fail(GatewayTimeout(late))

    def end(self) -> None:
        """Close at once, whatever is not sent or not answered: the agent must not go on."""
        if self.sending is not None:
            self.sending.cancel()
        # A failure knows the call and its body by its traceback, and they know this connection.
        self._head = self._body = self.sending = None
        self._abort()

    def data_received(self, data: bytes) -> None:
        """Read answers, every head by itself."""
        while data and self._is_head_expected:
            data = self._feed_head(data)
        if data or not self._is_head_expected:
            self._feed(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready for the first exchange."""
        super().connection_made(transport)
        self._readable.register(transport.get_extra_info("socket"), select.POLLIN)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on after a pause; aiohttp asks for it at every read."""
        # The parser may have stopped by itself, and hold what came, until the answer is complete.
        if self._reading_paused or not self._is_answered:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever waits; only a body without a length may end by a close, and a clean one."""
        # Who closes after a failure of ours closes in order, too.
        is_clean = exc is None and not self._reading_paused and not self._is_broken
        super().connection_lost(exc)
        if self._body is not None and is_clean and self._parser is not None:
            with suppress(HttpProcessingError):
                self._parser.feed_eof()
        self.fail(BadGateway("The agent closed the connection before its answer was complete."))

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def _is_head_expected(self) -> bool:
        return self._head is not None and not self._head.done()

    def _feed_head(self, data: bytes) -> bytes:
        """Give the parser what belongs to one head; returns the rest.

        If an answer and what must not follow it came in one piece, the parser would keep the
        answer and tell only of the mistake. And it joins folded lines in silence, which RFC 9112
        sections 2.2 and 5.2 do not allow.
        """
        seen = self._head_tail + data
        end = _HEAD_END.search(seen)
        seen_bytes = end.end() if end else len(seen)
        if _FOLD.search(seen, 0, seen_bytes):
            self.fail(BadGateway("The agent's answer has a line that begins with a space."))
            return b""
        head_bytes = seen_bytes - len(self._head_tail)
        self._head_bytes += head_bytes
        if self._head_bytes > HEADER_BYTES_MAX:
            self.fail(BadGateway("The agent's answer has a header that is too large."))
            return b""
        self._head_tail = b"" if end else seen[-2:]
        self._feed(data[:head_bytes])
        return data[head_bytes:]

    def _feed(self, data: bytes) -> None:
        if self._parser is None or self._is_answered:
            # Nothing was asked (RFC 9112 section 9.2): it may be meant for the next request.
            if data:
                self._abort()
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError:
            self.fail(BadGateway("The agent's answer is no HTTP."))
            return
        for message, body in messages:
            self._take(message, body)
        if self._is_answered and _has_begun_another(self._parser):
            self._abort()

    @property
    def _is_answered(self) -> bool:
        return self._body is not None and self._body.is_eof()

    @property
    def _is_broken(self) -> bool:
        return self._body is not None and self._body.exception() is not None

    def _take(self, message: RawResponseMessage, body: StreamReader) -> None:
        if not self._is_head_expected or self._head is None:
            self._abort()
            return
        if 100 <= message.code < 200 and message.code != 101:
            # An interim answer is for this hop (RFC 9110 section 15.2).
            self._interim_answers += 1
            if self._interim_answers > INTERIM_ANSWERS_MAX:
                self.fail(BadGateway("The agent's answer does not begin."))
            return
        if defect := defect_of(message):
            self.fail(BadGateway(f"The agent's answer {defect}."))
            return
        self._is_last = message.should_close
        self._body = body
        self._head.set_result((message, body))


def _has_begun_another(parser: HttpResponseParser) -> bool:
    """Whether a parser that read a whole answer holds the beginning of another one."""
    try:
        return parser.feed_eof() is not None
    except HttpProcessingError:
        return True


def defect_of(message: RawResponseMessage) -> str | None:
    """What forbids passing an answer on, in words, or None."""
    if message.version not in (HttpVersion10, HttpVersion11):
        return "has a version of HTTP that was not asked for"
    if message.code < 100:
        return "has a status that there is not"
    if message.code == 101:
        return "switches protocols, which nobody asked for"
    return _defect_of_framing(message) or _defect_of_text(message)


def _defect_of_framing(message: RawResponseMessage) -> str | None:
    """RFC 9112 section 6: two ways to tell the length, or one that we cannot undo."""
    lengths = message.headers.getall(hdrs.CONTENT_LENGTH, ())
    codings = message.headers.getall(hdrs.TRANSFER_ENCODING, ())
    # ASCII, because there are other letters whose small one is a k.
    is_chunked = len(codings) == 1 and codings[0].isascii() and codings[0].lower() == "chunked"
    if codings and (not is_chunked or message.version == HttpVersion10):
        return "has a transfer coding that was not asked for"
    if len(lengths) + len(codings) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return "tells its length in more than one way, or wrongly"
    return None


def _defect_of_text(message: RawResponseMessage) -> str | None:
    """Bytes that would change or end a field on their way (RFC 9110 section 5.5)."""
    # All at once: a colon is in no name, and a tab in a value changes nothing that is looked for.
    names = b"".join([name + b":" for name, _ in message.raw_headers])
    values = b"\t".join([value for _, value in message.raw_headers])
    if not _NAMES.fullmatch(names) or _CONTROL.search(values):
        return "has a header field that must not be passed on"
    try:
        values.decode()
        if _CONTROL.search(message.reason.encode()):
            return "has a reason that must not be passed on"
    except UnicodeError:
        return "has bytes in its header that are no UTF-8"
    return None
