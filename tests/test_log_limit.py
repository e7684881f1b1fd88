"""Lines about what happens often: few, and none of it uncounted."""

from typing import Any

from structlog.testing import capture_logs

from gateway.log_limit import LogLimit
from tests.running import until

INTERVAL_S = 0.05


def summary(lines: list[Any]) -> list[tuple[str | None, int]]:
    return [(line.get("cause"), line["count"]) for line in lines]


async def test_first_line_is_written_at_once_and_the_next_counts_what_came_since() -> None:
    limit = LogLimit("failed", INTERVAL_S)
    with capture_logs() as lines:
        for _ in range(100):
            limit.warning("a", cause="a")
        assert summary(lines) == [("a", 1)]
        await until(lambda: len(lines) == 2)
        assert summary(lines) == [("a", 1), ("a", 99)]


async def test_key_that_occurs_no_more_is_forgotten() -> None:
    limit = LogLimit("failed", INTERVAL_S, keys_max=1)
    with capture_logs() as lines:
        limit.warning("a", cause="a")
        await until(lambda: limit.keys_count == 0)
        limit.warning("b", cause="b")
    assert summary(lines) == [("a", 1), ("b", 1)]


async def test_more_keys_than_the_limit_share_one_line() -> None:
    limit = LogLimit("failed", INTERVAL_S, keys_max=2)
    with capture_logs() as lines:
        for key in range(1000):
            limit.warning(key, cause=str(key))
        assert summary(lines) == [("0", 1), ("1", 1), (None, 1)]
        assert limit.keys_count == 3
        await until(lambda: len(lines) == 4)
        assert summary(lines)[3] == (None, 997)
