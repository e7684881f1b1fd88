"""Changes of limits over HTTP: what is told of them, two operators at once, and dry runs."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.core.dry_run import REPLAYED
from tests.running import Gateway, run_gateway
from tests.storage.rows import add_rows

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


async def etag_of(gateway: Gateway, path: str = PATH) -> str:
    async with gateway.client.get(gateway.url + path) as answer:
        assert answer.status == 200
        return answer.headers["ETag"]


async def patch(gateway: Gateway, cents: int | None, **fields: str) -> tuple[int, str, Any]:
    """Set the limit of one period and give status, entity tag and document of the answer."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    body = {"budget_limits": {"hourly": cents}}
    async with gateway.client.patch(gateway.url + PATH, json=body, headers=headers) as answer:
        return answer.status, answer.headers.get("ETag", ""), await answer.json(content_type=None)


async def test_tag_is_of_the_limits_and_stays_while_money_is_spent(gateway: Gateway) -> None:
    token = await gateway.register("w", NOBODY)
    tags = [await etag_of(gateway)]
    await gateway.spend("w", 140, token)
    assert await etag_of(gateway) == tags[0]
    for cents in (100, 200, None):
        status, tag, _ = await patch(gateway, cents)
        assert (status, tag) == (200, await etag_of(gateway))
        assert tag == await etag_of(gateway, "/workspaces/w")
        tags.append(tag)
    assert tags[3] == tags[0]  # the same limits as in the beginning
    assert len(set(tags)) == 3


async def test_change_for_limits_that_are_no_more_is_412_and_names_who_changed_them(
    dsn: str, stack: AsyncExitStack
) -> None:
    gateway = await stack.enter_async_context(run_gateway(dsn, TOKENS))
    await gateway.register("w", NOBODY)
    bob = {"Authorization": "Bearer bobs-token"}
    _, seen, _ = await patch(gateway, 100, **bob)
    assert (await patch(gateway, 200, Authorization="Bearer alices-token", If_Match=seen))[0] == 200
    status, _, problem = await patch(gateway, 300, If_Match=seen, **bob)
    (newest, _) = (await changes(gateway, "", "bobs-token"))["changes"]
    assert (status, problem["title"]) == (412, "Precondition Failed")
    assert problem["detail"].endswith(f" alice changed them at {newest['changed_at']}.")
    assert problem["error"] == problem["detail"]
    assert newest["limits_after"] == {"hourly": 200}


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        ("{now}", 200),
        ('"other", {now}', 200),
        ("*", 200),  # it exists
        ("W/{now}", 412),  # strong comparison
        ('"other"', 412),
        ("nonsense", 412),
        ("", 412),
    ],
)
async def test_if_match_decides_whether_limits_change(
    gateway: Gateway, if_match: str, status: int
) -> None:
    await gateway.register("w", NOBODY)
    now = await etag_of(gateway)
    assert (await patch(gateway, 100, If_Match=if_match.format(now=now)))[0] == status
    assert (await etag_of(gateway) != now) is (status == 200)
    assert (await changes(gateway))["total"] == (status == 200)


async def test_condition_is_looked_at_only_where_the_change_would_be_made(
    gateway: Gateway,
) -> None:
    await gateway.register("w", NOBODY)
    path, headers = gateway.url + PATH, {"If-Match": '"other"'}
    async with gateway.client.patch(path, json={"budget_limit": -1}, headers=headers) as answer:
        assert answer.status == 400
    await gateway.json("DELETE", "/workspaces/w")
    for if_match in ("*", '"other"'):
        assert (await patch(gateway, 1, If_Match=if_match))[0] == 404


async def test_budget_is_never_told_to_be_the_same_because_its_spend_is_another(
    gateway: Gateway,
) -> None:
    await gateway.register("w", NOBODY)
    headers = {"If-None-Match": await etag_of(gateway)}
    async with gateway.client.get(gateway.url + PATH, headers=headers) as answer:
        assert (answer.status, (await answer.json())["workspace_id"]) == (200, "w")


async def test_dry_run_tells_what_would_be_and_changes_nothing(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    await gateway.register("w", NOBODY)
    await gateway.limit("w", daily=400)
    now = await connection.fetchval("SELECT now()")
    await add_rows(connection, "w", [(now - timedelta(hours=ago), 300) for ago in (50, 40, 9)])
    before = await gateway.json("GET", PATH)
    tag = await etag_of(gateway)
    body = {"budget_limits": {"hourly": 300, "daily": 250, "monthly": None}, "reason": "a try"}
    path, headers = f"{gateway.url}{PATH}?dry_run=true", {"If-Match": tag}
    async with gateway.client.patch(path, json=body, headers=headers) as answer:
        assert (answer.status, answer.headers["ETag"]) == (200, tag)
        tried = await answer.json()
    run = tried.pop("dry_run")
    assert await gateway.json("GET", PATH) == before
    assert (await changes(gateway))["total"] == 1  # the limit that was there
    assert await gateway.json("PATCH", PATH, body) == (200, tried)
    assert datetime.fromisoformat(run["until"]) - datetime.fromisoformat(run["since"]) == REPLAYED
    assert run["periods"].keys() == {"hourly", "daily"}
    assert run["periods"]["hourly"] == {"refused_stretches": 3, "refused_seconds": 3 * 3600}
    daily = run["periods"]["daily"]
    assert daily["refused_stretches"] == 2  # two of the rows are less than a day apart
    assert daily["refused_seconds"] == pytest.approx((34 + 9) * 3600, abs=60)
    assert [(each["period"], each["bound_by"]) for each in run["notices"]] == [("hourly", "daily")]


async def test_change_that_is_tried_for_other_limits_is_412(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    path, headers = f"{gateway.url}{PATH}?dry_run=true", {"If-Match": '"other"'}
    async with gateway.client.patch(path, json={"budget_limit": 5}, headers=headers) as answer:
        assert answer.status == 412


async def test_dry_run_that_is_false_is_a_change(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    status, budget = await gateway.json("PATCH", f"{PATH}?dry_run=false", {"budget_limit": 5})
    assert (status, "dry_run" in budget) == (200, False)
    assert (await changes(gateway))["total"] == 1
