"""Agent cards as callers get them: the agent's own, with addresses that lead to this gateway.

The agent is always asked for the whole card, by GET, without conditions and uncoded: what callers
get is another text with an entity tag of its own.
"""

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import orjson
from aiohttp import hdrs, web

from gateway.core.agent_card import (
    WELL_KNOWN_PATHS,
    Card,
    CardQuestion,
    is_agent_card,
    is_well_known_path,
    names_card_method,
    rewrite_card,
    rewrite_rpc_answer,
)
from gateway.core.credentials import without_session_cookies
from gateway.core.entity_tags import etag, is_matched
from gateway.core.errors import (
    BadGateway,
    GatewayError,
    GatewayTimeout,
    NotFound,
    StorageUnavailable,
)
from gateway.core.headers import end_to_end
from gateway.core.target import CallTarget
from gateway.web.json_body import has_too_many_items
from gateway.web.services import services
from gateway.web.upstream import Upstream, UpstreamAnswer, UpstreamRequest

# One search is up to four questions to the agent.
SEARCH_TIMEOUT_S = 10.0
CARD_BYTES_MAX = 1024 * 1024

UNREADABLE = "The agent's card cannot be read."

Fields = Sequence[tuple[str, str]]

# The agent wants to know who asks: that is about its card, not about where the card is.
_REFUSALS = (401, 403)

# RFC 9110 sections 12 and 13: what would make the agent answer by a part, a coding or nothing.
_NOT_ASKED_WITH = re.compile(
    r"if-(match|none-match|modified-since|unmodified-since|range)|range|content-.*",
    re.IGNORECASE,
)

# What is true of the agent's bytes only.
_STALE_FIELDS = frozenset(
    {
        "content-length",
        "content-encoding",
        "content-range",
        "content-md5",
        "content-digest",
        "repr-digest",
        "digest",
        "accept-ranges",
        "etag",
        "last-modified",
    }
)

# RFC 9110 section 15.4.5; the date is always there.
_NOT_MODIFIED_FIELDS = frozenset({"cache-control", "content-location", "expires", "vary"})

# Many values one after another, each of which somebody waits for.
_STREAM = re.compile("event-stream|ndjson|jsonl|json-?lines|json-seq|stream[+]json")

_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")


@dataclass(frozen=True, slots=True)
class CardCall:
    """A question for a card: what was asked, of whom, and under which address callers know it.

    `fields` are the caller's as any call to the agent has them.
    """

    target: CallTarget
    agent_url: str
    public_base: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the agent said; `document` is the JSON value that came with a 200."""

    status: int
    reason: str
    fields: Fields
    body: bytes
    document: object

    @property
    def card(self) -> Card | None:
        """What a well-known place gave, taken at its word; None if it is nothing like a card."""
        return self.document if isinstance(self.document, dict) and self.document else None


async def answer_card(request: web.Request, call: CardCall) -> web.Response:
    """Answer a GET or HEAD on a card's path (core.agent_card.is_card_path).

    Raises NotFound, BadGateway, GatewayTimeout and StorageUnavailable.
    """
    if is_well_known_path(call.target.path):
        return await _answer_well_known(request, call)
    answer = await _ask(
        services(request).upstream, call.target.upstream_url(call.agent_url), call.fields
    )
    if not is_agent_card(answer.document):
        return _pass_on(answer)
    return _answer_with(request, call, answer.document, answer.fields)


@dataclass(slots=True)
class RpcCards:
    """The cards in a call's JSON-RPC answer, if its body could be asking for one.

    `see` every part of the body; then `rewritten` gives the answer to pass on.
    """

    agent_url: str
    public_base: Callable[[], str]
    question: CardQuestion

    def see(self, part: bytes) -> None:
        """Look at a part of the body on its way; nothing is parsed."""
        self.question.see(part)

    def asked_with(self, fields: Fields, body: object) -> Fields:
        """The fields to ask with: in a coding that the caller likes, a card may be unreadable."""
        is_named = self.question.is_asked and isinstance(body, bytes) and names_card_method(body)
        return _uncoded(fields) if is_named else fields

    async def rewritten(self, answer: UpstreamAnswer) -> UpstreamAnswer:
        """The answer with its card rewritten; all others pass as they are, event streams at once.

        What cannot be read is passed on: most likely the question was about something else, and
        its answer may have cost money. Raises BadGateway, GatewayTimeout.
        """
        if not self.question.is_asked or not _may_hold_card(answer):
            return answer
        body = bytearray()
        async for chunk in answer.chunks:
            body += chunk
            if len(body) > CARD_BYTES_MAX:  # no card is that long
                return replace(answer, chunks=_chained(bytes(body), answer.chunks))
        fields, text = self._rewrite(answer.headers, bytes(body))
        return replace(answer, headers=fields, chunks=_chained(text, None))

    def _rewrite(self, fields: Fields, body: bytes) -> tuple[Fields, bytes]:
        try:
            document = _read_document(body, _listed(fields, "content-encoding"))
        except BadGateway:
            return fields, body
        rewritten = rewrite_rpc_answer(document, self.agent_url, self.public_base())
        if rewritten is None:
            return fields, body
        text = _write(rewritten)
        return [*fresh_fields(fields), (hdrs.CONTENT_LENGTH, str(len(text)))], text


def _may_hold_card(answer: UpstreamAnswer) -> bool:
    content_type = _listed(answer.headers, "content-type").lower()
    is_stream = _STREAM.search(content_type) is not None
    # Whatever it calls itself, what has a length is no stream, and clients read it as JSON.
    is_whole = "json" in content_type or bool(_listed(answer.headers, "content-length"))
    return answer.status == 200 and is_whole and not is_stream


def _listed(fields: Fields, name: str) -> str:
    return ",".join(value for field, value in fields if field.lower() == name)


async def _chained(head: bytes, rest: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if head:
        yield head
    if rest is not None:
        async for chunk in rest:
            yield chunk


def fresh_fields(fields: Fields) -> list[tuple[str, str]]:
    """The fields of an answer that are still true of it once its body was rewritten."""
    return [(name, value) for name, value in fields if name.lower() not in _STALE_FIELDS]


async def _answer_well_known(request: web.Request, call: CardCall) -> web.Response:
    outcomes = await _search(services(request).upstream, call)
    last = outcomes[-1]
    if isinstance(last, _Answer) and last.status in _REFUSALS:
        return _pass_on(last)
    if isinstance(last, _Answer) and last.card is not None:
        return _answer_with(request, call, last.card, last.fields)
    return _answer_with(request, call, await _registered_card(request, call, outcomes), ())


async def _search(upstream: Upstream, call: CardCall) -> list[_Answer | GatewayError]:
    """What each place gave, up to the first that settles the question; never empty."""
    outcomes: list[_Answer | GatewayError] = []
    try:
        async with asyncio.timeout(SEARCH_TIMEOUT_S):
            for url in _places(call):
                outcomes.append(outcome := await _try(upstream, url, call.fields))
                if _settles(outcome):
                    break
    except TimeoutError:
        outcomes.append(GatewayTimeout("The agent did not answer in time."))
    return outcomes


def _places(call: CardCall) -> list[str]:
    """Where the card may be: below the registered URL, at its origin; under either name."""
    origin = _ORIGIN.match(call.agent_url)
    roots = (call.agent_url, origin[0] if origin else call.agent_url)
    paths = sorted(WELL_KNOWN_PATHS, key=lambda path: path != call.target.path)
    urls = [replace(call.target, tail=path).upstream_url(root) for root in roots for path in paths]
    return list(dict.fromkeys(urls))


async def _try(upstream: Upstream, url: str, fields: Fields) -> _Answer | GatewayError:
    try:
        return await _ask(upstream, url, fields)
    except (BadGateway, GatewayTimeout) as error:
        return error


def _settles(outcome: _Answer | GatewayError) -> bool:
    if isinstance(outcome, GatewayError):
        return False
    return outcome.status in _REFUSALS or outcome.card is not None


async def _registered_card(
    request: web.Request, call: CardCall, outcomes: Sequence[_Answer | GatewayError]
) -> Card:
    """The card that the agent registered with. Raises what is true if there is none."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, GatewayError)]
    failure = failures[0] if len(failures) == len(outcomes) else None
    try:
        card = await services(request).registry.registered_card(call.target.workspace_id)
    except StorageUnavailable as error:
        raise failure or error from None
    if not card:
        raise failure or NotFound("This workspace's agent has no card.")
    return card


async def _ask(upstream: Upstream, url: str, fields: Fields) -> _Answer:
    """One exchange with the agent. Raises BadGateway and GatewayTimeout."""
    asked = UpstreamRequest("GET", url, _asked_with(fields), None)
    async with upstream.exchange(asked) as answer:
        body = await _read_body(answer.chunks)
    kept = without_session_cookies(end_to_end(answer.headers))
    document = (
        _read_document(body, _listed(kept, "content-encoding")) if answer.status == 200 else None
    )
    return _Answer(answer.status, answer.reason, kept, body, document)


def _asked_with(fields: Fields) -> list[tuple[str, str]]:
    return _uncoded([field for field in fields if not _NOT_ASKED_WITH.fullmatch(field[0])])


def _uncoded(fields: Fields) -> list[tuple[str, str]]:
    kept = [field for field in fields if field[0].lower() != "accept-encoding"]
    # RFC 9110 section 12.5.3: without the field any coding is welcome.
    return [*kept, ("Accept-Encoding", "identity")]


async def _read_body(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > CARD_BYTES_MAX:
            raise BadGateway(UNREADABLE)
    return bytes(body)


def _read_document(body: bytes, coding: str) -> object:
    """The JSON value that the body is, None if it is not JSON.

    Raises BadGateway for other codings, and for so many items that no card has.
    """
    text = _decode(body, coding.strip().lower())
    if has_too_many_items(text):
        raise BadGateway(UNREADABLE)
    # Python's parser takes a mark at the beginning, UTF-16 and NaN, and so do clients made with it.
    for loads in (orjson.loads, json.loads):
        try:
            return loads(text)
        except (ValueError, RecursionError):
            continue
    return None


def _decode(body: bytes, coding: str) -> bytes:
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise BadGateway(UNREADABLE)
    decoder = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip's or zlib's header
    try:
        text = decoder.decompress(body, CARD_BYTES_MAX)
    except zlib.error:
        raise BadGateway(UNREADABLE) from None
    if not decoder.eof or decoder.unused_data:
        raise BadGateway(UNREADABLE)
    return text


def _write(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # nested over 254 levels, or an integer of more than 64 bits
        raise BadGateway(UNREADABLE) from None


def _answer_with(request: web.Request, call: CardCall, card: Card, fields: Fields) -> web.Response:
    """The card rewritten, or 304 for a caller who has it."""
    body = _write(rewrite_card(card, call.agent_url, call.public_base))
    tag = etag(body)
    if is_matched(request.headers.getall(hdrs.IF_NONE_MATCH, ()), tag):
        kept = [(name, value) for name, value in fields if name.lower() in _NOT_MODIFIED_FIELDS]
        return web.Response(status=304, headers=[*kept, (hdrs.ETAG, tag)])
    kept = [(name, value) for name, value in fresh_fields(fields) if name.lower() != "content-type"]
    added = [(hdrs.CONTENT_TYPE, "application/json"), (hdrs.ETAG, tag)]
    return web.Response(headers=[*kept, *added], body=body)


def _pass_on(answer: _Answer) -> web.Response:
    """The agent's answer as it was."""
    return web.Response(
        status=answer.status, reason=answer.reason, headers=answer.fields, body=answer.body
    )
