"""Which header fields pass a proxy, and the fields that tell a caller of its limits."""

import math
from collections.abc import Sequence, Set
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

# What would change how a browser treats this origin, beyond the one response.
_NOT_FOR_BROWSERS = frozenset(
    {
        "set-cookie",
        "service-worker-allowed",
        "clear-site-data",
        "strict-transport-security",
        "alt-svc",
        "nel",
        "report-to",
        "reporting-endpoints",
        "refresh",
        "x-content-type-options",
    }
)
# Several policies hold together, several values of Vary too; of X-Content-Type-Options the first.
_FOR_BROWSERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "sandbox"),
    ("Vary", "Sec-Fetch-Mode, Sec-Fetch-Dest"),
)


def end_to_end(
    fields: Sequence[tuple[str, str]], dropped: Set[str] = HOP_BY_HOP
) -> list[tuple[str, str]]:
    """The fields that go on to the next hop, doubles and order kept.

    `dropped` are the names that stay here, HOP_BY_HOP among them. What `Connection` names stays,
    too, whatever it names: it was meant for this hop.
    """
    names = [name.lower() for name, _ in fields]
    if "connection" in names:
        options = [value for name, value in fields if name.lower() == "connection"]
        dropped = dropped | {option.strip().lower() for option in ",".join(options).split(",")}
    return [field for name, field in zip(names, fields, strict=True) if name not in dropped]


def for_browser(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of an agent's response to a script in a page.

    The browser may keep the response and show it later as a page of this origin, without asking
    again: it is for requests of this kind alone, and a page it makes has no origin and no script.
    """
    kept = [field for field in fields if field[0].lower() not in _NOT_FOR_BROWSERS]
    return [*kept, *_FOR_BROWSERS]


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
