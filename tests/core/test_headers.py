"""Which fields pass the gateway, and the fields that tell of limits: section 5 of the contract."""

from datetime import timedelta

import pytest

from gateway.core.headers import (
    end_to_end,
    for_browser,
    rate_limit_fields,
    retry_after,
    whole_seconds,
)
from tests.core.budgets import budget_of

KEPT = ("Accept", "*/*")


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ([], []),
        ([KEPT], [KEPT]),
        # RFC 9110 section 7.6.1, in any case.
        ([("Connection", "close"), KEPT], [KEPT]),
        ([("Keep-Alive", "timeout=5"), KEPT], [KEPT]),
        ([("Proxy-Connection", "keep-alive"), KEPT], [KEPT]),
        ([("TE", "trailers"), ("Trailer", "X"), KEPT], [KEPT]),
        ([("Transfer-Encoding", "chunked"), KEPT], [KEPT]),
        ([("Upgrade", "h2c"), ("HTTP2-Settings", "AAA"), KEPT], [KEPT]),
        ([("tRANSFER-eNCODING", "chunked"), KEPT], [KEPT]),
        # What Connection names was meant for this hop, wherever it stands.
        ([("X-Hop", "1"), KEPT, ("Connection", "close, x-hop")], [KEPT]),
        ([("connection", "X-A ,, x-b"), ("x-a", "1"), ("X-B", "2"), KEPT], [KEPT]),
        ([("Connection", "x-a"), ("Connection", "x-b"), ("X-A", "1"), ("X-B", "2")], []),
        ([("Connection", "x-a"), ("X-Ab", "1")], [("X-Ab", "1")]),  # whole names only
        # Doubles, order and spelling stay.
        (
            [("set-cookie", "b=2"), ("X", "1"), ("Set-Cookie", "a=1"), ("X", "1")],
            [("set-cookie", "b=2"), ("X", "1"), ("Set-Cookie", "a=1"), ("X", "1")],
        ),
        # A2A's own fields and credentials for the agent go to the agent.
        ([("A2A-Version", "1.0"), ("X-A2A-Extensions", "a, b")],) * 2,
        ([("Authorization", "Bearer x"), ("Content-Length", "2"), ("Empty", "")],) * 2,
    ],
)
def test_fields_of_this_hop_are_removed(
    fields: list[tuple[str, str]], passed: list[tuple[str, str]]
) -> None:
    assert end_to_end(fields) == passed


@pytest.mark.parametrize(
    ("windows", "policy", "limit"),
    [
        (
            {"hourly": (140, 100, "13:51:05"), "monthly": (900, 5000)},
            '"hourly";q=100;w=3600;qu="cents", "monthly";q=5000;w=2592000;qu="cents"',
            '"hourly";r=0;t=65, "monthly";r=4100',  # never negative: r is a count
        ),
        (
            {"daily": (0, 0, "13:51:05")},
            '"daily";q=0;w=86400;qu="cents"',
            '"daily";r=0',  # waiting does not help
        ),
        (
            {"weekly": (5, 10**12)},
            '"weekly";q=1000000000000;w=604800;qu="cents"',
            '"weekly";r=999999999995',
        ),
    ],
)
def test_configured_periods_are_told_in_rate_limit_fields(
    windows: dict, policy: str, limit: str
) -> None:
    assert rate_limit_fields(budget_of(**windows)) == {
        "RateLimit-Policy": policy,
        "RateLimit": limit,
    }


def test_workspace_without_limits_has_no_rate_limit_fields() -> None:
    assert rate_limit_fields(budget_of(hourly=(5, None))) == {}


@pytest.mark.parametrize(
    ("windows", "seconds"),
    [
        ({"hourly": (2, 1, "13:51:00")}, "60"),
        ({"hourly": (2, 1, "13:51:00.000001")}, "61"),  # up: never too early
        ({"hourly": (2, 1, "13:50:00.000001")}, "1"),
        ({"hourly": (2, 1, "13:50:00")}, "1"),  # 0 would be a busy loop
        ({"hourly": (2, 1, "13:49:00")}, "1"),  # already over
        ({"monthly": (2, 1, "2026-12-23T13:50:00Z")}, "2592000"),
        ({"hourly": (2, 1, "13:51:00"), "daily": (2, 1, "13:52:00")}, "120"),  # the latest
        ({"hourly": (2, 1, "13:52:00"), "daily": (2, 1, "13:51:00")}, "120"),
        ({"hourly": (2, 1, "13:51:00"), "daily": (2, 3, "13:52:00")}, "60"),  # has room
        ({"hourly": (2, 0, "13:51:00")}, None),  # a limit of 0
        ({"hourly": (2, 1, "13:51:00"), "daily": (2, 0)}, None),
        ({"hourly": (0, 1)}, None),
    ],
)
def test_retry_after_waits_for_the_last_exceeded_window(windows: dict, seconds: str | None) -> None:
    expected = {} if seconds is None else {"Retry-After": seconds}
    assert retry_after(budget_of(**windows)) == expected


def test_wait_is_rounded_up_to_whole_seconds() -> None:
    waits = [-1, 0, 0.2, 1, 1.000001, 2]
    assert [whole_seconds(timedelta(seconds=wait)) for wait in waits] == [1, 1, 1, 1, 2, 2]


def test_response_for_a_browser_changes_nothing_beyond_itself() -> None:
    harmless = [("Content-Type", "text/html"), ("Vary", "Accept"), ("X-A", "1"), ("X-A", "1")]
    fields = [
        *harmless,
        ("Content-Security-Policy", "script-src *"),
        ("Set-Cookie", "a=1"),
        ("service-worker-allowed", "/"),
        ("Clear-Site-Data", "*"),
        ("Strict-Transport-Security", "max-age=1"),
        ("ALT-SVC", 'h3=":1"'),
        ("NEL", "{}"),
        ("Refresh", "0; url=/"),
        ("X-Content-Type-Options", "none"),  # the first of several counts
    ]
    assert for_browser(fields) == [
        *harmless,
        ("Content-Security-Policy", "script-src *"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox"),
        ("Vary", "Sec-Fetch-Mode, Sec-Fetch-Dest"),
    ]
