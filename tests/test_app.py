"""The application's services: opened together, and closed whatever happens."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.app import create_app, open_services
from gateway.config import load_config
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.web.services import SERVICES
from gateway.web.upstream import Upstream
from tests.running import until


async def test_services_are_closed_when_a_later_one_cannot_be_opened(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Upstream) -> None:
        raise RuntimeError("cannot be opened")

    monkeypatch.setattr(Upstream, "__aenter__", fail)
    app = create_app(load_config(None, {"GATEWAY_DATABASE__DSN": dsn}), WorkspaceKeys("text"))
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="cannot be opened"):
        async with asynccontextmanager(open_services)(app, is_database_away=False):
            pass
    assert app[SERVICES].gate.open_count == 0
    await until(lambda: asyncio.all_tasks() == before)
