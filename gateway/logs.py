"""Structured logs: one event and its fields a line, on standard error."""

import logging
import sys
from contextvars import ContextVar
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict

# Of the request that the current task answers.
LOGGED_REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logs(level: str, format_: Literal["console", "json"] | None) -> None:
    """Set up structlog for this process; `None` means console on a terminal, else JSON."""
    is_console = format_ == "console" or (format_ is None and sys.stderr.isatty())
    structlog.configure(
        processors=[
            _add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(is_console),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # aiohttp and asyncio log with the standard library; their warnings belong here too.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (request_id := LOGGED_REQUEST_ID.get()) is not None:
        event["request_id"] = request_id
    return event


def _renderers(is_console: bool) -> list[Any]:
    if is_console:
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_json_line),
    ]


def _json_line(event: object, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
