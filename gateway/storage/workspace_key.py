"""A workspace's id as the database wants it: text on a database of ours, UUID on the platform's."""

import re
from dataclasses import dataclass

from gateway.core.errors import BadRequest, StorageUnavailable, UnknownWorkspace
from gateway.storage.database import Connection, DatabaseSettings
from gateway.storage.queries import query
from gateway.storage.session import LOOK_TIMEOUT_S, session

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(slots=True)
class WorkspaceKeys:
    """Turns ids from outside into keys; `id_type` is the type of `workspaces.id`.

    It is None in a process that started while the database was away and found no snapshot, until
    the first connection. Then no id can be turned into a key: StorageUnavailable.
    """

    id_type: str | None

    async def learn(self, connection: Connection) -> None:
        """Ask the database for the type. Raises what the driver raises."""
        self.id_type = await connection.fetchval(query("workspace_id_type"))

    def existing(self, workspace_id: str) -> str:
        """The key of a workspace that may exist. Raises UnknownWorkspace if none can."""
        key = self._canonical(workspace_id)
        if key is None:
            raise UnknownWorkspace
        return key

    def new(self, workspace_id: str) -> str:
        """The key for a workspace to create. Raises BadRequest if the database cannot hold it."""
        key = self._canonical(workspace_id)
        if key is None:
            raise BadRequest("id must be a UUID in this database.")
        return key

    def _canonical(self, workspace_id: str) -> str | None:
        if self.id_type is None:
            raise StorageUnavailable("cold")
        if self.id_type != "uuid":
            return workspace_id
        key = workspace_id.lower()
        return key if _UUID.fullmatch(key) else None


async def read_workspace_keys(settings: DatabaseSettings) -> WorkspaceKeys:
    """How the migrated database names workspaces."""
    async with session(settings, LOOK_TIMEOUT_S) as connection:
        return WorkspaceKeys(await connection.fetchval(query("workspace_id_type")))
