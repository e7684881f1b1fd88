"""Which header fields pass a proxy, and the fields that tell a caller of its limits."""

import math
from collections.abc import Iterable, Set
from datetime import timedelta

from gateway.core.budget import Budget, WindowSpend, retry_at

# RFC 9110 section 7.6.1, and Proxy-Connection, which was never standard but is sent.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "proxy-connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)


def end_to_end(
    fields: Iterable[tuple[str, str]], dropped: Set[str] = frozenset()
) -> list[tuple[str, str]]:
    """The fields that go on to the next hop, doubles and order kept, less the `dropped` names.

    What `Connection` names is removed too, whatever it names: it was meant for this hop.
    """
    lowered = [(field[0].lower(), field) for field in fields]
    removed = HOP_BY_HOP | dropped
    for name, (_, value) in lowered:
        if name == "connection":
            removed |= {option.strip().lower() for option in value.split(",")}
    return [field for name, field in lowered if name not in removed]


def rate_limit_fields(budget: Budget) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit`, one item per configured period.

    draft-ietf-httpapi-ratelimit-headers-11: quota, window and reset in seconds; the unit is cents.
    """
    limited = [window for window in budget.windows if window.limit_cents is not None]
    if not limited:
        return {}
    return {
        "RateLimit-Policy": ", ".join(_policy_item(window) for window in limited),
        "RateLimit": ", ".join(_limit_item(window, budget) for window in limited),
    }


def _policy_item(window: WindowSpend) -> str:
    period = window.period
    return f'"{period.name}";q={window.limit_cents};w={period.window_seconds};qu="cents"'


def _limit_item(window: WindowSpend, budget: Budget) -> str:
    item = f'"{window.period.name}";r={max(window.remaining_cents or 0, 0)}'
    if window.retry_at is None:
        return item
    return f"{item};t={whole_seconds(window.retry_at - budget.as_of)}"


def retry_after(budget: Budget) -> dict[str, str]:
    """`Retry-After` in seconds, absent where waiting does not help (RFC 9110 section 10.2.3)."""
    moment = retry_at(budget.exceeded)
    return {} if moment is None else {"Retry-After": str(whole_seconds(moment - budget.as_of))}


def whole_seconds(wait: timedelta) -> int:
    """A wait rounded up, so that who waits this long does not come too early."""
    return max(math.ceil(wait.total_seconds()), 1)
