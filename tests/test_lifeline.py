"""What a worker says on its lifeline about the database reaches the supervisor."""

import pytest

from gateway import lifeline
from gateway.lifeline import Deadlines, SupervisorEnd, WorkerEnd
from tests.running import until


async def test_supervisor_knows_what_the_worker_said_last_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifeline, "BEAT_INTERVAL_S", 0.01)
    is_away = True
    ours, its = SupervisorEnd.pair()
    worker = WorkerEnd(its.detach())
    assert ours.is_database_away is None
    worker.begin(Deadlines(1, 1, 1), lambda: is_away)
    await until(lambda: ours.is_database_away is True)
    is_away = False
    await until(lambda: ours.is_database_away is False)
    assert await ours.deadlines == Deadlines(1, 1, 1)
    ours.close()
    assert worker._beat is not None
    worker._beat.cancel()
    worker._socket.close()
