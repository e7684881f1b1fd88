"""A JSON body with a limit on its size, its depth and the time it may take."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.core.errors import BadRequest, ContentTooLarge, RequestTimeout
from gateway.storage.slices import Slices
from gateway.web.expectation import continue_if_expected

DEPTH_MAX = 64
READ_TIMEOUT_S = 10.0
# Members and elements of a whole body: what is done for each of them holds up the event loop.
ITEMS_MAX = 10_000
ITEMS_PER_SLICE = 500

Model = TypeVar("Model", bound=BaseModel)
Member = TypeVar("Member")


async def read_object(request: web.Request, bytes_max: int) -> Mapping[str, object]:
    """The JSON object that the body is. Raises BadRequest and ContentTooLarge."""
    body = await read_body(request, bytes_max)
    if has_too_many_items(body):
        raise BadRequest(f"The body must not have over {ITEMS_MAX} members and elements.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("The body must be JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    # A large one took a millisecond or two so far, and as much is to be done with it.
    await asyncio.sleep(0)
    return value


def has_too_many_items(text: bytes) -> bool:
    """Whether a JSON text has over ITEMS_MAX members and elements; commas in strings count, too."""
    # Every item but the first of its object or array follows a comma, and that one a bracket.
    return text.count(b",") + text.count(b"[") + text.count(b"{") > ITEMS_MAX


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """The whole body. Raises ContentTooLarge as soon as it is over its limit, RequestTimeout.

    A caller who asked whether to send it is told so here, and not before.
    """
    if (request.content_length or 0) <= bytes_max:
        body, is_whole = await read_beginning(request, bytes_max)
        if is_whole:
            return body
    raise ContentTooLarge(f"The body must not be over {bytes_max} bytes.")


async def read_beginning(request: web.Request, bytes_max: int) -> tuple[bytes, bool]:
    """The body up to the chunk that goes beyond `bytes_max`, and whether that is all of it.

    Raises RequestTimeout, and BadRequest for a body that breaks off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await continue_if_expected(request)
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    return bytes(body), False
    except TimeoutError:
        raise RequestTimeout("The body did not arrive in time.") from None
    except web.RequestPayloadError:
        raise BadRequest("The body broke off.") from None
    return bytes(body), True


async def parse(model: type[Model], members: Mapping[str, object]) -> Model:
    """The members as `model`. Raises BadRequest with a sentence that names the first wrong one."""
    for name in model.model_fields:
        # What the model ignores may be anything.
        await _require_storable(name, members.get(name))
    try:
        return model.model_validate(members)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{where}: {what[0].lower()}{what[1:]}.") from None


async def _require_storable(name: str, value: object) -> None:
    """Refuse what PostgreSQL cannot hold (U+0000) and what is nested without end."""
    slices = Slices()
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        below: list[object] = []
        for first in range(0, len(level), ITEMS_PER_SLICE):
            for each in level[first : first + ITEMS_PER_SLICE]:
                if isinstance(each, str) and "\0" in each:
                    raise BadRequest(f"{name}: must not contain the character U+0000.")
                if isinstance(each, dict):
                    below += each
                    below += each.values()
                elif isinstance(each, list):
                    below += each
            await slices.pause()
        level = below
    if level:
        raise BadRequest(f"{name}: nested too deeply.")


async def json_list(members: Iterable[Member], write: Callable[[Member], object]) -> list[object]:
    """What `write` makes of each, as JSON for `json_response`, in slices: it may be a thousand."""
    slices = Slices()
    written: list[object] = []
    for member in members:
        written.append(orjson.Fragment(orjson.dumps(write(member))))
        await slices.pause()
    return written


def json_response(document: object, fields: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that nobody keeps, with further header fields."""
    return web.Response(
        body=orjson.dumps(document),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(fields or {})},
    )
