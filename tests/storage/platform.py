"""Databases of the platform before this gateway: UUID ids, legacy columns, and foreign things."""

from dataclasses import dataclass

import asyncpg

BLOCKED = "0b1d2f34-0000-4000-8000-000000000001"
UNLIMITED = "0b1d2f34-0000-4000-8000-000000000002"
IDLE = "0b1d2f34-0000-4000-8000-000000000003"
REMOVED = "0b1d2f34-0000-4000-8000-000000000004"
ALL = (BLOCKED, UNLIMITED, IDLE, REMOVED)

_ENUM = "CREATE TYPE workspace_status AS ENUM ('provisioning', 'online', 'offline', 'removed');"

_TABLES = """
CREATE TABLE users (id uuid PRIMARY KEY, email text UNIQUE NOT NULL);
CREATE TABLE workspaces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    status {status_type} NOT NULL DEFAULT 'provisioning',
    tier integer NOT NULL DEFAULT 1,
    owner_id uuid REFERENCES users (id),
    url varchar(500),
    budget_limit bigint,
    monthly_spend bigint NOT NULL DEFAULT 0,
    uptime_seconds integer,
    active_tasks integer DEFAULT 0,
    created_at timestamptz DEFAULT now()
);
CREATE INDEX workspaces_by_status ON workspaces (status);
CREATE TABLE workspace_memories (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id uuid REFERENCES workspaces (id) ON DELETE CASCADE,
    content text
);
"""

_ROWS = f"""
INSERT INTO users VALUES ('00000000-0000-4000-8000-0000000000aa', 'owner@example.org');
INSERT INTO workspaces (id, name, status, tier, owner_id, url, budget_limit, monthly_spend) VALUES
    ('{BLOCKED}', 'Blocked', 'online', 3, '00000000-0000-4000-8000-0000000000aa', 'http://a', 5000,
     5200),
    ('{UNLIMITED}', 'Unlimited', 'online', 1, NULL, NULL, NULL, 70),
    ('{IDLE}', 'Idle', 'offline', 1, NULL, NULL, 0, 0),
    ('{REMOVED}', 'Removed', 'removed', 1, NULL, NULL, 100, 40);
INSERT INTO workspace_memories (workspace_id, content) VALUES ('{BLOCKED}', 'remembered');
"""


@dataclass(frozen=True)
class Platform:
    """One kind of platform database, told by the type of a workspace's status."""

    name: str
    status_type: str

    async def create(self, dsn: str) -> None:
        """Make the platform's tables and rows in an empty database."""
        connection = await asyncpg.connect(dsn)
        if self.status_type == "workspace_status":
            await connection.execute(_ENUM)
        await connection.execute(_TABLES.format(status_type=self.status_type))
        await connection.execute(_ROWS)
        await connection.close()


PLATFORMS = (Platform("text status", "text"), Platform("enum status", "workspace_status"))
