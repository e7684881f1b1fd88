"""The files that the pages name."""

from aiohttp import web

from gateway.core.errors import NotFound
from gateway.web.page.templates import CONTENT_TYPES, PAGE_HEADERS, asset, assets_version


async def get_asset(request: web.Request) -> web.Response:
    """A file that the pages name, for ever: another text has another address."""
    name = request.match_info["name"]
    if request.match_info["version"] != assets_version() or name not in CONTENT_TYPES:
        raise NotFound("There is nothing at this address.")
    return web.Response(
        body=asset(name),
        content_type=CONTENT_TYPES[name],
        charset="utf-8",
        headers={
            **PAGE_HEADERS,
            "Cache-Control": "public, max-age=31536000, immutable",
        },
    )
