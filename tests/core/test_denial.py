"""The refusal, in each form a call can have: section 5 of the contract."""

import json
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest

from gateway.core.calls import Call, Form
from gateway.core.denial import deny, message
from gateway.core.money import dollars
from tests.core.budgets import budget_of

BUDGET = budget_of(
    hourly=(140, 100, "14:05:09"),
    daily=(700, None),
    weekly=(900, 800, "2026-11-24T09:00:00.25Z"),
    monthly=(900, 5000),
)
CLOSED = budget_of(hourly=(140, 100, "14:05:09"), monthly=(900, 0))
MESSAGE = (
    "workspace budget limit exceeded: hourly $1.40 of $1.00, weekly $9.00 of $8.00; "
    "earliest retry 2026-11-24 09:00:01 UTC"
)
ERROR_INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "BUDGET_EXCEEDED",
    "domain": "a2a-budget-gateway",
    "metadata": {
        "workspace_id": "reno-stars",
        "exceeded": "hourly,weekly",
        "hourly_limit": "100",
        "hourly_spend": "140",
        "hourly_remaining": "-40",
        "hourly_retry_at": "2026-11-23T14:05:09Z",
        "weekly_limit": "800",
        "weekly_spend": "900",
        "weekly_remaining": "-100",
        "weekly_retry_at": "2026-11-24T09:00:00.250000Z",
    },
}


@pytest.mark.parametrize("rpc_id", [7, "a-1", 1.5, 0, "", None])
def test_json_rpc_call_is_refused_by_an_error_with_its_id(rpc_id: str | float | None) -> None:
    denial = deny(BUDGET, Call(Form.JSON_RPC, False, rpc_id))
    assert denial.content_type == "application/json"
    assert denial.document == {
        "jsonrpc": "2.0",
        "id": rpc_id,
        "error": {"code": -32000, "message": MESSAGE, "data": [ERROR_INFO]},
    }


def test_rest_call_is_refused_by_a_status_object() -> None:
    denial = deny(BUDGET, Call(Form.REST, False))
    assert denial.content_type == "application/json"
    assert denial.document == {
        "error": {
            "code": 402,
            "status": "RESOURCE_EXHAUSTED",
            "message": MESSAGE,
            "details": [ERROR_INFO],
        }
    }


def test_any_other_call_is_refused_by_a_problem_document() -> None:
    denial = deny(BUDGET, Call(Form.PLAIN, False))
    document: dict[str, Any] = dict(denial.document)
    assert denial.content_type == "application/problem+json"
    assert {"type", "title"} < set(document)
    assert (document["status"], document["detail"]) == (402, MESSAGE)
    assert document["error"] == "workspace budget limit exceeded"
    assert document["violated-policies"] == ["hourly", "weekly"]
    assert document["periods"] == {
        "hourly": {
            "window_seconds": 3600,
            "limit": 100,
            "spend": 140,
            "remaining": -40,
            "exceeded": True,
            "retry_at": "2026-11-23T14:05:09Z",
        },
        "weekly": {
            "window_seconds": 604800,
            "limit": 800,
            "spend": 900,
            "remaining": -100,
            "exceeded": True,
            "retry_at": "2026-11-24T09:00:00.250000Z",
        },
    }


@pytest.mark.parametrize("budget", [BUDGET, CLOSED])
def test_metadata_are_strings(budget: Any) -> None:
    document: Any = deny(budget, Call(Form.JSON_RPC, False)).document
    metadata = document["error"]["data"][0]["metadata"]
    assert {type(value) for pair in metadata.items() for value in pair} == {str}


def test_limit_of_zero_has_no_retry_in_any_form() -> None:
    rpc: Any = deny(CLOSED, Call(Form.JSON_RPC, False)).document
    plain: Any = deny(CLOSED, Call(Form.PLAIN, False)).document
    assert rpc["error"]["data"][0]["metadata"]["monthly_retry_at"] == ""
    assert plain["periods"]["monthly"]["retry_at"] is None


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ({"hourly": (140, 100, "14:05:09")}, "hourly $1.40 of $1.00; earliest retry 14:05:09 UTC"),
        # Up to the second: who comes at the named one gets through.
        ({"daily": (1, 1, "14:05:09.000001")}, "daily $0.01 of $0.01; earliest retry 14:05:10 UTC"),
        ({"daily": (1, 1, "14:59:59.5")}, "daily $0.01 of $0.01; earliest retry 15:00:00 UTC"),
        # Another day shows its date, also one that is reached by rounding.
        (
            {"daily": (1, 1, "23:59:59.000001")},
            "daily $0.01 of $0.01; earliest retry 2026-11-24 00:00:00 UTC",
        ),
        ({"daily": (1, 1, "23:59:59")}, "daily $0.01 of $0.01; earliest retry 23:59:59 UTC"),
        (
            {"monthly": (1, 1, "2026-12-23T14:05:09Z")},
            "monthly $0.01 of $0.01; earliest retry 2026-12-23 14:05:09 UTC",
        ),
        # In UTC, whatever the moment came in.
        (
            {"hourly": (1, 1, "2026-11-24T01:05:09+11:00")},
            "hourly $0.01 of $0.01; earliest retry 14:05:09 UTC",
        ),
        # All windows; the latest retry.
        (
            {"hourly": (2, 1, "14:05:09"), "daily": (3, 1, "14:04:00"), "weekly": (0, 1)},
            "hourly $0.02 of $0.01, daily $0.03 of $0.01; earliest retry 14:05:09 UTC",
        ),
        # Waiting does not help.
        ({"hourly": (0, 0)}, "hourly $0.00 of $0.00; no retry before the limit is raised"),
        (
            {"hourly": (2, 1, "14:05:09"), "daily": (2, 0)},
            "hourly $0.02 of $0.01, daily $0.02 of $0.00; no retry before the limit is raised",
        ),
    ],
)
def test_message_names_every_exceeded_window_and_the_earliest_retry(
    windows: dict, words: str
) -> None:
    assert message(budget_of(**windows)) == f"workspace budget limit exceeded: {words}"


def test_other_day_is_told_by_utc_whatever_zone_the_clock_is_in() -> None:
    budget = budget_of(hourly=(1, 1, "14:05:09"))
    sydney = replace(budget, as_of=budget.as_of.astimezone(timezone(timedelta(hours=11))))
    assert message(sydney) == message(budget)


@pytest.mark.parametrize(
    ("cents", "words"),
    [(0, "$0.00"), (5, "$0.05"), (140, "$1.40"), (123456789, "$1,234,567.89"), (-140, "-$1.40")],
)
def test_cents_are_shown_as_dollars(cents: int, words: str) -> None:
    assert dollars(cents) == words


@pytest.mark.parametrize("form", Form)
def test_refusal_tells_when_to_come_back_and_is_not_stored(form: Form) -> None:
    assert deny(BUDGET, Call(form, False)).headers == {
        "Cache-Control": "no-store",
        "Retry-After": "69001",
        "RateLimit-Policy": '"hourly";q=100;w=3600;qu="cents", '
        '"weekly";q=800;w=604800;qu="cents", "monthly";q=5000;w=2592000;qu="cents"',
        "RateLimit": '"hourly";r=0;t=909, "weekly";r=0;t=69001, "monthly";r=4100',
    }
    assert "Retry-After" not in deny(CLOSED, Call(form, False)).headers


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("word", ["x402", "payment-required", "billing", "credit", "invoice"])
def test_refusal_does_not_ask_for_money(form: Form, word: str) -> None:
    denial = deny(BUDGET, Call(form, False))
    assert word not in json.dumps([denial.document, denial.headers]).lower()
