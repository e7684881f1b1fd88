"""What stands around every page, and what is shown in the place of one that cannot be."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from gateway.core.errors import GatewayError, StorageUnavailable, Unauthorized
from gateway.web.page.shown import gateway_view
from gateway.web.page.templates import page
from gateway.web.services import services
from gateway.web.session import read_session

SIGN_IN = "/ui/sign-in"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def as_page(handler: Handler) -> Handler:
    """Show errors to people: as a page, or by asking who they are.

    A link on another site comes without the session's cookie, which is SameSite=Strict. A page of
    ours that asks again brings it.
    """

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Unauthorized:
            if request.headers.get("Sec-Fetch-Site") == "cross-site":
                return await page("again.html", here=request.rel_url.raw_path_qs)
            named = request.match_info.get("id")
            return see_other(SIGN_IN + ("?" + urlencode({"workspace": named}) if named else ""))
        except GatewayError as error:
            shown = await page(
                "error.html",
                error.status,
                error=error,
                here=request.rel_url.raw_path_qs,
                **frame(request, is_database_away=await _is_database_away(request, error)),
            )
            shown.headers.extend(error.headers)
            return shown

    return answer


async def _is_database_away(request: web.Request, error: GatewayError) -> bool:
    """Whether checks fail for what a page failed for; its own queries may just have been late."""
    is_storage = isinstance(error, StorageUnavailable)
    return is_storage and not await services(request).gate.is_answering()


def frame(request: web.Request, *, is_database_away: bool = False) -> dict[str, Any]:
    """The gateway's own state, and whether somebody is signed in."""
    parts = services(request)
    return {
        "gateway": gateway_view(parts.unchecked_calls, is_database_away=is_database_away),
        "is_signed_in": read_session(request) is not None and not parts.access.is_open,
    }


def see_other(path: str) -> web.Response:
    """Send the browser to another page of ours."""
    return web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
