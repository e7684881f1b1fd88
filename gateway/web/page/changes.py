"""The newest changes of a workspace's limits, as its page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.budget_changes import BudgetChange
from gateway.storage.budgets import Budgets

CHANGES_ROUTE = "/workspaces/{id}/budget/changes"
CHANGES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ChangesView:
    """Some changes, newest first; how many there are in all, and where those are."""

    newest: Sequence[BudgetChange]
    count: int
    address: str


async def newest_changes(budgets: Budgets, workspace_id: str) -> ChangesView:
    """What the page shows of the history. Raises like Budgets.changes."""
    newest, count = await budgets.changes(workspace_id, CHANGES_SHOWN)
    return ChangesView(newest, count, CHANGES_ROUTE.replace("{id}", workspace_id))
