"""Structured logs: one event and its fields a line, on standard error.

Lines are written by a thread (log_writer.py): a reader that stalls holds up no call.
"""

import atexit
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from gateway.log_writer import END_TIMEOUT_S, LogWriter

# Of the request that the current task answers.
LOGGED_REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


# Of this process: the last one writes, those before it have ended.
_writers: list[LogWriter] = []


def configure_logs(level: str, format_: Literal["console", "json"] | None) -> None:
    """Set up structlog for this process; `None` means console on a terminal, else JSON."""
    stream = _standard_error()
    is_console = format_ == "console" or (format_ is None and stream.isatty())
    # One step for JSON instead of several, because every call writes a line.
    processors = _console(stream) if is_console else [_json_line]
    writer = LogWriter(stream, lambda count: _loss_line(processors, count))
    _write_with(writer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=True,
        logger_factory=lambda *_: _LineLogger(writer),
    )
    # aiohttp and asyncio log with the standard library; their warnings belong here too, and those
    # of Python itself.
    logging.basicConfig(
        handlers=[_LineHandler(writer)], level=logging.WARNING, format="%(message)s", force=True
    )
    logging.captureWarnings(True)


def flush_logs(timeout_s: float = END_TIMEOUT_S) -> bool:
    """Wait until every line so far is written; False if that took too long."""
    return all(writer.flush(timeout_s) for writer in _writers)


def lines_lost_count() -> int:
    """How many lines this process lost, because its log was not read or could not be written."""
    return sum(writer.lost_count for writer in _writers)


def _write_with(writer: LogWriter) -> None:
    for earlier in _writers:
        earlier.end()
        atexit.unregister(earlier.end)
    _writers.append(writer)
    atexit.register(writer.end)


def _standard_error() -> TextIO:
    # Whoever started us with it closed wants no logs; standard output holds a command's answer.
    return sys.stderr or Path(os.devnull).open("w")


class _LineLogger:
    """Takes rendered lines from structlog, by their level."""

    def __init__(self, writer: LogWriter) -> None:
        self.debug = self.info = writer.write
        self.warning = self.error = self.critical = writer.write_now


class _LineHandler(logging.Handler):
    """Takes records of the standard library's loggers, which are warnings at least."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write_now(_encoded(self, record.levelname, self.format(record)))
        except Exception:
            self.handleError(record)


def _console(stream: TextIO) -> list[Processor]:
    return [
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # rich would write out local variables, which takes seconds and shows secrets.
            exception_formatter=structlog.dev.plain_traceback,
        ),
        _encoded,
    ]


def _encoded(_logger: object, _method: str, text: Any) -> bytes:
    return str(text).rstrip("\n").encode(errors="backslashreplace")


def _loss_line(processors: Sequence[Processor], count: int) -> bytes:
    line: Any = {"event": "log_lines_lost", "count": count}
    for processor in processors:
        line = processor(None, "warning", line)
    return bytes(line)


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
