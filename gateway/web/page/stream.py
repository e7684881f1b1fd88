"""Server-sent events: what is new on a page, for as long as somebody looks at it."""

import asyncio
from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

from gateway.web.page.live import Subject, Viewer
from gateway.web.page.parts import page_parts
from gateway.web.page.templates import PAGE_HEADERS

# A stream ends after this and the page asks again, so that who was signed out sees no more.
LIFETIME_S = 15 * 60
ALIVE_S = 15.0
# When a page asks again after a stream's end; browsers' own is several seconds.
RETRY_MS = 1000
WRITE_TIMEOUT_S = 10.0


async def stream_news(request: web.Request, subject: Subject) -> web.StreamResponse:
    """Send events whose `data` is an object of HTML by element; each replaces what was there."""
    live = page_parts(request).live
    with live.watching(subject) as viewer:
        # A proxy that collects an answer before it passes it on would hold back all news.
        headers = {**PAGE_HEADERS, "X-Accel-Buffering": "no"}
        answer = web.StreamResponse(headers=headers)
        answer.content_type = "text/event-stream"
        await answer.prepare(request)
        try:
            async with asyncio.timeout(LIFETIME_S):
                await answer.write(b"retry: %d\n\n" % RETRY_MS)
                await _send_news(answer, viewer, lambda: live.is_closed)
        except (TimeoutError, ConnectionError):
            pass
        return answer


async def _send_news(
    answer: web.StreamResponse, viewer: Viewer, is_closed: Callable[[], bool]
) -> None:
    sent: Mapping[str, str] = {}
    while not is_closed():
        seen, viewer_parts = viewer.news, viewer.parts
        seen.clear()
        changed = {name: text for name, text in viewer_parts.items() if sent.get(name) != text}
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await answer.write(_event(changed))
        sent = viewer_parts
        try:
            async with asyncio.timeout(ALIVE_S):
                await seen.wait()
        except TimeoutError:
            continue


def _event(changed: Mapping[str, str]) -> bytes:
    # Without news both sides learn from this whether the other is still there.
    return (b"" if changed else b"event: alive\n") + b"data: " + orjson.dumps(changed) + b"\n\n"
