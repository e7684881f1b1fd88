"""Structured logs: one event and its fields a line, on standard error."""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
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
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=True,
        **(_console() if is_console else _json_lines()),
    )
    # aiohttp and asyncio log with the standard library; their warnings belong here too.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)


def _console() -> dict[str, Any]:
    return {
        "processors": [
            _add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        "logger_factory": structlog.WriteLoggerFactory(sys.stderr),
    }


def _json_lines() -> dict[str, Any]:
    # One step instead of several, because every call writes a line.
    return {
        "processors": [_json_line],
        "logger_factory": structlog.BytesLoggerFactory(sys.stderr.buffer),
    }


def _json_line(logger: object, method: str, event: EventDict) -> bytes:
    _add_request_id(logger, method, event)
    event["level"] = method
    event["timestamp"] = datetime.now(UTC)
    if "exc_info" in event:
        structlog.processors.format_exc_info(logger, method, event)
    return orjson.dumps(event, str, orjson.OPT_UTC_Z)


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (request_id := LOGGED_REQUEST_ID.get()) is not None:
        event["request_id"] = request_id
    return event
