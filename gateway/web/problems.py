"""Errors as problem documents (RFC 9457), with the legacy one-line member `error`.

No stack trace, no SQL, and nothing of what was sent: an error page must not echo it.
"""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.core.errors import GatewayError

log = structlog.get_logger()


def problem(error: GatewayError) -> web.Response:
    """The answer for one of our errors."""
    return _document(error.status, error.title, error.detail, error.headers)


def problem_bytes(error: GatewayError, *, is_last: bool = True) -> bytes:
    """The whole answer for one of our errors as it is sent, for where there is no request.

    `is_last` ends the connection.
    """
    answer = problem(error)
    if is_last:
        end_connection(answer)
    head = [f"HTTP/1.1 {error.status} {error.title}", f"Content-Length: {answer.content_length}"]
    head += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*head, "", answer.text or ""]).encode()


def _document(status: int, title: str, detail: str, headers: Mapping[str, str]) -> web.Response:
    members = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "error": detail,
    }
    return web.Response(
        status=status,
        body=orjson.dumps(members),
        headers={"Cache-Control": "no-store", **headers},
        content_type="application/problem+json",
    )


def end_connection(answer: web.StreamResponse) -> None:
    """Make it the last answer on its connection, and say so (RFC 9112 section 9.6)."""
    answer.force_close()
    # aiohttp leaves the field out towards HTTP/1.0.
    answer.headers["Connection"] = "close"


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into an answer. After an answer began there is no second one."""
    try:
        answer = await handler(request)
    except GatewayError as error:
        answer = problem(error)
    except web.HTTPException as error:
        answer = _from_aiohttp(error)
    except Exception:
        log.exception("request_failed", method=request.method)
        answer = _document(500, "Internal Server Error", "The gateway made a mistake.", {})
    if not answer.prepared and not request.content.is_eof():
        # What was not read must not be taken for the next request.
        end_connection(answer)
    return answer


def _from_aiohttp(error: web.HTTPException) -> web.Response:
    """aiohttp's own errors: no such route, no such method, a body that is too large."""
    title = HTTPStatus(error.status).phrase
    details = {
        404: "There is nothing at this address.",
        405: "This address does not know this method.",
        413: "The body is too large.",
    }
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return _document(error.status, title, details.get(error.status, title), headers)
