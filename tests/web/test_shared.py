"""Work that several ask for: done once, waited for in time, never cancelled."""

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.core.errors import StorageUnavailable
from gateway.web.shared import Shared


@dataclass
class Work:
    """Ends when it is told to."""

    count: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def do(self) -> int:
        """Number this piece of work."""
        self.count += 1
        number = self.count
        await self.may_end.wait()
        return number


async def test_work_is_done_once_for_all_who_ask_meanwhile() -> None:
    work = Work()
    shared = Shared(work.do)
    asking = [asyncio.create_task(shared.value(30)) for _ in range(3)]
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*asking) == [1, 1, 1]
    assert await shared.value(30) == 2  # nothing is kept


async def test_late_work_goes_on_for_the_next_who_asks() -> None:
    work = Work()
    shared = Shared(work.do)
    with pytest.raises(TimeoutError):
        await shared.value(0)
    work.may_end.set()
    assert await shared.value(30) == 1


async def test_caller_that_leaves_takes_nothing_from_others() -> None:
    work = Work()
    shared = Shared(work.do)
    leaving = asyncio.create_task(shared.value(30))
    staying = asyncio.create_task(shared.value(30))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    work.may_end.set()
    assert await staying == 1


async def test_error_reaches_who_asked_and_the_next_try_is_a_new_one() -> None:
    errors = [StorageUnavailable("timeout")]

    async def fail_once() -> str:
        if errors:
            raise errors.pop()
        return "well"

    shared = Shared(fail_once)
    with pytest.raises(StorageUnavailable):
        await shared.value(30)
    assert await shared.value(30) == "well"


async def test_end_waits_for_the_work() -> None:
    work = Work()
    shared = Shared(work.do)
    with pytest.raises(TimeoutError):
        await shared.value(0)
    finishing = asyncio.create_task(shared.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    work.may_end.set()
    await finishing
    await shared.finish()  # nothing runs any more
