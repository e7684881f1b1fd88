"""1,000 random requests and answers pass the gateway unchanged, but for a short list of fields."""

import asyncio
import hashlib
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raw import Message, RawConnection, connect, run_raw_agent, target_of
from tests.running import run_gateway

Fields = list[tuple[str, str]]

# All that may differ between what a caller sends and what its agent gets.
CHANGED_IN_REQUESTS = {
    "host": "the agent's own, as registered",
    "via": "continued by the gateway",
    "x-forwarded-for": "the gateway's to say",
    "x-forwarded-proto": "the gateway's to say",
    "x-forwarded-host": "the gateway's to say",
    "forwarded": "the gateway's to say",
    "x-request-id": "made by the gateway, unless the caller has a plain one",
    "expect": "met by the gateway",
}

# All that may differ between what an agent answers and what its caller gets.
CHANGED_IN_ANSWERS = {
    "x-request-id": "that of the request",
    "date": "added where there is none (RFC 9110 section 6.6.1)",
}

# For one hop only (RFC 9110 section 7.6.1).
CHANGED_IN_BOTH = {
    "connection": "for this hop, and so is what it names",
    "proxy-connection": "for this hop",
    "keep-alive": "for this hop",
    "te": "for this hop",
    "trailer": "for this hop: trailers are dropped",
    "transfer-encoding": "for this hop: each hop makes its own chunks",
    "upgrade": "for this hop",
    "http2-settings": "for this hop",
    "content-length": "checked as the framing; dropped with 204 (RFC 9110 section 8.6)",
}

# Twice in a request they are refused with 400, by aiohttp's parser.
ONCE = {"content-type", "etag", "server", "user-agent"}

# Refused at all, in both: aiohttp's parser takes it for a protocol that is no more.
REFUSED = {"sec-websocket-key1"}

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND"]

KNOWN_NAMES = [
    "Cookie",
    "Set-Cookie",
    "Content-Type",
    "ETag",
    "Server",
    "User-Agent",
    "Via",
    "Date",
]
CODINGS = ["gzip", "deflate", "br", "zstd", "identity", "GZIP", "gzip, br", "x-unknown", ""]

names = st.one_of(
    st.sampled_from(KNOWN_NAMES),
    # Few letters, so that doubles and different cases are likely.
    st.text("aAbB-", min_size=1, max_size=2),
    st.text(
        "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        min_size=1,
        max_size=20,
    ),
)
CONTROL = "".join(map(chr, [*range(32), 127]))
# RFC 9110 section 5.5: any text, with spaces and tabs inside.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=CONTROL), max_size=30)
values = st.one_of(
    texts,
    st.lists(texts, min_size=2, max_size=3).map("\t ".join),
    st.sampled_from([*CODINGS, "a=1; b=2", 'W/"x"', "text/event-stream", "a, b,, c"]),
).map(lambda value: value.strip(" \t"))
codings = st.tuples(st.just("Content-Encoding"), st.sampled_from(CODINGS))
fields = st.lists(st.one_of(st.tuples(names, values), codings), max_size=12)

bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=300),
    # Few of them large: they take time, and show no more than that they pass.
    st.builds(
        lambda seed, size: random.Random(seed).randbytes(size),
        st.integers(0, 2**32),
        st.one_of(st.integers(0, 5000), st.integers(0, 200 * 1024)),
    ),
)


@dataclass(frozen=True)
class Sent:
    """A message to be sent: `framing` is how it tells where its body ends."""

    start: str
    fields: Fields
    body: bytes
    framing: str
    chunk_bytes: int

    @property
    def head(self) -> bytes:
        """The fields, one of them the framing, and the empty line."""
        framing = {
            "none": [],
            "length": [f"Content-Length: {len(self.body)}"],
            "chunks": ["Transfer-Encoding: chunked"],
        }
        lines = [f"{name}: {value}" for name, value in self.fields]
        return "\r\n".join([*lines, *framing[self.framing], "", ""]).encode()

    @property
    def fields_and_body(self) -> bytes:
        """All that follows the first line."""
        if self.framing != "chunks":
            return self.head + self.body
        begins = range(0, len(self.body), self.chunk_bytes)
        parts = [self.body[begin : begin + self.chunk_bytes] for begin in begins]
        return self.head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


FRAMINGS = st.sampled_from(["none", "length", "length", "chunks"])
CHUNK_BYTES = st.integers(1, 70_000)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """A request; `start` is its method. Without framing it has no body."""
    framing = draw(FRAMINGS)
    body = b"" if framing == "none" else draw(bodies)
    sent = without_doubles(without(CHANGED_IN_REQUESTS, draw(fields)))
    return Sent(draw(st.sampled_from(METHODS)), sent, body, framing, draw(CHUNK_BYTES))


@st.composite
def answers(draw: st.DrawFn) -> Sent:
    """An answer; without framing its body ends with the connection."""
    status = draw(st.sampled_from([200, 204, 304, 402, 404, 500]) | st.integers(200, 599))
    start = f"HTTP/1.1 {status} {draw(st.just('OK') | texts)}"
    sent = without(CHANGED_IN_ANSWERS, draw(fields))
    return Sent(start, sent, draw(bodies), draw(FRAMINGS), draw(CHUNK_BYTES))


def without(changed: Mapping[str, str], some: Fields) -> Fields:
    """The fields that must not differ."""
    return [each for each in some if each[0].lower() not in {*changed, *CHANGED_IN_BOTH, *REFUSED}]


def without_doubles(sent: Fields) -> Fields:
    """The fields of which there may be one, once each."""
    kept = {name.lower(): (name, value) for name, value in reversed(sent)}
    return [each for each in sent if each[0].lower() not in ONCE or kept[each[0].lower()] is each]


class Way:
    """A gateway and an agent whose next answer is set, in a loop of their own."""

    async def open(self, dsn: str, stack: AsyncExitStack) -> None:
        """Start both; the stack ends them."""
        # No call may pass unchecked because the machine is busy: it is told so in a field.
        patient = {"GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "30000"}
        self.gateway = await stack.enter_async_context(run_gateway(dsn, patient))
        agent = await stack.enter_async_context(run_raw_agent(self._answer))
        self.target = await target_of(self.gateway, agent)

    async def exchange(self, request: Sent, answer: Sent) -> tuple[Message, Message]:
        """What the agent got of the request, and the caller of the answer."""
        self.answer, self.is_bodiless = answer, is_bodiless(request, answer)
        start = f"{request.start} {self.target} HTTP/1.1\r\nHost: gateway\r\n".encode()
        async with connect(self.gateway.url) as caller:
            caller.send(start + request.fields_and_body)
            got = await caller.receive_message(self.is_bodiless)
        return self.request, got

    async def _answer(self, connection: RawConnection) -> None:
        while True:
            self.request = await connection.receive_message()
            connection.send(self.answer.start.encode() + b"\r\n")
            connection.send(self.answer.head if self.is_bodiless else self.answer.fields_and_body)
            if self.answer.framing == "none":
                connection.close()


def is_bodiless(request: Sent, answer: Sent) -> bool:
    return request.start == "HEAD" or int(answer.start.split(" ")[1]) in (204, 304)


def test_random_requests_and_answers_pass_unchanged(dsn: str) -> None:
    @settings(max_examples=1000, deadline=None, derandomize=True, database=None)
    @given(requests(), answers())
    def pass_unchanged(request: Sent, answer: Sent) -> None:
        got_request, got_answer = runner.run(way.exchange(request, answer))
        assert got_request.start == f"{request.start} / HTTP/1.1"
        assert without(CHANGED_IN_REQUESTS, got_request.fields) == request.fields
        assert digest(got_request.body) == digest(request.body)
        assert got_request.is_chunked == (request.framing == "chunks")
        assert got_answer.start == answer.start
        assert without(CHANGED_IN_ANSWERS, got_answer.fields) == answer.fields
        body = b"" if is_bodiless(request, answer) else answer.body
        assert digest(got_answer.body) == digest(body)

    with asyncio.Runner() as runner:
        way, stack = Way(), AsyncExitStack()
        runner.run(way.open(dsn, stack))
        try:
            pass_unchanged()
        finally:
            runner.run(stack.aclose())


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
