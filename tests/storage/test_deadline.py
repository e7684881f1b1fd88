"""A deadline counts the other side's silence, and not the delay of this process."""

import asyncio
import time

import pytest

from gateway.storage.deadline import SLICES_MIN, Deadline, limited
from tests.running import until


async def test_deadline_expires_once_its_time_has_passed() -> None:
    expired: list[float] = []
    started = time.monotonic()
    Deadline(0.05, lambda: expired.append(time.monotonic()))
    await until(lambda: bool(expired))
    assert expired[0] - started >= 0.05 - 0.001  # the clock of uvloop has milliseconds


async def test_cancelled_deadline_does_not_expire() -> None:
    expired: list[bool] = []
    Deadline(0.01, lambda: expired.append(True)).cancel()
    Deadline(0.02, lambda: expired.append(False))
    await until(lambda: bool(expired))
    assert expired == [False]


async def test_one_delay_of_the_loop_does_not_use_the_deadline_up() -> None:
    expired: list[bool] = []
    deadline = Deadline(0.05, lambda: expired.append(True))
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is held up
    for _ in range(SLICES_MIN - 1):
        await asyncio.sleep(0)
        assert not expired
    deadline.cancel()


async def test_answer_that_has_arrived_is_given_time_to_be_read_but_not_forever() -> None:
    is_here, expired = True, []
    Deadline(0.01, lambda: expired.append("with the answer"), lambda: is_here)
    Deadline(0.01, lambda: expired.append("without"))
    await until(lambda: len(expired) == 2)
    assert expired == ["without", "with the answer"]


async def test_limited_block_is_ended_at_its_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with limited(0.01):
            await asyncio.Event().wait()


async def test_limited_block_that_ends_in_time_is_left_alone() -> None:
    async with limited(0.01):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
