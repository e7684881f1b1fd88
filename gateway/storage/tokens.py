"""Workspaces' tokens, kept as SHA-256 and compared in constant time."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.errors import UnknownWorkspace
from gateway.core.workspaces import REMOVED_STATUS
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys


def holds_token(token_sha256: bytes | None, live: Sequence[bytes]) -> bool:
    """Whether the token is among the live ones, compared in constant time."""
    if token_sha256 is None:
        return False
    matches = [hmac.compare_digest(token_sha256, each) for each in live]
    return any(matches)


async def read_live_tokens(
    connection: Connection, keys: Sequence[str]
) -> dict[str, Sequence[bytes]]:
    """The SHA-256 of the live tokens of each workspace that exists and is not removed."""
    rows = await connection.fetch(query("live_tokens"), keys)
    return {
        row["workspace_id"]: row["token_sha256s"] for row in rows if row["status"] != REMOVED_STATUS
    }


@dataclass(frozen=True, slots=True)
class Tokens:
    """Looks tokens up. Raises StorageUnavailable."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def live(self, workspace_id: str) -> Sequence[bytes]:
        """The SHA-256 of the workspace's live tokens. Raises UnknownWorkspace."""
        key = self.keys.existing(workspace_id)
        live = await self.connections.run(
            lambda connection: read_live_tokens(connection, [key]), self.timeout_s
        )
        if key not in live:
            raise UnknownWorkspace
        return live[key]

    async def is_held(self, token_sha256: bytes) -> bool:
        """Whether this is a live token of any workspace."""
        return bool(
            await self.connections.run(
                lambda connection: connection.fetchval(query("token_holder"), token_sha256),
                self.timeout_s,
            )
        )
