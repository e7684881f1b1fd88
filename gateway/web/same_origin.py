"""Whether a browser sends a request for a page of ours.

A session's cookie is SameSite=Strict; what changes something is asked a second time. Browsers say
where a request comes from (Fetch Metadata, and Origin where they do not). Who says neither is no
browser, and has no cookie that somebody else could use.
"""

import ipaddress
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gateway.core.errors import Forbidden

_SAFE_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
_SITE = "Sec-Fetch-Site"


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
