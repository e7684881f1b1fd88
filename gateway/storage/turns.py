"""Turns: who waits is served in order, and never two at once for one workspace."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class Turns(Generic[Item]):
    """Items in a line for each workspace, of which parts are taken by turns and given back."""

    # Those that wait and those that are taken.
    count: int = 0
    _lines: dict[str, deque[Item]] = field(default_factory=dict)
    # The lines of which nobody has taken, in the order of their turns.
    _ready: deque[str] = field(default_factory=deque)
    _taken_counts: dict[str, int] = field(default_factory=dict)

    def add(self, workspace_id: str, item: Item) -> None:
        """Let an item wait behind the others of its workspace."""
        if workspace_id not in self._lines:
            self._lines[workspace_id] = deque()
            if workspace_id not in self._taken_counts:
                self._ready.append(workspace_id)
        self._lines[workspace_id].append(item)
        self.count += 1

    def take(self, count_max: int) -> dict[str, list[Item]]:
        """So many items at most, by workspace; give every workspace back."""
        taken: dict[str, list[Item]] = {}
        while self._ready and count_max > 0:
            workspace_id = self._ready.popleft()
            items = taken[workspace_id] = self._take_from(workspace_id, count_max)
            self._taken_counts[workspace_id] = len(items)
            count_max -= len(items)
        return taken

    def _take_from(self, workspace_id: str, count_max: int) -> list[Item]:
        line = self._lines[workspace_id]
        items = [line.popleft() for _ in range(min(len(line), count_max))]
        if not line:
            del self._lines[workspace_id]
        return items

    def give_back(self, workspace_ids: Iterable[str]) -> None:
        """What was taken of these workspaces is done with; the rest of them may be taken."""
        for workspace_id in workspace_ids:
            self.count -= self._taken_counts.pop(workspace_id)
            if workspace_id in self._lines:
                self._ready.append(workspace_id)
