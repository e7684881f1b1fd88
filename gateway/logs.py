"""Structured logs: one event and its fields a line, on standard error."""

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict

# Of the request that the current task answers.
LOGGED_REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logs(level: str, format_: Literal["console", "json"] | None) -> None:
    """Set up structlog for this process; `None` means console on a terminal, else JSON."""
    stream = _standard_error()
    is_console = format_ == "console" or (format_ is None and stream.isatty())
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=True,
        **(_console(stream) if is_console else _json_lines(stream)),
    )
    # aiohttp and asyncio log with the standard library; their warnings belong here too.
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(message)s", force=True)


def _standard_error() -> TextIO:
    # Whoever started us with it closed wants no logs; standard output holds a command's answer.
    return sys.stderr or Path(os.devnull).open("w")


def _console(stream: TextIO) -> dict[str, Any]:
    return {
        "processors": [
            _add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=stream.isatty()),
        ],
        "logger_factory": structlog.WriteLoggerFactory(stream),
    }


def _json_lines(stream: TextIO) -> dict[str, Any]:
    # One step instead of several, because every call writes a line.
    return {
        "processors": [_json_line],
        "logger_factory": structlog.BytesLoggerFactory(stream.buffer),
    }


def _json_line(logger: object, method: str, event: EventDict) -> bytes:
    _add_request_id(logger, method, event)
    event["level"] = method
    event["timestamp"] = datetime.now(UTC)
    if "exc_info" in event:
        structlog.processors.format_exc_info(logger, method, event)
    try:
        return orjson.dumps(event, str, orjson.OPT_UTC_Z)
    except TypeError:
        # Half a surrogate pair, as in a name that is no UTF-8, or a number over 64 bits.
        return json.dumps(event, default=_text).encode()


def _text(value: object) -> str:
    # A time as orjson writes it.
    return f"{value:%Y-%m-%dT%H:%M:%S.%fZ}" if isinstance(value, datetime) else str(value)


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (request_id := LOGGED_REQUEST_ID.get()) is not None:
        event["request_id"] = request_id
    return event
