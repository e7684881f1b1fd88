"""The process that serves, as far as it can be seen from inside."""

import asyncio
import errno
from functools import partial

from structlog.testing import capture_logs

from gateway.config import load_config
from gateway.web.descriptors import Descriptors
from gateway.worker import REQUESTS_END_S, deadlines_of, log_loop_error


def fail(error: Exception) -> None:
    raise error


async def test_what_nobody_caught_is_one_line() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(partial(log_loop_error, Descriptors()))
    error = ValueError("of a callback")
    with capture_logs() as lines:
        loop.call_soon(fail, error)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    (line,) = lines
    assert (line["event"], line["exc_info"]) == ("loop_error", error)
    assert "Exception in callback fail" in line["message"]


async def test_callback_without_a_descriptor_says_that_they_run_out() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(partial(log_loop_error, Descriptors()))
    with capture_logs() as lines:
        for number in (errno.EMFILE, errno.ENFILE):
            loop.call_soon(fail, OSError(number, "no more"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [line["event"] for line in lines] == ["descriptors_exhausted"]


def test_end_of_a_worker_may_take_as_long_as_its_deadlines_add_up_to() -> None:
    deadlines = deadlines_of(
        load_config(
            None,
            {
                "GATEWAY_DATABASE__CONNECT_TIMEOUT_MS": "60000",
                "GATEWAY_DATABASE__QUERY_TIMEOUT_MS": "5000",
                "GATEWAY_SERVER__DRAIN_TIMEOUT_S": "1",
            },
        )
    )
    # Requests to their end and once more after they were cancelled, two writes, a connection.
    assert deadlines.stop_s > 1 + 2 * REQUESTS_END_S + 2 * 5 + 60
