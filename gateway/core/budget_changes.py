"""The history of a workspace's limits: who changed them, when, from what to what, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.core.budget import timestamp


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """One change as it was kept; numbers of one workspace begin at 1 and have no gap."""

    number: int
    changed_at: datetime
    changed_by: str
    limits_before: Mapping[str, int]
    limits_after: Mapping[str, int]
    reason: str | None


def change_document(change: BudgetChange) -> dict[str, object]:
    """One change as the API shows it."""
    return {
        "number": change.number,
        "changed_at": timestamp(change.changed_at),
        "changed_by": change.changed_by,
        "limits_before": change.limits_before,
        "limits_after": change.limits_after,
        "reason": change.reason,
    }
