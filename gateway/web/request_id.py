"""X-Request-ID: the caller's if it is a plain one, else our own, on every log line of a request."""

import random
import re

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.logs import LOGGED_REQUEST_ID

REQUEST_ID = web.RequestKey("request_id", str)

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


@web.middleware
async def carry_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bind the request's id to the logs; the answer carries it."""
    given = request.headers.get("X-Request-ID", "")
    request_id = given if _PLAIN_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    request[REQUEST_ID] = request_id
    LOGGED_REQUEST_ID.set(request_id)
    return await handler(request)


async def answer_request_id(request: web.Request, answer: web.StreamResponse) -> None:
    """Put the id on the answer, whoever wrote it."""
    if REQUEST_ID in request:
        answer.headers["X-Request-ID"] = request[REQUEST_ID]
