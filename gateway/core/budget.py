"""Limits and windows: what a workspace may spend, what it has spent, and when room returns.

Money is integer US cents. A limit of None is no limit; a limit of 0 blocks everything.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.core.errors import BadRequest
from gateway.core.periods import LEGACY_PERIOD, PERIOD_BY_NAME, PERIODS, Period

LIMIT_CENTS_MAX = 10**12
REASON_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class WindowSpend:
    """What was spent in one period's window, against its limit."""

    period: Period
    spend_cents: int
    limit_cents: int | None
    # When enough old spend will have left the window, if nothing more is spent.
    room_at: datetime | None = None

    @property
    def is_exceeded(self) -> bool:
        """Whether this window stops the next call."""
        # Reaching the limit already stops the next call: the call's own cost is unknown here.
        return self.limit_cents is not None and self.spend_cents >= self.limit_cents

    @property
    def remaining_cents(self) -> int | None:
        """Limit less spend, negative when over; None without a limit."""
        return None if self.limit_cents is None else self.limit_cents - self.spend_cents

    @property
    def retry_at(self) -> datetime | None:
        """The earliest moment at which this window no longer stops a call, where one exists."""
        # A limit of 0 is reached by any spend, none included: waiting never helps.
        return self.room_at if self.is_exceeded and self.limit_cents != 0 else None


@dataclass(frozen=True, slots=True)
class Budget:
    """A workspace's windows, one per period, as of one moment of the database's clock."""

    workspace_id: str
    windows: tuple[WindowSpend, ...]
    as_of: datetime

    @property
    def exceeded(self) -> tuple[WindowSpend, ...]:
        """The windows that stop the next call, shortest period first."""
        return tuple(window for window in self.windows if window.is_exceeded)

    @property
    def limits(self) -> dict[str, int]:
        """What is configured, by period name: the shape that a change accepts."""
        return {
            window.period.name: window.limit_cents
            for window in self.windows
            if window.limit_cents is not None
        }


def retry_at(exceeded: tuple[WindowSpend, ...]) -> datetime | None:
    """The moment from which all these windows let calls through; None if waiting does not help."""
    moments = [window.retry_at for window in exceeded]
    known = [moment for moment in moments if moment is not None]
    return max(known) if known and len(known) == len(moments) else None


def read_stored_limits(stored: object) -> tuple[dict[str, int], tuple[str, ...]]:
    """The usable limits of the stored configuration, and what was unusable in it.

    Somebody may have edited the column by hand; a call must not break on it.
    """
    if stored is None:
        return {}, ()
    if not isinstance(stored, Mapping):
        return {}, ("budget_limits",)
    limits = {
        name: value for name, value in stored.items() if name in PERIOD_BY_NAME and _is_limit(value)
    }
    damaged = tuple(
        str(name)[:40] for name, value in stored.items() if name not in limits and value is not None
    )
    return limits, damaged


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LIMIT_CENTS_MAX


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """A JSON merge patch (RFC 7396) over the limits: `clears_all` first, then each named period."""

    limits_by_name: Mapping[str, int | None]
    clears_all: bool = False
    # Why, in an operator's words, for the history.
    reason: str | None = None

    def apply(self, limits: Mapping[str, int]) -> dict[str, int]:
        """The limits after the change."""
        changed = {} if self.clears_all else dict(limits)
        changed.update(self.limits_by_name)  # type: ignore[arg-type]
        return {name: value for name, value in changed.items() if value is not None}


def read_change(body: object) -> LimitsChange:
    """The change that a PATCH body asks for. Raises BadRequest naming the member at fault."""
    if not isinstance(body, Mapping):
        raise BadRequest("The body must be a JSON object.")
    if "budget_limits" not in body and "budget_limit" not in body:
        raise BadRequest("The body must have the member budget_limits or budget_limit.")
    change = _read_limits(body) if "budget_limits" in body else LimitsChange({})
    if "budget_limit" in body:
        change = _with_legacy_limit(change, _read_limit("budget_limit", body["budget_limit"]))
    return replace(change, reason=_read_reason(body.get("reason")))


def _read_limits(body: Mapping[str, object]) -> LimitsChange:
    limits = body["budget_limits"]
    if limits is None:
        return LimitsChange({}, clears_all=True)
    if not isinstance(limits, Mapping):
        raise BadRequest("budget_limits must be an object of periods, or null.")
    if any(name not in PERIOD_BY_NAME for name in limits):
        known = ", ".join(period.name for period in PERIODS)
        raise BadRequest(f"budget_limits has an unknown period; the periods are {known}.")
    return LimitsChange(
        {name: _read_limit(f"budget_limits.{name}", value) for name, value in limits.items()}
    )


def _read_limit(member: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{member} must be a whole number of cents, or null.")
    if value < 0:
        raise BadRequest(f"{member} must not be negative.")
    if value > LIMIT_CENTS_MAX:
        raise BadRequest(f"{member} must not be over {LIMIT_CENTS_MAX} cents.")
    if value != int(value):
        raise BadRequest(f"{member} must be a whole number of cents, without a fraction.")
    return int(value)


def _with_legacy_limit(change: LimitsChange, legacy: int | None) -> LimitsChange:
    name = LEGACY_PERIOD.name
    is_named = change.clears_all or name in change.limits_by_name
    if is_named and change.limits_by_name.get(name) != legacy:
        raise BadRequest(f"budget_limit and budget_limits.{name} differ; send one of them.")
    return LimitsChange({**change.limits_by_name, name: legacy}, change.clears_all)


def _read_reason(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequest("reason must be a text, or null.")
    reason = value.strip()
    if len(reason) > REASON_CHARACTERS_MAX:
        raise BadRequest(f"reason must have at most {REASON_CHARACTERS_MAX} characters.")
    if any(unicodedata.category(character) == "Cc" for character in reason):
        raise BadRequest("reason must be one line without control characters.")
    return reason or None


def budget_document(budget: Budget) -> dict[str, object]:
    """The budget as the API shows it, the legacy members of one limit among them."""
    legacy = next(window for window in budget.windows if window.period == LEGACY_PERIOD)
    return {
        "workspace_id": budget.workspace_id,
        "budget_limits": budget.limits,
        "periods": {window.period.name: window_document(window) for window in budget.windows},
        "budget_limit": legacy.limit_cents,
        "monthly_spend": legacy.spend_cents,
        "budget_remaining": legacy.remaining_cents,
    }


def window_document(window: WindowSpend) -> dict[str, object]:
    """One period of the budget as the API shows it."""
    return {
        "window_seconds": window.period.window_seconds,
        "limit": window.limit_cents,
        "spend": window.spend_cents,
        "remaining": window.remaining_cents,
        "exceeded": window.is_exceeded,
        "retry_at": None if window.retry_at is None else timestamp(window.retry_at),
    }


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, with microseconds only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
