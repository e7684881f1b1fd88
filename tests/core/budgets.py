"""Budgets to test with, as of one fixed moment."""

from datetime import UTC, datetime

from gateway.core.budget import Budget, WindowSpend
from gateway.core.periods import PERIODS

AS_OF = datetime(2026, 11, 23, 13, 50, tzinfo=UTC)


def at(text: str) -> datetime:
    """A moment from RFC 3339, or from a time of day on the day of AS_OF."""
    return datetime.fromisoformat(text if "T" in text else f"2026-11-23T{text}+00:00")


def budget_of(**windows: tuple[int, int | None] | tuple[int, int | None, str]) -> Budget:
    """A budget from period=(spend, limit) or period=(spend, limit, when room returns)."""
    return Budget(
        "reno-stars",
        tuple(
            WindowSpend(period, spend, limit, at(room_at[0]) if room_at else None)
            for period in PERIODS
            for spend, limit, *room_at in [windows.get(period.name, (0, None))]
        ),
        AS_OF,
    )
