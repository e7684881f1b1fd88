"""The SQL files: each is described, used, fits both kinds of database, and the hot one is flat."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES
from gateway.storage.database import Connection, DatabaseSettings, connect, require_statements
from gateway.storage.migrations import migrate
from gateway.storage.queries import all_queries, query, sql_folder
from tests.conftest import CreateDatabase
from tests.storage.platform import PLATFORMS, Platform
from tests.storage.rows import add_even_rows, add_workspace

PACKAGE = Path(__file__).parents[2] / "gateway"
LEDGER = "workspace_spend_events"
# One more level of an index on each descent, and a page that happened to split.
BLOCKS_MORE_MAX = 12
WEEK_S = 7 * 86_400


@asynccontextmanager
async def prepared(settings: DatabaseSettings) -> AsyncIterator[Connection]:
    """A worker's connection on which the gate's queries are prepared, and not yet planned."""
    connection = await connect(settings)
    await connection.execute(
        f"PREPARE budgets (text[], interval[], timestamptz) AS {query('budgets')}"
    )
    await connection.execute(
        f"PREPARE room (text[], text[], interval[], timestamptz) AS {query('room_returns')}"
    )
    yield connection
    await connection.close()


async def explain(connection: Connection, asked: str, workspace_id: str) -> dict[str, Any]:
    """How the server answers one of the gate's queries, with the plan that a worker has."""
    # A generic plan is only seen by EXPLAIN EXECUTE, which takes literals: the server writes them.
    execute = await connection.fetchval(
        """SELECT CASE $1 WHEN 'budgets' THEN format('EXECUTE budgets(%L, %L, NULL)', $2, $4)
                          ELSE format('EXECUTE room(%L, %L, %L, %L)', $2, $3, $4, now()) END
           FROM (SELECT $1::text, $2::text[], $3::text[], $4::interval[]) AS given""",
        asked,
        [workspace_id],
        PERIOD_NAMES,
        PERIOD_LENGTHS,
    )
    plan = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + execute
    return dict(json.loads(await connection.fetchval(plan))[0]["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def blocks(plan: dict[str, Any]) -> int:
    """Pages touched, in memory or not, by the whole plan."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def ledger_rows(plan: dict[str, Any]) -> float:
    """Rows of the ledger that were looked at, kept or not, in all repetitions."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") == LEDGER
    )


@pytest.mark.parametrize("limit_cents", [None, 10**9, 3])  # none, one not reached, and one that is
async def test_budgets_cost_the_same_however_large_the_ledger_is(
    settings: DatabaseSettings, connection: asyncpg.Connection, limit_cents: int | None
) -> None:
    small, large = await plans_of_small_and_large(settings, connection, "budgets", limit_cents)
    assert blocks(large) <= blocks(small) + BLOCKS_MORE_MAX
    assert ledger_rows(large) <= ledger_rows(small) + 2


@pytest.mark.parametrize("has_correction", [False, True])
async def test_moment_of_return_is_found_by_halving_however_large_the_ledger_is(
    settings: DatabaseSettings, connection: asyncpg.Connection, has_correction: bool
) -> None:
    small, large = await plans_of_small_and_large(settings, connection, "room", 3, has_correction)
    # A hundred times the rows are seven halvings more in each of the windows, of ten before.
    assert blocks(large) <= 2 * blocks(small)
    assert ledger_rows(large) <= 2 * ledger_rows(small)


async def plans_of_small_and_large(
    settings: DatabaseSettings,
    connection: asyncpg.Connection,
    asked: str,
    limit_cents: int | None,
    has_correction: bool = False,
) -> list[dict[str, Any]]:
    """The plans for a workspace of 1,000 rows and one of 100,000, limited in every period."""
    limits = {} if limit_cents is None else dict.fromkeys(PERIOD_NAMES, limit_cents)
    for workspace_id, count in (("small", 1_000), ("large", 100_000)):
        await add_workspace(connection, workspace_id, limits)
        await add_even_rows(connection, workspace_id, count, WEEK_S)
    if has_correction:  # the third row takes 1 cent back instead of spending it
        await connection.execute(
            """UPDATE workspace_spend_events
               SET running_total_cents = running_total_cents - 2,
                   amount_cents = CASE event_number WHEN 3 THEN -1 ELSE 1 END,
                   source = CASE event_number WHEN 3 THEN 'correction' ELSE 'heartbeat' END
               WHERE event_number >= 3"""
        )
    await connection.execute("VACUUM ANALYZE workspace_spend_events, workspaces")
    async with prepared(settings) as worker:
        plans = [await explain(worker, asked, name) for name in ("small", "large")]
    for plan in plans:
        scans = [node for node in nodes(plan) if node.get("Relation Name") == LEDGER]
        assert scans
        assert not [node for node in scans if "Index" not in node["Node Type"]]
    return plans


@pytest.mark.parametrize("asked", ["budgets", "room"])
@pytest.mark.parametrize("limit_cents", [10**9, 3])  # one that is not reached, and one that is
async def test_plan_made_while_the_ledger_was_empty_does_not_read_it_whole_later(
    settings: DatabaseSettings, connection: asyncpg.Connection, limit_cents: int, asked: str
) -> None:
    # A gateway on a new database plans at its start, and statistics come minutes later.
    await connection.execute("ALTER TABLE workspace_spend_events SET (autovacuum_enabled = off)")
    await add_workspace(connection, "w", dict.fromkeys(PERIOD_NAMES, limit_cents))
    async with prepared(settings) as worker:
        await explain(worker, asked, "w")
        await add_even_rows(connection, "w", 20_000, WEEK_S)
        plan = await explain(worker, asked, "w")
    assert ledger_rows(plan) < 500


@pytest.mark.parametrize("name", sorted(all_queries()))
def test_query_begins_with_a_sentence_and_its_parameters(name: str) -> None:
    comment = "\n".join(line for line in query(name).splitlines() if line.startswith("--"))
    assert re.fullmatch(r"-- [A-Z].+\.", comment.partition("\n--\n")[0], re.DOTALL)
    used = set(re.findall(r"\$\d+", re.sub(r"--.*", "", query(name))))
    assert used <= set(re.findall(r"\$\d+", comment))
    assert used == {f"${number}" for number in range(1, len(used) + 1)}


def test_every_query_is_used_and_every_used_one_exists() -> None:
    used = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'\bquery\("(\w+)"\)', path.read_text(encoding="utf-8"))
    }
    assert used == set(all_queries())


def test_only_queries_and_migrations_stand_in_the_sql_folder() -> None:
    found = {
        path.relative_to(sql_folder()) for path in sql_folder().rglob("*") if not path.is_dir()
    }
    assert {(path.parts[0], path.suffix) for path in found} == {
        ("queries", ".sql"),
        ("migrations", ".sql"),
    }


async def test_every_query_fits_a_database_of_our_own(settings: DatabaseSettings) -> None:
    await require_statements(settings)


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
async def test_every_query_fits_the_platforms_database(
    create_database: CreateDatabase, platform: Platform
) -> None:
    settings = DatabaseSettings(await create_database("template0"))
    await platform.create(settings.dsn)
    await migrate(settings)
    await require_statements(settings)
