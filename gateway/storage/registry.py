"""Workspaces and their tokens: registration, listing, removal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.core.errors import Conflict, Unauthorized, UnknownWorkspace
from gateway.core.forecast import RECENT_PART
from gateway.core.periods import Period
from gateway.core.workspaces import REMOVED_STATUS, Liveness, Registration, Workspace
from gateway.storage.budgets import (
    PERIOD_LENGTHS,
    PERIOD_NAMES,
    WorkspaceBudget,
    read_budgets,
)
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.slices import Slices
from gateway.storage.tokens import holds_token
from gateway.storage.workspace_key import WorkspaceKeys

HISTORY_BUCKETS = 60


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks to register: an operator, the holder of a token (its SHA-256), or nobody known."""

    token_sha256: bytes | None = None
    is_operator: bool = False
    # Operators need no token here, so that anybody may bring a removed workspace back. A live
    # token is needed all the same.
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which workspaces to list: sorted by spend in `period` or `span` if given, else by the column.

    `used` sorts by the largest part of a limit that is spent, `fullness` by how soon the first
    limit is reached at the present rate, as if nothing left a window meanwhile.
    """

    sort: str = "spend"
    period: Period | None = None
    is_descending: bool = True
    search: str | None = None
    limit: int = 50
    offset: int = 0
    span: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ListedWorkspace:
    """A workspace with its budget."""

    workspace: Workspace
    budget: WorkspaceBudget


@dataclass(frozen=True, slots=True)
class SpendBucket:
    """What was spent in one of the equal parts of a window."""

    starts_at: datetime
    spend_cents: int


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """How much the ledger holds, on all workspaces together."""

    rows_estimate: float
    size_bytes: float


@dataclass(frozen=True, slots=True)
class Registry:
    """The workspaces as agents and operators change and see them."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def register(
        self, registration: Registration, credentials: Credentials, new_token_sha256: bytes
    ) -> bool:
        """Create or move a workspace; True if `new_token_sha256` is now its token.

        A workspace with a live token is moved only by it or by an operator; a removed one only by
        an operator. One without any token (from before there were tokens) gets its first here.
        Raises Unauthorized, BadRequest, Conflict and StorageUnavailable.
        """
        key = self.keys.new(registration.workspace_id)

        async def operation(connection: Connection) -> bool:
            async with connection.transaction():
                return await _register(connection, key, registration, credentials, new_token_sha256)

        return await self.connections.run(operation, self.timeout_s)

    async def page(self, request: PageRequest) -> tuple[list[ListedWorkspace], int]:
        """One page of workspaces in order, and how many match in all."""

        async def operation(connection: Connection) -> tuple[list[ListedWorkspace], int]:
            count = await connection.fetchval(query("workspace_count"), request.search)
            return await _read(connection, await _page_ids(connection, request)), count

        return await self.connections.run(operation, self.timeout_s)

    async def count(self) -> int:
        """How many workspaces there are."""
        count: int = await self.connections.run(
            lambda connection: connection.fetchval(query("workspace_count"), None), self.timeout_s
        )
        return count

    async def one(self, workspace_id: str) -> ListedWorkspace:
        """One workspace. Raises UnknownWorkspace."""
        found = await self.several([workspace_id])
        if not found:
            raise UnknownWorkspace
        return found[0]

    async def several(self, workspace_ids: Sequence[str]) -> list[ListedWorkspace]:
        """Those of the workspaces that exist, in the asked order."""
        keys = [self.keys.existing(workspace_id) for workspace_id in workspace_ids]
        return await self.connections.run(
            lambda connection: _read(connection, keys), self.timeout_s
        )

    async def registered_card(self, workspace_id: str) -> Mapping[str, object] | None:
        """The agent card that came with the registration; None if there is none."""
        key = self.keys.existing(workspace_id)
        card = await self.connections.run(
            lambda connection: connection.fetchval(query("workspace_card"), key), self.timeout_s
        )
        # The column takes any JSON, and the platform's rows were not checked here.
        return card if isinstance(card, dict) else None

    async def remove(self, workspace_id: str) -> None:
        """Soft-remove a workspace and revoke its tokens. Raises UnknownWorkspace."""
        key = self.keys.existing(workspace_id)

        async def operation(connection: Connection) -> None:
            async with connection.transaction():
                if await connection.fetchrow(query("workspace_remove"), key) is None:
                    raise UnknownWorkspace
                await connection.execute(query("tokens_revoke"), key)

        await self.connections.run(operation, self.timeout_s)

    async def history(self, workspace_id: str, period: Period) -> list[SpendBucket]:
        """The period's window in equal buckets, oldest first. Raises UnknownWorkspace."""
        key = self.keys.existing(workspace_id)
        rows = await self.connections.run(
            lambda connection: connection.fetch(
                query("spend_history"), key, period.length, HISTORY_BUCKETS
            ),
            self.timeout_s,
        )
        if not rows:
            raise UnknownWorkspace
        return [SpendBucket(row["starts_at"], row["spend_cents"]) for row in rows]

    async def ledger_size(self) -> LedgerSize:
        """How large the ledger is. Raises StorageUnavailable."""
        row = await self.connections.run(
            lambda connection: connection.fetchrow(query("ledger_size")), self.timeout_s
        )
        assert row is not None  # noqa: S101 - the table is the migration's
        return LedgerSize(row["rows_estimate"], row["size_bytes"])


async def _page_ids(connection: Connection, request: PageRequest) -> list[str]:
    part = (request.search, request.limit, request.offset, PERIOD_NAMES, PERIOD_LENGTHS)
    if request.sort == "fullness":
        rows = await connection.fetch(
            query("workspaces_by_fullness"), request.is_descending, *part, RECENT_PART
        )
    else:
        length = request.period.length if request.period else request.span or timedelta(0)
        rows = await connection.fetch(
            query("workspace_page"), request.sort, request.is_descending, length, *part
        )
    return [row["workspace_id"] for row in rows]


async def _register(
    connection: Connection,
    key: str,
    registration: Registration,
    credentials: Credentials,
    new_token_sha256: bytes,
) -> bool:
    is_new = await _add(connection, key, registration)
    has_token = not is_new and await _move(connection, key, registration, credentials)
    if not has_token:
        await connection.execute(query("token_add"), key, new_token_sha256)
    return not has_token


async def _add(connection: Connection, key: str, registration: Registration) -> bool:
    name = (registration.agent_card or {}).get("name")
    try:
        row = await connection.fetchrow(
            query("workspace_add"),
            key,
            name if isinstance(name, str) and name else registration.workspace_id,
            registration.url,
            registration.agent_card,
        )
    except asyncpg.NotNullViolationError as error:
        raise Conflict(
            "This database's workspaces need a value that only the platform knows; "
            "create the workspace there first."
        ) from error
    return row is not None


async def _move(
    connection: Connection, key: str, registration: Registration, credentials: Credentials
) -> bool:
    """Update an existing workspace; whether it has a live token already."""
    await connection.fetchrow(query("workspaces_lock"), [key])
    row = await connection.fetchrow(query("live_tokens"), [key])
    assert row is not None  # noqa: S101 - the row exists, or it would have been created
    live, is_removed = list(row["token_sha256s"]), row["status"] == REMOVED_STATUS
    is_first_token = not live and (credentials.is_open or not is_removed)
    holds = holds_token(credentials.token_sha256, live)
    if not (credentials.is_operator or holds or is_first_token):
        raise Unauthorized("This workspace exists; registering it again needs its token.")
    if is_removed:
        await connection.execute(query("workspace_restore"), key)
    await connection.execute(
        query("workspace_move"), key, registration.url, registration.agent_card
    )
    return bool(live)


async def _read(connection: Connection, keys: list[str]) -> list[ListedWorkspace]:
    budgets, slices = await read_budgets(connection, keys), Slices()
    found: dict[str, ListedWorkspace] = {}
    for row in await connection.fetch(query("workspaces_by_id"), keys):
        key = row["workspace_id"]
        if key in budgets:
            found[key] = ListedWorkspace(_workspace(row), budgets[key])
        await slices.pause()
    return [found[key] for key in keys if key in found]


def _workspace(row: asyncpg.Record) -> Workspace:
    liveness = Liveness(
        row["uptime_seconds"],
        row["active_tasks"],
        row["current_task"],
        row["error_rate"],
        row["sample_error"],
        row["runtime_state"],
        row["runtime_metadata"],
    )
    return Workspace(
        row["workspace_id"],
        row["name"],
        row["status"],
        row["url"],
        row["last_heartbeat_at"],
        liveness,
    )
