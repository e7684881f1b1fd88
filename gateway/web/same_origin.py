"""What browsers say about where a request comes from and what its response is for.

A session's cookie is SameSite=Strict; what changes something is asked a second time. Browsers say
where a request comes from (Fetch Metadata, and Origin where they do not). Who says neither is no
browser, and has no cookie that somebody else could use.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from gateway.core.errors import Forbidden

_SAFE_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
_SITE, _MODE, _DESTINATION = map(istr, ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"))
_UPGRADE = istr("Upgrade-Insecure-Requests")


def refuse_navigation(request: web.Request) -> None:
    """Raise Forbidden for a browser that opens the address, or loads it as a part of a page.

    What an agent sends would be a page, a script or a service worker of this origin, and could do
    what a signed-in operator may do. `fetch`, which only hands it to a script, and programs pass.
    """
    if _is_navigation(request.headers):
        raise Forbidden(
            "Open agents with an A2A client, not in a browser.",
            {"X-Content-Type-Options": "nosniff"},
        )


def _is_navigation(headers: CIMultiDictProxy[str]) -> bool:
    if _MODE in headers and "navigate" in _members(headers.getall(_MODE)):
        return True
    if _DESTINATION in headers and _members(headers.getall(_DESTINATION)) != {"empty"}:
        return True
    # Over plain http browsers send no Sec-Fetch to any host but their own machine; this one they
    # send with every navigation and with nothing else.
    return _UPGRADE in headers


def is_from_page(request: web.Request) -> bool:
    """Whether a browser sends the request, for a script of some page."""
    headers = request.headers
    return _SITE in headers or _MODE in headers or _DESTINATION in headers


def _members(values: Iterable[str]) -> set[str]:
    """The members of a list that may be spread over several fields (RFC 9110 section 5.3)."""
    return {member.strip().lower() for value in values for member in value.split(",")}


def require_same_origin(request: web.Request) -> None:
    """Raise Forbidden for a change that a page of another site asks for."""
    if request.method not in _SAFE_METHODS and not _is_ours(request):
        raise Forbidden("A page of another site asked for this.")


def _is_ours(request: web.Request) -> bool:
    site = request.headers.get(_SITE)
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get(hdrs.ORIGIN)
    # No page can set either of these fields for another site without asking that site first.
    hosts = (request.headers.get(hdrs.HOST), request.headers.get("X-Forwarded-Host"))
    # An origin is no more than scheme and authority (RFC 6454 section 6.2), or null.
    return origin is None or origin.partition("://")[2] in hosts


def require_own_name(request: web.Request, public_host: str | None) -> None:
    """Raise Forbidden for a browser that calls us by a name that is not ours.

    Where nobody needs a token, a page of another site whose name leads to this machine for a while
    (DNS rebinding) would be one of ours, as far as the browser knows. An address, and what is
    below localhost, is nobody's to lead elsewhere. Programs may call us by any name: only pages,
    and what bears a browser's marks, are asked. Every change from a browser bears one.
    """
    host = request.headers.get(hdrs.HOST)
    if host is None or not _is_from_browser(request):
        return
    name = urlsplit(f"//{host}").hostname or ""
    if name != public_host and not _is_of_this_machine(name):
        raise Forbidden("This is not the gateway's name; what server.public_url names is.")


def _is_from_browser(request: web.Request) -> bool:
    is_page = request.path == "/" or request.path.startswith("/ui/")
    return is_page or _SITE in request.headers or hdrs.ORIGIN in request.headers


def _is_of_this_machine(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
