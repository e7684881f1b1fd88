"""Templates and the files that they name, and the answers that carry them."""

import asyncio
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.core.budget import timestamp
from gateway.core.money import dollars
from gateway.storage.slices import Slices

CONTENT_TYPES = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

# Nothing is fetched from elsewhere, nothing inline runs, and nobody shows the page in a frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


async def page(template: str, status: int = 200, **values: Any) -> web.Response:
    """A page as an answer."""
    text = await render(template, **values)
    return web.Response(text=text, status=status, content_type="text/html", headers=PAGE_HEADERS)


async def render(template: str, **values: Any) -> str:
    """A template with these values, in slices: the overview takes 30 ms in all."""
    if not compile_all.cache_info().currsize:
        await asyncio.to_thread(compile_all)
    pieces, slices = [], Slices()
    for piece in _environment().get_template(template).generate(values):
        pieces.append(piece)
        await slices.pause()
    return "".join(pieces)


@cache
def compile_all() -> None:
    """Compile every template; each takes some 10 ms, too long for the event loop."""
    for name in known_templates():
        _environment().get_template(name)


def known_templates() -> list[str]:
    """The names of all templates."""
    return _environment().list_templates()


def asset(name: str) -> bytes:
    """A file that the pages name. Raises KeyError for any other."""
    return _assets()[name]


@cache
def assets_version() -> str:
    """A name for the files as they are: other files have other addresses."""
    digest = hashlib.sha256()
    for name in sorted(_assets()):
        digest.update(_assets()[name])
    return digest.hexdigest()[:16]


@cache
def _assets() -> dict[str, bytes]:
    folder = files("gateway.web.page") / "static"
    return {name: (folder / name).read_bytes() for name in CONTENT_TYPES}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gateway.web.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"dollars": dollars, "timestamp": timestamp, "utc": _utc}
    environment.globals["assets"] = f"/ui/assets/{assets_version()}"
    return environment


def _utc(moment: datetime, is_time: bool) -> str:
    """A moment for readers without the script: of today the time, else with its day."""
    moment = moment.astimezone(UTC)
    return f"{moment:%H:%M:%S} UTC" if is_time else f"{moment:%b} {moment.day}, {moment:%H:%M} UTC"
