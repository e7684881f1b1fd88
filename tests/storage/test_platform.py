"""The gateway on the platform's database: UUID ids, what was spent before, and what is new."""

from datetime import timedelta

import pytest
import pytest_asyncio

from gateway.core.errors import BadRequest, UnknownWorkspace
from gateway.core.periods import LEGACY_PERIOD
from gateway.core.workspaces import Liveness
from gateway.storage.budgets import read_budgets
from gateway.storage.database import Connections, DatabaseSettings, connect
from gateway.storage.ledger import Booking, Heartbeat, Ledger
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys
from tests.conftest import CreateDatabase
from tests.running import Agent, run_gateway
from tests.storage.platform import ALL, BLOCKED, IDLE, PLATFORMS, REMOVED, UNLIMITED, Platform

LEGACY = LEGACY_PERIOD.name
NEW = "0b1d2f34-0000-4000-8000-0000000000ff"


@pytest_asyncio.fixture(params=PLATFORMS, ids=lambda platform: platform.name)
async def migrated(
    create_database: CreateDatabase, request: pytest.FixtureRequest
) -> DatabaseSettings:
    """The platform's database, migrated."""
    settings = DatabaseSettings(await create_database("template0"))
    platform: Platform = request.param
    await platform.create(settings.dsn)
    await migrate(settings)
    return settings


async def beat(settings: DatabaseSettings, workspace_id: str, cents: int) -> Booking:
    keys = await read_workspace_keys(settings)
    async with Connections(settings, 1) as connections:
        heartbeat = Heartbeat(workspace_id, cents, "", "", Liveness(60, 1))
        return await Ledger(connections, keys, timeout_s=10).record(heartbeat)


async def test_workspace_over_its_budget_stays_blocked(migrated: DatabaseSettings) -> None:
    connection = await connect(migrated)
    opened_at = await connection.fetchval("SELECT min(occurred_at) FROM workspace_spend_events")
    # On the last day of a long month the opening row has left a window of 30 days.
    budgets = await read_budgets(connection, list(ALL), opened_at + timedelta(days=29))
    await connection.close()
    exceeded = {
        key: [window.period.name for window in found.budget.exceeded]
        for key, found in budgets.items()
    }
    # The idle one has a limit of 0, which blocks; the removed one is not there.
    assert exceeded == {BLOCKED: [LEGACY], UNLIMITED: [], IDLE: [LEGACY]}
    assert budgets[BLOCKED].budget.windows[-1].spend_cents == 5200
    assert budgets[BLOCKED].agent_url == "http://a"


async def test_first_heartbeat_books_only_what_is_new(migrated: DatabaseSettings) -> None:
    assert (await beat(migrated, BLOCKED, 5200)).amount_cents == 0
    assert (await beat(migrated, BLOCKED.upper(), 5230)).amount_cents == 30
    assert (await beat(migrated, IDLE, 12)).amount_cents == 12
    connection = await connect(migrated)
    row = await connection.fetchrow(
        "SELECT monthly_spend, active_tasks FROM workspaces WHERE monthly_spend > 5000"
    )
    await connection.close()
    assert row is not None
    assert tuple(row) == (5230, 1)


@pytest.mark.parametrize("workspace_id", [REMOVED, NEW, "reno-stars"])
async def test_heartbeat_of_a_workspace_that_is_not_there_is_refused(
    migrated: DatabaseSettings, workspace_id: str
) -> None:
    with pytest.raises(UnknownWorkspace):
        await beat(migrated, workspace_id, 1)


def test_only_uuids_are_ids() -> None:
    keys = WorkspaceKeys("uuid")
    assert keys.existing(BLOCKED.upper()) == keys.new(BLOCKED) == BLOCKED
    # PostgreSQL would read the second and third; one workspace must not have several names here.
    for not_one in ("reno-stars", BLOCKED.replace("-", ""), f"{{{BLOCKED}}}", BLOCKED + "0"):
        with pytest.raises(UnknownWorkspace):
            keys.existing(not_one)
        with pytest.raises(BadRequest):
            keys.new(not_one)


async def test_agents_register_and_are_called(migrated: DatabaseSettings, agent: Agent) -> None:
    async with run_gateway(migrated.dsn) as gateway:
        for workspace_id in (NEW, UNLIMITED):  # one that is new, and one from before
            token = await gateway.register(workspace_id, agent.url)
            await gateway.limit(workspace_id, hourly=100)
            assert (await gateway.json("POST", f"/workspaces/{workspace_id}/a2a", {}))[0] == 200
            budget = await gateway.spend(workspace_id, 270, token)
            assert budget["periods"]["hourly"]["exceeded"]
            assert (await gateway.json("POST", f"/workspaces/{workspace_id}/a2a", {}))[0] == 402
        assert budget["periods"]["hourly"]["spend"] == 200  # 70 were spent before
        status, page = await gateway.json("GET", "/workspaces")
        assert (status, len(page["workspaces"])) == (200, 4)
        assert (await gateway.json("DELETE", f"/workspaces/{NEW}"))[0] == 204
        assert (await gateway.json("GET", f"/workspaces/{NEW}"))[0] == 404


async def test_ids_that_are_no_uuids_are_unknown_and_cannot_be_registered(
    migrated: DatabaseSettings, agent: Agent
) -> None:
    async with run_gateway(migrated.dsn) as gateway:
        for path in ("", "/budget", "/a2a", "/spend"):
            assert (await gateway.json("GET", f"/workspaces/reno-stars{path}"))[0] == 404
        beat = {"workspace_id": "reno-stars", "monthly_spend": 1}
        assert (await gateway.json("POST", "/registry/heartbeat", beat))[0] == 404
        body = {"id": "reno-stars", "url": agent.url}
        status, problem = await gateway.json("POST", "/registry/register", body)
        assert (status, problem["detail"]) == (400, "id must be a UUID in this database.")
