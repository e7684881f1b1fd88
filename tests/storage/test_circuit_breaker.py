"""The breaker opens after failures in a row, closes at any answer, and reports each change once."""

from gateway.storage.circuit_breaker import CircuitBreaker


def test_breaker_opens_only_after_failures_in_a_row_and_closes_at_the_first_answer() -> None:
    changes: list[str | None] = []
    breaker = CircuitBreaker(2, changes.append)
    for is_failure in (True, False, True, True, True, False, False, True):
        breaker.fail("timeout") if is_failure else breaker.succeed()
    assert changes == ["timeout", None]
    assert not breaker.is_open


def test_breaker_that_was_opened_at_once_reports_it_once() -> None:
    changes: list[str | None] = []
    breaker = CircuitBreaker(3, changes.append)
    breaker.open("connection")
    breaker.open("timeout")
    assert changes == ["connection"]
    assert breaker.is_open
