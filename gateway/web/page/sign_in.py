"""Signing in and out."""

from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from gateway.core.errors import (
    BadRequest,
    GatewayError,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
)
from gateway.core.hops import caller_address, public_origin
from gateway.core.workspaces import is_workspace_id
from gateway.web.forwarding import read_arrival
from gateway.web.json_body import read_body
from gateway.web.page.frame import SIGN_IN, as_page, frame, see_other
from gateway.web.page.parts import page_parts
from gateway.web.page.templates import page
from gateway.web.same_origin import require_same_origin
from gateway.web.services import services
from gateway.web.session import forget_session, keep_session

log = structlog.get_logger()

FORM_BYTES_MAX = 16 * 1024
FIELDS_MAX = 64


async def get_sign_in(request: web.Request) -> web.Response:
    """The form; where operators need no token there is none."""
    if services(request).access.is_open:
        return see_other("/")
    workspace_id = request.query.get("workspace", "")
    return await _form(request, workspace_id if is_workspace_id(workspace_id) else "")


@as_page
async def post_sign_in(request: web.Request) -> web.Response:
    """Take a token and give a session for it."""
    require_same_origin(request)
    form = await read_form(request)
    workspace_id, token = form.get("workspace", "").strip(), form.get("token", "").strip()
    if workspace_id and not is_workspace_id(workspace_id):
        return await _form(request, "", BadRequest("This is no workspace's id."))
    attempts, address = page_parts(request).attempts, _address(request)
    try:
        attempts.begin(address)
        session = await services(request).access.sign_in(token, workspace_id or None)
    except Unauthorized as error:
        log.warning("sign_in_failed", address=address)
        return await _form(request, workspace_id, error)
    except StorageUnavailable as error:
        attempts.forgive(address)
        return await _form(request, workspace_id, error)
    except TooManyRequests as error:
        return await _form(request, workspace_id, error)
    attempts.forgive(address)
    log.info("signed_in", workspace_id=session.workspace_id)
    answer = see_other(f"/ui/workspaces/{workspace_id}" if workspace_id else "/")
    keep_session(answer, session, is_https=_is_https(request))
    return answer


@as_page
async def post_sign_out(request: web.Request) -> web.Response:
    """Forget the session."""
    require_same_origin(request)
    answer = see_other(SIGN_IN)
    forget_session(answer)
    return answer


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form; of doubles the last. Raises BadRequest and ContentTooLarge."""
    body = await read_body(request, FORM_BYTES_MAX)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError:
        raise BadRequest("The body must be a form.") from None
    return dict(pairs)


async def _form(
    request: web.Request, workspace_id: str, error: GatewayError | None = None
) -> web.Response:
    answer = await page(
        "sign_in.html",
        200 if error is None else error.status,
        id=workspace_id,
        error=None if error is None else error.detail,
        **frame(request),
    )
    answer.headers.extend({} if error is None else error.headers)
    return answer


def _address(request: web.Request) -> str:
    """Who tries, as far as our own proxies vouch for it."""
    trusted = services(request).config.server.trusted_networks
    arrival = read_arrival(request, trusted)
    return caller_address(arrival.fields, arrival.hop.peer, trusted)


def _is_https(request: web.Request) -> bool:
    """Whether people reach this gateway through https."""
    server = services(request).config.server
    arrival = read_arrival(request, server.trusted_networks)
    is_public = server.public_url is not None and server.public_url.scheme == "https"
    return is_public or public_origin(arrival.fields, arrival.hop).scheme == "https"
