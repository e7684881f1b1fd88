"""The body of a call to a workspace over its budget: what it says, found out in bounded time.

Anybody may send such bodies, as many as they like, so none may hold up the event loop: at most
64 KiB are read, by a parser in C, and nothing is done in Python for each member.
"""

import contextlib
import re
import secrets

import orjson
from aiohttp import hdrs, web

from gateway.core.calls import CallBody
from gateway.core.errors import BadRequest, RequestTimeout
from gateway.web.expectation import IS_EXPECTING
from gateway.web.json_body import read_beginning

INSPECTED_BYTES_MAX = 64 * 1024

# Each is an object, a list, a member or an element, which is what takes the parser its time. No
# call that may pass comes near; a refusal of one with more cannot repeat its id.
STRUCTURE_MAX = 8192
_STRUCTURE = b"{[:,"

# How often the name of one member may occur, at whatever depth.
NAMES_MAX = 64

# An ASCII letter as an escape. Nobody writes that but to hide a name.
_HIDDEN_LETTER = re.compile(rb"\\u00(?:[46][1-9a-f]|[57][0-9a])", re.IGNORECASE)
_COLON = re.compile(rb"[ \t\r\n]*:")
_METHOD, _ID, _RPC_MEMBER = b'"method"', b'"id"', b'"jsonrpc"'

_CHARSET = re.compile(r"charset[^=;]*=\s*[\"']?([^;\"'\s]*)")
_JSON_TYPE = re.compile(r"\s*[^/;,\s]+/([^;,\s]+\+)?json(-rpc)?\s*(;|\Z)", re.IGNORECASE)


async def inspect(request: web.Request) -> tuple[bytes | None, CallBody]:
    """The body and what it says; None, and nothing certain, where it cannot be read.

    At most INSPECTED_BYTES_MAX and the chunk that goes beyond are read.
    """
    beginning = b""
    if _is_inspectable(request):
        beginning, is_whole = await _received(request, INSPECTED_BYTES_MAX)
        if is_whole and (body := parse_call_body(beginning)) is not None:
            return beginning, body
    elif not _is_json_post(request) and not request.get(IS_EXPECTING):
        # Only to find out which form of refusal the caller understands.
        beginning, _ = await _received(request, 0)
    is_rpc = _RPC_MEMBER in beginning or _is_json_post(request)
    return None, CallBody(is_object=False, is_rpc=is_rpc)


async def _received(request: web.Request, bytes_max: int) -> tuple[bytes, bool]:
    with contextlib.suppress(BadRequest, RequestTimeout):
        return await read_beginning(request, bytes_max)
    return b"", False


def _is_inspectable(request: web.Request) -> bool:
    return is_readable(request) and (request.content_length or 0) <= INSPECTED_BYTES_MAX


def is_readable(request: web.Request) -> bool:
    """Whether the agent will read the same text as we do: no coding, no other charset.

    Agents decode by the charset they are told (aiohttp's any, UTF-7 among them), which can hide
    one method behind another.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        return False
    types = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if types == ["application/json"]:
        return True
    charsets = _CHARSET.findall(";".join(types).lower())
    return len(types) <= 1 and all(charset in ("utf-8", "utf8") for charset in charsets)


def _is_json_post(request: web.Request) -> bool:
    content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
    return request.method == hdrs.METH_POST and _JSON_TYPE.match(content_type) is not None


def parse_call_body(text: bytes) -> CallBody | None:
    """What a body says; None where it is not JSON beyond doubt, or takes too long to read.

    A parser keeps one of two members with the same name, and which one an agent obeys is its
    parser's business. So all of them, wherever they stand, are given names of their own before
    the parser sees them; those at the top are then found by these names.
    """
    if not text:
        return CallBody()
    lowered = text.lower()
    structure = len(text) - len(text.translate(None, _STRUCTURE))
    if structure > STRUCTURE_MAX or lowered.count(_METHOD) > NAMES_MAX:
        return None
    if _HIDDEN_LETTER.search(text):
        return None
    # Nobody can know these names, and write them.
    mark = secrets.token_hex(16)
    text, methods = _renamed(text, lowered, _METHOD, mark)
    text, ids = _renamed(text, text, _ID, mark)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return CallBody(is_object=False, is_rpc=_RPC_MEMBER in text)
    return CallBody(
        methods=[document[name] for name in methods if name in document],
        ids=[document[name] for name in ids if name in document],
        is_rpc="jsonrpc" in document,
    )


def _renamed(text: bytes, lowered: bytes, quoted: bytes, mark: str) -> tuple[bytes, list[str]]:
    """The text with a name of its own for every member called so, and these names."""
    if lowered.count(quoted) > NAMES_MAX:
        return text, [quoted[1:-1].decode()]  # the parser's choice, which is good enough for an id
    pieces: list[bytes] = []
    names: list[str] = []
    begin = 0
    while (at := lowered.find(quoted, begin)) >= 0:
        end = at + len(quoted)
        if _COLON.match(text, end):
            names.append(f"{mark}{quoted[1:-1].decode()}{len(names)}")
            pieces += (text[begin:at], b'"', names[-1].encode(), b'"')
        else:
            pieces.append(text[begin:end])
        begin = end
    return b"".join([*pieces, text[begin:]]), names
