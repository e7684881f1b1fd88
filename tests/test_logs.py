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

from gateway.logs import LOGGED_REQUEST_ID, configure_logs, flush_logs
from tests.pipes import small_pipe


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


def logging_program(format_: str | None, *statements: str) -> str:
    """A Python program that sets up its logs and runs these statements."""
    first = (
        "import logging, structlog, warnings",
        "from gateway.logs import configure_logs, lines_lost_count",
        f"configure_logs('info', {format_!r})",
    )
    return "\n".join((*first, *statements))


def lines(written: io.BytesIO) -> list[dict[str, Any]]:
    """What was logged, line by line."""
    assert flush_logs()
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
    assert flush_logs()
    assert written.getvalue() == b"something\n"


@pytest.mark.parametrize("format_", ["console", "json", None])
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-"], ids=["standard error", "output too"])
def test_process_without_standard_error_runs_and_logs_nowhere(
    format_: str | None, closed: str
) -> None:
    program = logging_program(
        format_,
        "structlog.get_logger().warning('nobody_sees_this')",
        "logging.getLogger('aiohttp').warning('nor this')",
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_program_that_ends_at_once_loses_no_line() -> None:
    program = logging_program(
        "json", "for number in range(1000): structlog.get_logger().info('line', number=number)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, timeout=60
    )
    numbers = [json.loads(line)["number"] for line in ended.stderr.splitlines()]
    assert numbers == list(range(1000))


def test_warning_of_python_is_one_of_the_lines() -> None:
    program = logging_program("json", "warnings.showwarning('a word', UserWarning, 'a.py', 7)")
    ended = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, timeout=60
    )
    assert ended.stderr == b"a.py:7: UserWarning: a word\n"


def test_crash_prints_its_traceback_and_loses_no_line() -> None:
    program = logging_program("json", "structlog.get_logger().info('before')", "1 / 0")
    ended = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert b"ZeroDivisionError: division by zero\n" in ended.stderr
    assert b'"event":"before"' in ended.stderr


@pytest.mark.parametrize(
    ("format_", "log_a_line"),
    [
        ("json", "structlog.get_logger().info('line', text='x' * 1000)"),
        ("json", "structlog.get_logger().warning('line', text='x' * 1000)"),
        ("console", "structlog.get_logger().warning('line', text='x' * 1000)"),
        ("json", "logging.getLogger('asyncio').warning('x' * 1000)"),
        ("json", "warnings.showwarning('x' * 1000, UserWarning, 'a.py', 7)"),
    ],
)
def test_program_whose_log_is_not_read_goes_on_and_ends(format_: str, log_a_line: str) -> None:
    program = logging_program(
        format_, f"for _ in range(2000): {log_a_line}", "print(lines_lost_count())"
    )
    with small_pipe() as pipe:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=pipe.stream,
            check=True,
            timeout=60,
        )
    assert 0 < int(ended.stdout) < 2000


@pytest.mark.parametrize("format_", ["json", "console"])
def test_lost_lines_are_reported_on_a_line_like_any_other(format_: str) -> None:
    program = logging_program(
        format_,
        "for _ in range(2000): structlog.get_logger().info('line', text='x' * 1000)",
        "print(lines_lost_count(), flush=True)",
        "input()",
    )
    with (
        small_pipe() as pipe,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=pipe.stream,
        ) as process,
    ):
        assert process.stdout is not None
        count = int(process.stdout.readline())
        while not (reports := [line for line in pipe.lines() if b"log_lines_lost" in line]):
            assert process.poll() is None
        process.communicate(b"\n", timeout=60)
    if format_ == "json":
        report = json.loads(reports[0])
        assert report.pop("timestamp")
        assert report == {"event": "log_lines_lost", "level": "warning", "count": count}
    else:
        assert re.fullmatch(
            rf"[-\d]+T[:.\d]+Z \[warning +\] log_lines_lost +count={count}", reports[0].decode()
        )
