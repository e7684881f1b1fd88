"""What is known of every agent, and who is shown what happens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from gateway.core.periods import PERIODS, Period
from gateway.demo.cast import Role


class Kind(StrEnum):
    """What sort of thing happened."""

    PASSED = "passed"
    REFUSED = "refused"
    FAILED = "failed"
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one agent, in words."""

    at: datetime
    name: str
    kind: Kind
    text: str


class Screen(Protocol):
    """Shows events as they happen, and now and then how all agents stand."""

    def show(self, event: Event) -> None:
        """Show one event."""

    async def keep_drawing(self) -> None:
        """Show how all agents stand, again and again until cancelled."""


@dataclass(slots=True)
class Standing:
    """How one agent stands. The budget is what the gateway last answered, empty before that."""

    role: Role
    budget: Mapping[str, Any] = field(default_factory=dict)
    passed_count: int = 0
    refused_count: int = 0
    spent_cents: int = 0
    last_answer: str = ""

    def window(self, period: Period) -> Mapping[str, Any] | None:
        """Spend and limit of one period as the gateway tells them, None if it has not yet."""
        window: Mapping[str, Any] | None = self.budget.get("periods", {}).get(period.name)
        return window

    @property
    def state(self) -> str:
        """Two words on whether calls get through."""
        if not self.budget:
            return "starting"
        is_over = any(self.budget["periods"][period.name]["exceeded"] for period in PERIODS)
        return "over budget" if is_over else "in budget"


@dataclass(slots=True)
class Board:
    """All standings, written by agents and callers; every change of note goes to the screen."""

    cast: Iterable[Role]
    screen: Screen | None = None
    standings: dict[str, Standing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.standings = {role.name: Standing(role) for role in self.cast}

    def tell(self, name: str, kind: Kind, text: str) -> None:
        """Note an event of an agent and show it."""
        standing = self.standings[name]
        standing.passed_count += kind is Kind.PASSED
        standing.refused_count += kind is Kind.REFUSED
        if kind is not Kind.TOLD:
            standing.last_answer = text
        if self.screen is not None:
            self.screen.show(Event(datetime.now(UTC), name, kind, text))
