"""How late the event loop is, as it measures itself."""

import asyncio
import time

from gateway.web.loop_lag import LoopLag
from tests.running import until


async def test_delay_of_the_loop_is_seen_and_forgotten_after_a_while() -> None:
    loop_lag = LoopLag()
    assert loop_lag.lag_s == 0.0
    measuring = asyncio.create_task(loop_lag.keep_measuring())
    await asyncio.sleep(0)
    # What holds up every call of this process.
    asyncio.get_running_loop().call_soon(time.sleep, 0.5)
    await until(lambda: loop_lag.lag_s > 0.4)
    await until(lambda: loop_lag.lag_s < 0.4, deadline_s=30)
    measuring.cancel()
