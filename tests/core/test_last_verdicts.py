"""What a check found stays true until its windows can have room, and not a moment longer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.core import last_verdicts
from gateway.core.budget import Budget, WindowSpend
from gateway.core.last_verdicts import LastVerdicts
from gateway.core.periods import PERIODS

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
FIRST, SECOND = PERIODS[:2]


def budget(*windows: WindowSpend) -> Budget:
    return Budget("w", windows, NOW)


def over(limit_cents: int = 100, room_in_s: float | None = 60) -> WindowSpend:
    """A window that is over its limit, and when it has room again."""
    room_at = None if room_in_s is None else NOW + timedelta(seconds=room_in_s)
    return WindowSpend(FIRST, 140, limit_cents, room_at)


UNDER = WindowSpend(FIRST, 99, 100)


@pytest.mark.parametrize(
    ("window", "after_s", "is_over"),
    [
        (over(), 0, True),
        (over(), 59.999, True),
        (over(), 60, False),  # at this moment it has room
        (over(limit_cents=0, room_in_s=None), 10**6, True),  # waiting never helps
        (over(room_in_s=None), 0, False),  # the moment could not be read
        (UNDER, 0, False),
    ],
)
def test_workspace_is_known_to_be_over_until_it_can_have_room(
    window: WindowSpend, after_s: float, is_over: bool
) -> None:
    verdicts = LastVerdicts()
    verdicts.note("w", budget(window), 1000)
    assert (verdicts.over_limit("w", 1000 + after_s) is not None) is is_over


def test_only_windows_that_are_certainly_over_are_listed_and_time_has_gone_on() -> None:
    verdicts = LastVerdicts()
    later = replace(over(room_in_s=600), period=SECOND)
    verdicts.note("w", budget(over(room_in_s=60), later), 1000)
    found = verdicts.over_limit("w", 1100)
    assert found is not None
    assert [window.period for window in found.windows] == [SECOND]
    assert found.as_of == NOW + timedelta(seconds=100)


def test_next_check_or_a_change_of_limits_replaces_what_was_known() -> None:
    verdicts = LastVerdicts()
    verdicts.note("w", budget(over()), 1000)
    verdicts.note("w", budget(UNDER), 1001)
    assert verdicts.over_limit("w", 1002) is None


def test_check_that_could_not_read_when_there_is_room_leaves_what_was_known() -> None:
    verdicts = LastVerdicts()
    verdicts.note("w", budget(over(room_in_s=60)), 1000)
    verdicts.note("w", budget(over(room_in_s=None)), 1001)
    assert verdicts.over_limit("w", 1059) is not None


def test_other_workspaces_and_forgotten_ones_are_not_known() -> None:
    verdicts = LastVerdicts()
    verdicts.note("w", budget(over()), 1000)
    assert verdicts.over_limit("v", 1000) is None
    verdicts.forget("w")
    assert verdicts.over_limit("w", 1000) is None


def test_memory_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_verdicts, "REMEMBERED_MAX", 2)
    verdicts = LastVerdicts()
    for workspace_id in ("a", "b", "a", "c"):
        verdicts.note(workspace_id, budget(over()), 1000)
    known = [each for each in "abc" if verdicts.over_limit(each, 1000)]
    assert known == ["a", "c"]
