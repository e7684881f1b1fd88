"""The budget periods: the single source of truth.

A period is a rolling window that ends now. To add one, add one line to PERIODS; the
query, the budget API, the refusal, the metrics and the demo all read this tuple.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """A named rolling window; `label` is how a person calls it."""

    name: str
    length: timedelta
    label: str

    @property
    def window_seconds(self) -> int:
        """The window's length in whole seconds."""
        return int(self.length.total_seconds())


PERIODS = (
    Period("hourly", timedelta(hours=1), "last 60 minutes"),
    Period("daily", timedelta(days=1), "last 24 hours"),
    Period("weekly", timedelta(days=7), "last 7 days"),
    Period("monthly", timedelta(days=30), "last 30 days"),
)

# The ledger keeps a row for longer than this: a day more than any window reaches back, because the
# clock that tells a row's age may be another server's after a failover.
RETENTION_MIN = max(period.length for period in PERIODS) + timedelta(days=1)

PERIOD_BY_NAME = {period.name: period for period in PERIODS}

# The one limit that the platform before this gateway knew: the members `budget_limit`,
# `monthly_spend` and `budget_remaining`, and the column `workspaces.budget_limit`.
LEGACY_PERIOD = PERIOD_BY_NAME["monthly"]
