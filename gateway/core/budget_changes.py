"""Changes of a workspace's limits: what is kept of one, and how two operators stay out of each
other's way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.core.budget import timestamp
from gateway.core.entity_tags import etag
from gateway.core.errors import PreconditionFailed


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


def limits_etag(limits: Mapping[str, int]) -> str:
    """The entity tag of the limits: it says that they are the same, and nothing of the spend.

    Strictly, a strong tag would change with every cent, and no operator could use it.
    """
    text = ",".join(f"{name}={limit_cents}" for name, limit_cents in sorted(limits.items()))
    return etag(text.encode())


def outdated(limits: Mapping[str, int], newest: BudgetChange | None) -> PreconditionFailed:
    """The refusal of a change made for other limits than these, which `newest` may have set."""
    sentence = "The limits are not those that If-Match names."
    # Else somebody changed them in the database itself, and nobody knows who.
    if newest is not None and newest.limits_after == limits:
        sentence += f" {newest.changed_by} changed them at {timestamp(newest.changed_at)}."
    return PreconditionFailed(sentence)
