"""Who plays: three agents, what a call to each costs, and what each may spend.

The runaway is given just enough room to reach its limit in a quarter of a minute. Then only what
leaves its window makes room, a few calls at a time, until somebody raises the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.periods import PERIODS, Period

SHORTEST, LONGEST = PERIODS[0], PERIODS[-1]


@dataclass(frozen=True, slots=True)
class Role:
    """An agent and its caller. There is no model behind it: it says lines and counts cents."""

    name: str
    question: str
    # A streaming agent says all of them in every call, another the next one.
    answers: tuple[str, ...]
    is_streaming: bool
    call_cents: int
    pause_s: float
    limits_cents: Mapping[Period, int]
    # What it has spent in the shortest window before the demo began.
    earlier_cents: int

    @property
    def workspace_id(self) -> str:
        """Its workspace, which is also its place in URLs."""
        return self.name.replace(" ", "-")


RESEARCHER = Role(
    name="researcher",
    question="Is the moon drifting away?",
    answers=("reading 12 sources", "comparing 3 measurements", "yes, by 3.8 cm a year"),
    is_streaming=True,
    call_cents=5,
    pause_s=6,
    limits_cents={SHORTEST: 1_000, LONGEST: 20_000},
    earlier_cents=238,
)
TRANSLATOR = Role(
    name="translator",
    question="Good morning!",
    answers=("Guten Morgen!", "Bonjour !", "Buongiorno!", "God morgen!"),
    is_streaming=False,
    call_cents=1,
    pause_s=4,
    limits_cents={LONGEST: 5_000},
    earlier_cents=119,
)
RUNAWAY = Role(
    name="runaway coder",
    question="Make the tests pass.",
    answers=("1 test fails, trying again", "2 tests fail, trying again"),
    is_streaming=False,
    call_cents=8,
    pause_s=1,
    limits_cents={SHORTEST: 2_500, LONGEST: 50_000},
    earlier_cents=2_380,
)

CAST = (RESEARCHER, TRANSLATOR, RUNAWAY)
