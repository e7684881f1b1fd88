"""The PostgreSQL of a run: one server, a database for each gateway, ledgers filled in one go."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import psutil

from gateway.core.periods import PERIODS
from gateway.storage.database import Connection, DatabaseSettings, connect

SERVER_SETTINGS = {"fsync": "off", "max_connections": "300", "max_wal_size": "4GB"}
# Far from reached: what is measured is the check, not the refusal.
LIMITS = {period.name: 10**12 for period in PERIODS}

ADD_WORKSPACES = """
INSERT INTO workspaces (id, url, budget_limits)
SELECT 'w' || n, $2, $3 FROM generate_series(1, $1::integer) AS n
"""

ADD_WORKSPACE = "INSERT INTO workspaces (id, url, budget_limits) VALUES ($1, $2, $3)"

# Spread evenly over 29 days, and each workspace's rows together, as they are in its index.
ADD_ROWS = """
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source)
SELECT 'w' || w, n, now() - interval '29 days' * (1 - n::float / $2), 1, n, 'heartbeat'
FROM generate_series(1, $1::integer) AS w, generate_series(1, $2::integer) AS n
"""


async def create_database(server_dsn: str, name: str) -> str:
    """An empty database on the server: its DSN."""
    connection = await connect(DatabaseSettings(server_dsn))
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    head, _, query = server_dsn.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{query}"


async def fill(dsn: str, agent_url: str | None, workspaces: int, rows: int) -> None:
    """Add the workspaces w1, w2, ... with so many ledger rows each."""
    connection: Connection = await connect(DatabaseSettings(dsn))
    await connection.execute(ADD_WORKSPACES, workspaces, agent_url, LIMITS)
    await connection.execute(ADD_ROWS, workspaces, rows, timeout=300)
    await connection.execute("VACUUM ANALYZE", timeout=300)
    await connection.close()


async def add_workspaces(dsn: str, urls: Mapping[str, str], limits: Mapping[str, int]) -> None:
    """Add workspaces by name, each with its agent's URL, all with the same limits."""
    connection = await connect(DatabaseSettings(dsn))
    for name, url in urls.items():
        await connection.execute(ADD_WORKSPACE, name, url, limits)
    await connection.close()


async def backends(dsn: str) -> list[int]:
    """The process ids of the server's processes that answer a database's clients."""
    connection = await connect(DatabaseSettings(dsn))
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await connection.close()
    return [row["pid"] for row in rows]


@asynccontextmanager
async def pinned_server(dsn: str, cores: Sequence[int]) -> AsyncIterator[None]:
    """The server with all its processes, those to come included, is on these cores."""
    connection = await connect(DatabaseSettings(dsn))
    main_process = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
    await connection.close()
    assert main_process is not None
    before = main_process.cpu_affinity()
    _pin(main_process, cores)
    try:
        yield
    finally:
        _pin(main_process, before)


def _pin(process: psutil.Process, cores: Sequence[int]) -> None:
    # New backends inherit it, so it comes first.
    process.cpu_affinity(list(cores))
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            child.cpu_affinity(list(cores))
