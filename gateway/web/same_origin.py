"""Whether a browser sends a request for a page of ours.

A session's cookie is SameSite=Strict; what changes something is asked a second time. Browsers say
where a request comes from (Fetch Metadata, and Origin where they do not). Who says neither is no
browser, and has no cookie that somebody else could use.
"""

from aiohttp import hdrs, web

from gateway.core.errors import Forbidden

_SAFE_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)


def require_same_origin(request: web.Request) -> None:
    """Raise Forbidden for a change that a page of another site asks for."""
    if request.method not in _SAFE_METHODS and not _is_ours(request):
        raise Forbidden("A page of another site asked for this.")


def _is_ours(request: web.Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get(hdrs.ORIGIN)
    # No page can set either of these fields for another site without asking that site first.
    hosts = (request.headers.get(hdrs.HOST), request.headers.get("X-Forwarded-Host"))
    # An origin is no more than scheme and authority (RFC 6454 section 6.2), or null.
    return origin is None or origin.partition("://")[2] in hosts
