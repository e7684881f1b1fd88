"""A change of limits that is tried, not made: the budget after it, what it would have refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.core.budget import Budget, WindowSpend, budget_document, timestamp
from gateway.core.money import dollars

# How far back it is asked what a limit would have refused.
REPLAYED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Replay:
    """In how many separate stretches a limit would have refused calls, and how long in all."""

    stretch_count: int
    duration: timedelta


NEVER = Replay(0, timedelta(0))


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a change would do."""

    limits_now: Mapping[str, int]
    # As it would be.
    budget: Budget
    # By the name of each period whose limit would change; None if the ledger is too large to tell.
    replays: Mapping[str, Replay | None]


def with_limits(
    budget: Budget, limits: Mapping[str, int], room_at: Mapping[str, datetime | None]
) -> Budget:
    """The budget as it would be with other limits; `room_at` is when room returns with them."""
    windows = (
        replace(window, limit_cents=limits.get(name), room_at=room_at.get(name))
        for window in budget.windows
        for name in [window.period.name]
    )
    return replace(budget, windows=tuple(windows))


def never_binding(budget: Budget) -> list[tuple[WindowSpend, WindowSpend]]:
    """The windows whose limit stops nothing, each with the longer one that is always reached first.

    What a longer window has spent is never less: corrections aside, which take back what was spent.
    """
    limited = [window for window in budget.windows if window.limit_cents is not None]
    found = []
    for window in limited:
        longer = [each for each in limited if each.period.length > window.period.length]
        strictest = min(longer, key=_limit_cents, default=None)
        if strictest is not None and _limit_cents(strictest) <= _limit_cents(window):
            found.append((window, strictest))
    return found


def _limit_cents(window: WindowSpend) -> int:
    return window.limit_cents or 0


def dry_run_document(run: DryRun) -> dict[str, object]:
    """The budget as it would be, and beside it what the change would have done."""
    as_of = run.budget.as_of
    tried = {
        "since": timestamp(as_of - REPLAYED),
        "until": timestamp(as_of),
        "periods": {name: _replay_document(replay) for name, replay in run.replays.items()},
        "notices": [_notice(*each) for each in never_binding(run.budget)],
    }
    return {**budget_document(run.budget), "dry_run": tried}


def _replay_document(replay: Replay | None) -> dict[str, object]:
    return {
        "refused_stretches": None if replay is None else replay.stretch_count,
        "refused_seconds": None if replay is None else replay.duration.total_seconds(),
    }


def _notice(window: WindowSpend, stricter: WindowSpend) -> dict[str, object]:
    name, amount = window.period.name, dollars(_limit_cents(window))
    other, other_amount = stricter.period.name, dollars(_limit_cents(stricter))
    return {
        "period": name,
        "bound_by": other,
        "detail": f"The {name} limit of {amount} never stops a call that the {other} one of"
        f" {other_amount} would not.",
    }
