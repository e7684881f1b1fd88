"""The tag of limits, and the sentence for a change that was made for other ones."""

import pytest

from gateway.core.budget_changes import BudgetChange, limits_etag, outdated
from tests.core.budgets import AS_OF

NAMELESS = "The limits are not those that If-Match names."


def test_tag_is_of_the_limits_in_whatever_order() -> None:
    tag = limits_etag({"hourly": 1, "daily": 2})
    assert tag == limits_etag({"daily": 2, "hourly": 1})
    others = [{}, {"hourly": 1}, {"hourly": 2, "daily": 1}, {"hourly": 12}, {"daily": 0}]
    assert len({tag, *map(limits_etag, others)}) == len(others) + 1
    assert tag.startswith('"')


@pytest.mark.parametrize(
    ("limits_after", "sentence"),
    [
        ({"hourly": 5}, f"{NAMELESS} alice changed them at 2026-11-23T13:50:00Z."),
        ({"hourly": 6}, NAMELESS),  # since then, somebody changed them in the database itself
        (None, NAMELESS),  # nothing is known
    ],
)
def test_refusal_names_who_set_the_limits_if_that_is_known(
    limits_after: dict[str, int] | None, sentence: str
) -> None:
    newest = BudgetChange(1, AS_OF, "alice", {}, limits_after or {}, None)
    assert outdated({"hourly": 5}, newest if limits_after else None).detail == sentence
