"""What operators use: the list of workspaces, one of them, its end, and its spend over time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from yarl import URL

from gateway.core.periods import PERIODS, Period
from tests.running import Agent, Gateway

# A row of the ledger: whose, how long ago, how much.
Booked = tuple[str, timedelta, int]

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
async def three(gateway: Gateway, connection: asyncpg.Connection) -> None:
    """Workspaces whose order by spend differs from period to period; `c` has spent nothing."""
    for workspace_id, name in [("a", "Kitchen"), ("b", "100% Bath_room"), ("c", "kitchenette")]:
        registration = {"id": workspace_id, "url": NOBODY, "agent_card": {"name": name}}
        assert (await gateway.json("POST", "/registry/register", registration))[0] == 200
    booked = [("a", timedelta(days=3), 500), ("a", timedelta(minutes=5), 10)]
    await book(connection, [*booked, ("b", timedelta(minutes=5), 30)])


async def book(connection: asyncpg.Connection, rows: list[Booked]) -> None:
    """Write ledger rows of the past, the oldest of each workspace first."""
    totals: dict[str, int] = {}
    for number, (workspace_id, age, cents) in enumerate(rows, start=1):
        totals[workspace_id] = totals.get(workspace_id, 0) + cents
        await connection.execute(
            "INSERT INTO workspace_spend_events (workspace_id, event_number, occurred_at,"
            " amount_cents, running_total_cents, source)"
            " VALUES ($1, $2, now() - $3::interval, $4, $5, 'heartbeat')",
            *(workspace_id, number, age, cents, totals[workspace_id]),
        )


async def page(gateway: Gateway, query: str) -> tuple[str, int]:
    """The ids on a page, and how many workspaces match in all."""
    url = URL(f"{gateway.url}/workspaces?{query}", encoded=True)
    async with gateway.client.get(url) as answer:
        assert answer.status == 200, await answer.text()
        document = await answer.json()
    return "".join(each["workspace_id"] for each in document["workspaces"]), document["total"]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ("", "abc", 3),  # by default, what spent most over the longest period
        (f"sort={PERIODS[0].name}", "bac", 3),
        (f"sort={PERIODS[0].name}&order=asc", "cab", 3),
        (f"sort={PERIODS[-1].name}&order=asc", "cba", 3),
        ("sort=id", "abc", 3),
        ("sort=id&order=desc", "cba", 3),
        ("sort=id&limit=2", "ab", 3),
        ("sort=id&limit=2&offset=2", "c", 3),
        ("sort=id&limit=1000&offset=3", "", 3),
        ("sort=id&offset=1000000000", "", 3),
        ("sort=id&q=KITCHEN", "ac", 2),  # in names, ignoring case
        ("sort=id&q=b", "b", 1),  # and in ids
        ("sort=id&q=%25", "b", 1),  # no wildcards
        ("sort=id&q=_", "b", 1),
        ("sort=id&q=%25tch", "", 0),
        ("sort=id&q=%5C", "", 0),
        ("sort=id&q='", "", 0),
        ("sort=id&q=%FF", "", 0),
        ("sort=id&q=", "abc", 3),
        ("sort=id&unknown=1", "abc", 3),
    ],
)
async def test_list_is_sorted_paged_and_searched(
    gateway: Gateway, query: str, ids: str, total: int
) -> None:
    assert await page(gateway, query) == (ids, total)


async def test_list_is_sorted_by_the_last_heartbeat(gateway: Gateway) -> None:
    tokens = {each: await gateway.register(each, NOBODY) for each in "abc"}
    for each in "ca":
        await gateway.spend(each, 5, tokens[each])
    assert await page(gateway, "sort=last_heartbeat_at") == ("acb", 3)
    assert await page(gateway, "sort=last_heartbeat_at&order=asc") == ("bca", 3)


@pytest.mark.usefixtures("three")
async def test_listed_workspace_is_what_one_workspace_is_and_has_its_budget(
    gateway: Gateway,
) -> None:
    await gateway.limit("a", **{PERIODS[0].name: 5})
    _, listed = await gateway.json("GET", "/workspaces?sort=id&limit=1")
    _, one = await gateway.json("GET", "/workspaces/a")
    _, budget = await gateway.json("GET", "/workspaces/a/budget")
    assert [without_moments(each) for each in listed["workspaces"]] == [without_moments(one)]
    assert without_moments(budget).items() <= without_moments(one).items()
    assert one["periods"][PERIODS[0].name]["exceeded"] is True
    assert (listed["limit"], listed["offset"]) == (1, 0)


def without_moments(document: Any) -> Any:
    """The document without what depends on the moment at which it was asked for."""
    windows = document["periods"].items()
    return {**document, "periods": {name: {**each, "retry_at": ...} for name, each in windows}}


async def test_query_parameter_out_of_range_is_400_and_named(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    limits = ["0", "1001", "-1", "1.5", "", "x", "1e2", "%2B5", "%205", "%D9%A1", "%00", "9" * 5000]
    offsets = ["-1", "1000000001", "", "x", "true", "%FF"]
    names = ["x", "", "ID", "%00", "%FF", "z" * 5000]
    for path, parameter, values in [
        ("/workspaces", "limit", limits),
        ("/workspaces", "offset", offsets),
        ("/workspaces", "sort", [*names, "spend"]),
        ("/workspaces", "order", names),
        ("/workspaces", "q", ["z" * 129, "%00"]),
        ("/workspaces/w/spend", "period", [*names, "60"]),
        ("/workspaces/w/budget/changes", "limit", limits),
        ("/workspaces/w/budget/changes", "before", [*offsets, "0"]),
    ]:
        for value in values:
            url = URL(f"{gateway.url}{path}?{parameter}={value}", encoded=True)
            async with gateway.client.get(url) as answer:
                detail = (await answer.json(content_type="application/problem+json"))["detail"]
                assert (answer.status, detail.partition(" ")[0]) == (400, parameter), value


async def test_removed_workspace_leaves_the_list_and_keeps_its_ledger(
    gateway: Gateway, agent: Agent, connection: asyncpg.Connection
) -> None:
    await gateway.spend("a", 5, await gateway.register("a", agent.url))
    await gateway.register("b", agent.url)
    async with gateway.client.delete(gateway.url + "/workspaces/a") as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert await page(gateway, "") == ("b", 1)
    assert (await gateway.json("DELETE", "/workspaces/a"))[0] == 404
    assert (await gateway.json("POST", "/workspaces/a/a2a", {}))[0] == 404
    row = await connection.fetchrow("SELECT status, monthly_spend FROM workspaces WHERE id = 'a'")
    assert tuple(row) == ("removed", 5)
    assert await connection.fetchval("SELECT sum(amount_cents) FROM workspace_spend_events") == 5


@pytest.mark.parametrize("period", PERIODS, ids=lambda period: period.name)
async def test_buckets_of_a_period_sum_up_to_its_spend(
    gateway: Gateway, connection: asyncpg.Connection, period: Period
) -> None:
    await gateway.register("w", NOBODY)
    ages = [timedelta(days=40), timedelta(days=20), timedelta(days=3), timedelta(hours=5)]
    ages += [timedelta(minutes=50), timedelta(minutes=20), timedelta(minutes=20), timedelta()]
    await book(connection, [("w", age, 10**place) for place, age in enumerate(ages)])
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    _, history = await gateway.json("GET", f"/workspaces/w/spend?period={period.name}")
    buckets = history["buckets"]
    assert sum(each["spend"] for each in buckets) == budget["periods"][period.name]["spend"]
    assert (history["workspace_id"], history["period"]) == ("w", period.name)
    assert history["window_seconds"] == period.window_seconds
    assert len(buckets) == pytest.approx(60, abs=6)
    starts = [datetime.fromisoformat(each["start"]) for each in buckets]
    length = timedelta(seconds=history["bucket_seconds"])
    assert {after - before for before, after in pairwise(starts)} == {length}
    assert length * len(buckets) == period.length
    assert abs(starts[0] + period.length - datetime.now(UTC)) < timedelta(minutes=1)


async def test_spend_stands_in_the_bucket_of_its_time(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    await gateway.register("w", NOBODY)
    period = PERIODS[0]
    booked = {period.length * share: 10**place for place, share in enumerate((0.91, 0.455, 0.04))}
    await book(connection, [("w", age, cents) for age, cents in booked.items()])
    _, history = await gateway.json("GET", "/workspaces/w/spend")
    length = timedelta(seconds=history["bucket_seconds"])
    end = datetime.fromisoformat(history["buckets"][-1]["start"]) + length
    spent = {
        end - datetime.fromisoformat(each["start"]): each["spend"]
        for each in history["buckets"]
        if each["spend"]
    }
    assert list(spent.values()) == list(booked.values())
    for ends_before, age in zip(spent, booked, strict=True):
        assert ends_before - length <= age + timedelta(seconds=5) <= ends_before + length


async def test_history_of_a_workspace_that_spent_nothing_is_all_zero(gateway: Gateway) -> None:
    await gateway.register("w", NOBODY)
    _, history = await gateway.json("GET", "/workspaces/w/spend")
    assert history["period"] == PERIODS[0].name
    assert {each["spend"] for each in history["buckets"]} == {0}
