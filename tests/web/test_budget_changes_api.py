"""The history of limits over HTTP: what is told of a change, to whom, and in which pages."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.running import Gateway, run_gateway

NOBODY = "http://127.0.0.1:9"
PATH = "/workspaces/w/budget"
TOKENS = {
    "GATEWAY_AUTH__ADMIN_TOKENS": "plain-token",
    "GATEWAY_AUTH__NAMED_ADMIN_TOKENS": "alice=alices-token,bob=bobs-token",
}


async def changes(gateway: Gateway, query: str = "", token: str | None = None) -> Any:
    """A page of the history of workspace w."""
    status, document = await gateway.json("GET", f"{PATH}/changes{query}", token=token)
    assert status == 200, document
    return document


async def test_change_tells_who_made_it_when_what_and_why(dsn: str, stack: AsyncExitStack) -> None:
    gateway = await stack.enter_async_context(run_gateway(dsn, TOKENS))
    own = await gateway.register("w", NOBODY)
    for cents, token in ((5, "plain-token"), (6, "alices-token"), (7, "bobs-token")):
        body = {"budget_limits": {"hourly": cents}, "reason": f"  for {cents}\n"}
        assert (await gateway.json("PATCH", PATH, body, token))[0] == 200
    page = await changes(gateway, "", "alices-token")
    assert page == await changes(gateway, "", own)  # the workspace reads its own
    assert [(each["changed_by"], each["reason"]) for each in page["changes"]] == [
        ("bob", "for 7"),
        ("alice", "for 6"),
        ("admin", "for 5"),
    ]
    newest = page["changes"][0]
    changed_at = datetime.fromisoformat(newest.pop("changed_at"))
    assert abs(changed_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert newest == {
        "number": 3,
        "changed_by": "bob",
        "limits_before": {"hourly": 6},
        "limits_after": {"hourly": 7},
        "reason": "for 7",
    }


async def test_without_tokens_a_change_is_anyones(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    await gateway.limit("w", hourly=5)
    (change,) = (await changes(gateway))["changes"]
    assert (change["changed_by"], change["reason"]) == ("anyone", None)


async def test_history_comes_in_pages(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    empty = {"workspace_id": "w", "changes": [], "total": 0, "limit": 50, "before": None}
    assert await changes(gateway) == empty
    for cents in range(5):
        await gateway.limit("w", hourly=cents)
    seen, query = [], "?limit=2"
    while (page := await changes(gateway, query))["changes"]:
        assert (page["total"], page["limit"]) == (5, 2)
        seen += [each["number"] for each in page["changes"]]
        query = f"?limit=2&before={seen[-1]}"
    assert seen == [5, 4, 3, 2, 1]
    assert page["before"] == 1


async def test_removed_workspace_shows_no_history_and_has_it_back_with_itself(
    gateway: Gateway,
) -> None:
    await gateway.register("w", NOBODY)
    await gateway.limit("w", hourly=5)
    assert (await gateway.json("DELETE", "/workspaces/w"))[0] == 204
    assert (await gateway.json("GET", f"{PATH}/changes"))[0] == 404
    await gateway.register("w", NOBODY)
    assert (await changes(gateway))["total"] == 1


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 500, "x" * 500),
        (f"\t {'x' * 500}\n", "x" * 500),  # trimmed first
        ("Grüße \U0001f469\u200d\U0001f680", "Grüße \U0001f469\u200d\U0001f680"),
        ("", None),
        ("  \n", None),
        (None, None),
    ],
)
async def test_reason_is_trimmed_and_may_be_missing(
    gateway: Gateway, reason: str | None, kept: str | None
) -> None:
    await gateway.register("w", NOBODY)
    body = {"budget_limits": {"hourly": 5}, "reason": reason}
    assert (await gateway.json("PATCH", PATH, body))[0] == 200
    assert (await changes(gateway))["changes"][0]["reason"] == kept
