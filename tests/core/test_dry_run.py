"""A change that is tried: limits that never bind, and how it is shown."""

from datetime import timedelta

import pytest

from gateway.core.budget import budget_document
from gateway.core.dry_run import DryRun, Replay, dry_run_document, never_binding, with_limits
from tests.core.budgets import AS_OF, at, budget_of


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, []),
        ({"hourly": 500}, []),
        ({"hourly": 300, "daily": 500}, []),
        ({"hourly": 500, "daily": 300}, [("hourly", "daily")]),
        ({"hourly": 300, "daily": 300}, [("hourly", "daily")]),  # both are reached at once
        ({"hourly": 500, "monthly": 300}, [("hourly", "monthly")]),
        ({"hourly": 5, "daily": 9, "weekly": 7}, [("daily", "weekly")]),
        # The strictest of the longer ones is named.
        ({"hourly": 9, "daily": 8, "monthly": 7}, [("hourly", "monthly"), ("daily", "monthly")]),
        ({"hourly": 9, "daily": 7, "monthly": 7}, [("hourly", "daily"), ("daily", "monthly")]),
        ({"hourly": 5, "monthly": 0}, [("hourly", "monthly")]),
        ({"hourly": 0, "monthly": 5}, []),  # 0 blocks everything
    ],
)
def test_limit_never_binds_where_a_longer_period_has_no_more(
    limits: dict[str, int], found: list[tuple[str, str]]
) -> None:
    budget = budget_of(**{name: (0, limit_cents) for name, limit_cents in limits.items()})
    pairs = [(window.period.name, by.period.name) for window, by in never_binding(budget)]
    assert pairs == found


def test_other_limits_leave_the_spend_and_take_other_moments_of_return() -> None:
    budget = budget_of(hourly=(140, 100, "14:05:09"), daily=(700, 900))
    changed = with_limits(budget, {"daily": 700}, {"daily": at("15:00:00")})
    assert changed == budget_of(hourly=(140, None), daily=(700, 700, "15:00:00"))


def test_dry_run_is_shown_beside_the_budget_as_it_would_be() -> None:
    budget = budget_of(hourly=(0, 500), daily=(0, 300))
    replays = {"hourly": Replay(2, timedelta(hours=1, microseconds=500_000)), "daily": None}
    document = dry_run_document(DryRun({}, budget, replays))
    tried = document.pop("dry_run")
    assert document == budget_document(budget)
    assert tried == {
        "since": "2026-10-24T13:50:00Z",
        "until": "2026-11-23T13:50:00Z",
        "periods": {
            "hourly": {"refused_stretches": 2, "refused_seconds": 3600.5},
            "daily": {"refused_stretches": None, "refused_seconds": None},
        },
        "notices": [
            {
                "period": "hourly",
                "bound_by": "daily",
                "detail": "The hourly limit of $5.00 never stops a call that the daily one of $3.00"
                " would not.",
            }
        ],
    }
    assert budget.as_of == AS_OF
