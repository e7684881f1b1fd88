"""Limits, windows and changes: section 3 of the contract."""

from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.budget import (
    LIMIT_CENTS_MAX,
    WindowSpend,
    budget_document,
    read_change,
    retry_at,
    timestamp,
)
from gateway.core.periods import PERIODS
from tests.core.budgets import AS_OF, at, budget_of

HOURLY = PERIODS[0]
LIMITS = {"hourly": 100, "monthly": 5000}
LATER = AS_OF + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("spend_cents", "limit_cents", "is_exceeded", "remaining_cents", "retries_at"),
    [
        (0, 0, True, 0, None),  # a limit of zero closes the gate, and waiting never opens it
        (5, 0, True, -5, None),
        (99, 100, False, 1, None),
        (100, 100, True, 0, LATER),  # reaching the limit stops the next call
        (140, 100, True, -40, LATER),  # negative when over
        (10**12, None, False, None, None),  # no limit
        (-5, 0, False, 5, None),  # a correction may take back more than was spent
    ],
)
def test_window_is_exceeded_when_its_limit_is_reached(
    spend_cents: int,
    limit_cents: int | None,
    is_exceeded: bool,
    remaining_cents: int | None,
    retries_at: object,
) -> None:
    window = WindowSpend(HOURLY, spend_cents, limit_cents, LATER)
    assert window.is_exceeded is is_exceeded
    assert window.remaining_cents == remaining_cents
    assert window.retry_at == retries_at


@pytest.mark.parametrize(
    ("windows", "moment"),
    [
        ({}, None),  # nothing is exceeded
        ({"hourly": (2, 1, "14:00:00")}, "14:00:00"),
        ({"hourly": (2, 1, "15:00:00"), "daily": (2, 1, "14:00:00")}, "15:00:00"),  # the latest
        ({"hourly": (2, 1, "14:00:00"), "daily": (2, 0, "15:00:00")}, None),  # one never opens
        ({"hourly": (2, 1, "14:00:00"), "daily": (2, 1)}, None),  # one is not known
        ({"hourly": (2, 1, "14:00:00"), "daily": (2, 3, "15:00:00")}, "14:00:00"),  # has room
    ],
)
def test_retry_waits_for_every_exceeded_window(windows: dict, moment: str | None) -> None:
    assert retry_at(budget_of(**windows).exceeded) == (moment and at(moment))


def test_document_has_the_shape_of_the_contract() -> None:
    budget = budget_of(
        hourly=(140, 100, "14:05:09"),
        daily=(700, None),
        weekly=(900, None),
        monthly=(900, 5000),
    )
    free = {"limit": None, "remaining": None, "exceeded": False, "retry_at": None}
    assert budget_document(budget) == {
        "workspace_id": "reno-stars",
        "budget_limits": LIMITS,
        "periods": {
            "hourly": {
                "window_seconds": 3600,
                "limit": 100,
                "spend": 140,
                "remaining": -40,
                "exceeded": True,
                "retry_at": "2026-11-23T14:05:09Z",
            },
            "daily": {"window_seconds": 86400, "spend": 700, **free},
            "weekly": {"window_seconds": 604800, "spend": 900, **free},
            "monthly": {
                "window_seconds": 2592000,
                "limit": 5000,
                "spend": 900,
                "remaining": 4100,
                "exceeded": False,
                "retry_at": None,
            },
        },
        "budget_limit": 5000,
        "monthly_spend": 900,
        "budget_remaining": 4100,
    }


def test_legacy_members_are_sent_without_a_monthly_limit_too() -> None:
    document = budget_document(budget_of(hourly=(5, 9), monthly=(7, None)))
    legacy = [document[name] for name in ("budget_limit", "monthly_spend", "budget_remaining")]
    assert legacy == [None, 7, None]


def test_limit_of_zero_is_shown_and_never_taken_for_none() -> None:
    document = budget_document(budget_of(monthly=(0, 0)))
    assert document["budget_limits"] == {"monthly": 0}
    assert (document["budget_limit"], document["budget_remaining"]) == (0, 0)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (AS_OF, "2026-11-23T13:50:00Z"),
        (AS_OF + timedelta(microseconds=1), "2026-11-23T13:50:00.000001Z"),
        (AS_OF.astimezone(timezone(timedelta(hours=2))), "2026-11-23T13:50:00Z"),  # in UTC
    ],
)
def test_timestamp_is_rfc_3339_in_utc(moment: object, text: str) -> None:
    assert timestamp(moment) == text


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"budget_limits": {"hourly": 250}}, {"hourly": 250, "monthly": 5000}),  # the rest stays
        ({"budget_limits": {"daily": 7}}, {"hourly": 100, "daily": 7, "monthly": 5000}),
        ({"budget_limits": {"hourly": None}}, {"monthly": 5000}),  # null clears
        ({"budget_limits": {"daily": None}}, LIMITS),  # nothing to clear
        ({"budget_limits": {"hourly": 0}}, {"hourly": 0, "monthly": 5000}),  # 0 is no null
        ({"budget_limits": {}}, LIMITS),
        ({"budget_limits": None}, {}),  # null clears all
        ({"budget_limits": {"hourly": LIMIT_CENTS_MAX}}, {**LIMITS, "hourly": 10**12}),
        ({"budget_limits": {"hourly": 250.0}}, {**LIMITS, "hourly": 250}),  # without a fraction
        ({"budget_limit": 7}, {"hourly": 100, "monthly": 7}),  # legacy = monthly
        ({"budget_limit": 0}, {"hourly": 100, "monthly": 0}),
        ({"budget_limit": None}, {"hourly": 100}),
        ({"budget_limit": 7, "budget_limits": {"daily": 5}}, {**LIMITS, "daily": 5, "monthly": 7}),
        ({"budget_limit": 7, "budget_limits": {"monthly": 7}}, {"hourly": 100, "monthly": 7}),
        ({"budget_limit": None, "budget_limits": None}, {}),
        ({"budget_limit": 7, "monthly_spend": 3, "x": []}, {"hourly": 100, "monthly": 7}),
    ],
)
def test_change_is_a_merge_patch(body: dict, changed: dict[str, int]) -> None:
    applied = read_change(body).apply(LIMITS)
    assert applied == changed
    assert all(type(limit) is int for limit in applied.values())


@given(st.dictionaries(st.sampled_from(PERIODS), st.integers(0, LIMIT_CENTS_MAX)))
def test_writing_back_what_was_read_changes_nothing(limits: dict) -> None:
    budget = budget_of(**{period.name: (5, limit) for period, limit in limits.items()})
    document = budget_document(budget)
    assert read_change(document).apply(budget.limits) == budget.limits
    alone = {"budget_limits": document["budget_limits"]}
    assert read_change(alone).apply(budget.limits) == budget.limits
