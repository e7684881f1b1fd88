"""What stays true of a workspace that was over its limit when it was last checked.

A rolling window cannot have room again before the moment that a check found for it, unless a limit
is changed: nothing that agents report makes a window emptier. So a check that comes to nothing need
not forget it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gateway.core.budget import Budget, WindowSpend

REMEMBERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class _Verdict:
    budget: Budget
    read_at_s: float


@dataclass(slots=True)
class LastVerdicts:
    """The workspaces last seen over a limit; times are seconds of any steady clock."""

    _verdicts: OrderedDict[str, _Verdict] = field(default_factory=OrderedDict)

    def note(self, workspace_id: str, budget: Budget, now_s: float) -> None:
        """Keep what a check found, or what a change of limits made of it."""
        if not budget.exceeded:
            self.forget(workspace_id)
        elif any(_is_certain(window, budget.as_of) for window in budget.exceeded):
            self._verdicts[workspace_id] = _Verdict(budget, now_s)
            self._verdicts.move_to_end(workspace_id)
            if len(self._verdicts) > REMEMBERED_MAX:
                self._verdicts.popitem(last=False)

    def forget(self, workspace_id: str) -> None:
        """Know nothing of this workspace."""
        # Most have no verdict, and every call comes this way.
        if workspace_id in self._verdicts:
            del self._verdicts[workspace_id]

    def over_limit(self, workspace_id: str, now_s: float) -> Budget | None:
        """A budget of the windows that are certainly over their limits now; None if none is."""
        if (verdict := self._verdicts.get(workspace_id)) is None:
            return None
        budget, elapsed = verdict.budget, timedelta(seconds=now_s - verdict.read_at_s)
        as_of = budget.as_of + elapsed
        certain = tuple(window for window in budget.exceeded if _is_certain(window, as_of))
        if not certain:
            self.forget(workspace_id)
            return None
        return replace(budget, windows=certain, as_of=as_of)


def _is_certain(window: WindowSpend, now: datetime) -> bool:
    """Whether an exceeded window has no room at this moment of the database's clock."""
    return window.limit_cents == 0 or (window.room_at is not None and now < window.room_at)
