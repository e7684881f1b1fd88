"""Log lines: every event is one line that says what happened, whatever its fields hold."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog

from gateway.logs import LOGGED_REQUEST_ID, configure_logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """Everything that was written to standard error, where JSON is logged."""
    written = io.BytesIO()
    before = structlog.get_config()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, write_through=True))
    configure_logs("info", "json")
    yield written
    structlog.configure(**before)


def lines(written: io.BytesIO) -> list[dict[str, Any]]:
    """What was logged, line by line."""
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_line_tells_the_event_its_fields_its_level_and_when(written: io.BytesIO) -> None:
    structlog.get_logger().warning("budget_exceeded", workspace_id="w", limit_cents=100)
    (line,) = lines(written)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "event": "budget_exceeded",
        "level": "warning",
        "workspace_id": "w",
        "limit_cents": 100,
    }


def test_line_tells_the_request_that_is_answered(written: io.BytesIO) -> None:
    token = LOGGED_REQUEST_ID.set("an-id")
    structlog.get_logger().info("within")
    LOGGED_REQUEST_ID.reset(token)
    structlog.get_logger().info("after")
    within, after = lines(written)
    assert within["request_id"] == "an-id"
    assert "request_id" not in after


def test_event_below_the_level_is_not_logged(written: io.BytesIO) -> None:
    structlog.get_logger().debug("detail")
    assert lines(written) == []


def test_exception_is_told_with_its_trace_on_the_same_line(written: io.BytesIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger().exception("request_failed")
    (line,) = lines(written)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        pytest.param("two\nlines\u2028", "two\nlines\u2028", id="ends of lines"),
        pytest.param(UUID(int=1), str(UUID(int=1)), id="an id"),
        pytest.param(OSError("no room"), "no room", id="an error"),
        pytest.param(b"\xff", r"b'\xff'", id="bytes"),
        pytest.param("name\udcff", "name\udcff", id="half a surrogate pair"),
        pytest.param(2**64, 2**64, id="a number over 64 bits"),
        pytest.param(OSError("\udcff"), "\udcff", id="an error whose text is no UTF-8"),
    ],
)
def test_any_value_is_logged_on_one_line(
    written: io.BytesIO, value: object, logged: object
) -> None:
    structlog.get_logger().info("seen", value=value, other=UUID(int=2))
    (line,) = lines(written)
    assert line["value"] == logged
    assert line["other"] == str(UUID(int=2))
    assert re.fullmatch(r"[-\d]+T[:\d]+\.\d{6}Z", line["timestamp"])


def test_exception_with_half_a_surrogate_pair_is_logged(written: io.BytesIO) -> None:
    try:
        raise ValueError("\udcff")
    except ValueError:
        structlog.get_logger().exception("request_failed")
    (line,) = lines(written)
    assert line["exception"].endswith("ValueError: \udcff")


def test_warning_of_a_library_is_written_too(written: io.BytesIO) -> None:
    logging.getLogger("aiohttp").warning("something")
    assert written.getvalue() == b"something\n"


@pytest.mark.parametrize("format_", ["console", "json", None])
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-"], ids=["standard error", "output too"])
def test_process_without_standard_error_runs_and_logs_nowhere(
    format_: str | None, closed: str
) -> None:
    program = (
        "import logging, structlog\n"
        "from gateway.logs import configure_logs\n"
        f"configure_logs('info', {format_!r})\n"
        "structlog.get_logger().warning('nobody_sees_this')\n"
        "logging.getLogger('aiohttp').warning('nor this')\n"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, b"")
