"""When a worker that ended is started again."""

import pytest

from gateway.workers import BackOff


@pytest.mark.parametrize(
    ("served_s", "delays_s"),
    [
        ([60, 60, 60, 60, 60], [0, 0, 0, 0, 0]),  # callers wait for nobody else
        ([1, 1, 1, 1, 1, 1], [0, 0, 0, 0.5, 1, 2]),  # it crashes again and again
        ([None, None, None], [0.5, 1, 2]),  # it cannot start
        ([None] * 5 + [60, None], [0.5, 1, 2, 4, 8, 0, 0.5]),  # it could in the end
        ([1, 1, None], [0, 0, 2]),  # it could, and cannot now
    ],
)
def test_worker_that_served_is_restarted_at_once_and_one_that_cannot_serve_waits(
    served_s: list[float | None], delays_s: list[float]
) -> None:
    back_off = BackOff()
    assert [back_off.delay_s(each) for each in served_s] == delays_s


def test_no_restart_waits_for_longer_than_10_seconds() -> None:
    back_off = BackOff()
    assert max(back_off.delay_s(None) for _ in range(2000)) == 10
