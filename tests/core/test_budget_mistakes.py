"""Changes that are refused, and stored limits that somebody damaged: section 3 of the contract."""

import re

import pytest

from gateway.core.budget import LIMIT_CENTS_MAX, read_change, read_stored_limits
from gateway.core.errors import BadRequest

A_LIMIT = "budget_limits.hourly must"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, "must be a JSON object"),
        ([], "must be a JSON object"),
        ("budget_limit", "must be a JSON object"),  # contains the member's name, has no members
        ({}, "must have the member budget_limits or budget_limit"),
        ({"limits": {}}, "must have the member budget_limits or budget_limit"),
        ({"budget_limits": []}, "budget_limits must be an object"),
        ({"budget_limits": 100}, "budget_limits must be an object"),
        ({"budget_limits": False}, "budget_limits must be an object"),
        ({"budget_limits": {"yearly": 1}}, "budget_limits has an unknown period"),
        ({"budget_limits": {"yearly": None}}, "budget_limits has an unknown period"),
        ({"budget_limits": {"Hourly": 1}}, "the periods are hourly, daily, weekly, monthly"),
        ({"budget_limits": {"hourly": -1}}, f"{A_LIMIT} not be negative"),
        ({"budget_limits": {"hourly": -0.5}}, f"{A_LIMIT} not be negative"),
        ({"budget_limits": {"hourly": 1.5}}, f"{A_LIMIT} be a whole number of cents"),
        ({"budget_limits": {"hourly": True}}, f"{A_LIMIT} be a whole number"),  # an int in Python
        ({"budget_limits": {"hourly": False}}, f"{A_LIMIT} be a whole number"),
        ({"budget_limits": {"hourly": "100"}}, f"{A_LIMIT} be a whole number"),
        ({"budget_limits": {"hourly": []}}, f"{A_LIMIT} be a whole number"),
        ({"budget_limits": {"hourly": {}}}, f"{A_LIMIT} be a whole number"),
        ({"budget_limits": {"hourly": LIMIT_CENTS_MAX + 1}}, f"{A_LIMIT} not be over"),
        ({"budget_limits": {"hourly": float("inf")}}, f"{A_LIMIT} not be over"),  # 1e999
        ({"budget_limits": {"hourly": 1, "daily": -1}}, "budget_limits.daily must not be negative"),
        ({"budget_limit": -1}, "budget_limit must not be negative"),
        ({"budget_limit": 0.5}, "budget_limit must be a whole number"),
        ({"budget_limit": True}, "budget_limit must be a whole number"),
        ({"budget_limit": "5000"}, "budget_limit must be a whole number"),
        ({"budget_limit": LIMIT_CENTS_MAX + 1}, "budget_limit must not be over"),
        ({"budget_limits": {"hourly": 1}, "budget_limit": "x"}, "budget_limit must be a whole"),
        ({"budget_limits": {"monthly": 1}, "budget_limit": 2}, "budget_limits.monthly differ"),
        ({"budget_limits": {"monthly": None}, "budget_limit": 0}, "budget_limits.monthly differ"),
        ({"budget_limits": {"monthly": 0}, "budget_limit": None}, "budget_limits.monthly differ"),
        ({"budget_limits": None, "budget_limit": 2}, "budget_limits.monthly differ"),
        ({"reason": "because"}, "must have the member budget_limits or budget_limit"),
        ({"budget_limit": 1, "reason": 5}, "reason must be a text"),
        ({"budget_limit": 1, "reason": ["because"]}, "reason must be a text"),
        ({"budget_limit": 1, "reason": "x" * 501}, "reason must have at most 500 characters"),
        ({"budget_limit": 1, "reason": "a\nb"}, "reason must be one line"),
        ({"budget_limit": 1, "reason": "a\0b"}, "reason must be one line"),
        ({"budget_limit": 1, "reason": "a\x1b[31m"}, "reason must be one line"),
        ({"budget_limit": 1, "reason": "a\x7fb"}, "reason must be one line"),
        ({"budget_limit": 1, "reason": "a\x85b"}, "reason must be one line"),
    ],
)
def test_mistake_in_a_change_is_named(body: object, sentence: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(sentence)):
        read_change(body)


def test_mistake_in_a_change_does_not_echo_what_was_sent() -> None:
    for body in ({"budget_limits": {"<script>": 1}}, {"budget_limit": "<script>"}):
        with pytest.raises(BadRequest) as error:
            read_change(body)
        assert "<script>" not in error.value.detail


@pytest.mark.parametrize(
    ("stored", "limits", "damaged"),
    [
        (None, {}, ()),
        ({}, {}, ()),
        ({"hourly": 100, "monthly": 0}, {"hourly": 100, "monthly": 0}, ()),
        ({"hourly": None}, {}, ()),  # null is no limit, not a damage
        ([], {}, ("budget_limits",)),
        ("x", {}, ("budget_limits",)),
        (0, {}, ("budget_limits",)),
        (False, {}, ("budget_limits",)),
        ({"hourly": 100, "yearly": 5}, {"hourly": 100}, ("yearly",)),  # the rest goes on
        ({"hourly": "100", "daily": 5}, {"daily": 5}, ("hourly",)),
        ({"hourly": True}, {}, ("hourly",)),
        ({"hourly": 1.5}, {}, ("hourly",)),
        ({"hourly": -1}, {}, ("hourly",)),
        ({"hourly": LIMIT_CENTS_MAX}, {"hourly": LIMIT_CENTS_MAX}, ()),
        ({"hourly": LIMIT_CENTS_MAX + 1}, {}, ("hourly",)),
        ({"hourly": {}, "weekly": []}, {}, ("hourly", "weekly")),
        ({"x" * 1000: 1}, {}, ("x" * 40,)),  # goes into a log line
    ],
)
def test_unusable_parts_of_stored_limits_are_ignored_and_named(
    stored: object, limits: dict[str, int], damaged: tuple[str, ...]
) -> None:
    assert read_stored_limits(stored) == (limits, damaged)
