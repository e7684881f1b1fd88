"""What the registry keeps of an agent: the card that it registered with."""

import asyncpg
import pytest

from gateway.core.errors import UnknownWorkspace
from gateway.core.workspaces import Registration
from gateway.storage.database import Connections
from gateway.storage.registry import Credentials, Registry
from gateway.storage.workspace_key import WorkspaceKeys

TOKEN_SHA256 = b"\1" * 32
CARD: dict[str, object] = {"name": "Reno", "url": "http://10.0.0.7:9000", "skills": []}


@pytest.fixture
def registry(connections: Connections, keys: WorkspaceKeys) -> Registry:
    """The registry on the test's database."""
    return Registry(connections, keys, timeout_s=10)


async def register(registry: Registry, card: dict[str, object] | None) -> None:
    registration = Registration("w", "http://10.0.0.7:9000", card)
    await registry.register(registration, Credentials(is_operator=True), TOKEN_SHA256)


async def test_card_is_the_one_that_came_with_the_last_registration(registry: Registry) -> None:
    await register(registry, {"name": "first"})
    await register(registry, CARD)
    assert await registry.registered_card("w") == CARD
    await register(registry, None)  # says nothing of its card
    assert await registry.registered_card("w") == CARD


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "null",
        "[]",
        '"a card"',  # stored by another hand, or by a platform that wrote text
    ],
)
async def test_what_is_no_object_is_no_card(
    registry: Registry, connection: asyncpg.Connection, stored: str | None
) -> None:
    await register(registry, None)
    await connection.execute("UPDATE workspaces SET agent_card = $1", stored)
    assert await registry.registered_card("w") is None


async def test_workspace_that_is_not_there_or_was_removed_has_no_card(registry: Registry) -> None:
    assert await registry.registered_card("w") is None
    await register(registry, CARD)
    await registry.remove("w")
    assert await registry.registered_card("w") is None


async def test_id_that_cannot_be_one_is_an_unknown_workspace(connections: Connections) -> None:
    with pytest.raises(UnknownWorkspace):
        await Registry(connections, WorkspaceKeys("uuid"), timeout_s=10).registered_card("w")
