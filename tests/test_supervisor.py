"""The supervisor, as far as it can be seen from inside."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.config import load_config
from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.supervisor import _run, snapshot_path
from gateway.worker_process import WorkerCommand
from gateway.workers import Workers

DSN = "postgresql://x@localhost/x"


def test_snapshot_of_a_user_without_a_home_is_kept_as_long_as_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    # Nobody has this number.
    for function in ("getuid", "geteuid"):
        monkeypatch.setattr(os, function, lambda: 54321)
    config = load_config(None, {"GATEWAY_DATABASE__DSN": DSN})
    with capture_logs() as lines:
        path = snapshot_path(config, DatabaseSettings(DSN), tmp_path)
    assert path.parent == tmp_path
    assert [line["event"] for line in lines] == ["snapshot_not_kept"]


class FailingWorkers(Workers):
    """Workers with a mistake in one of their tasks."""

    async def _keep(self, slot: object) -> None:
        self.is_serving.set()
        if isinstance(slot, FailingSlot):
            raise RuntimeError("keeping failed")
        await self.stop.wait()

    async def replace(self) -> None:
        raise RuntimeError("replacing failed")


class FailingSlot:
    """The place of a worker that cannot be kept."""


@pytest.fixture
def workers() -> FailingWorkers:
    settings, keys = DatabaseSettings(DSN), WorkspaceKeys("text")
    command = WorkerCommand(
        None, settings, keys, socket.create_server(("127.0.0.1", 0)), "", Path()
    )
    return FailingWorkers(command, 1, asyncio.Event())


@pytest.mark.parametrize("what", ["keeping", "replacing"])
async def test_mistake_in_a_task_of_the_supervisor_ends_the_gateway_with_it(
    workers: FailingWorkers, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = asyncio.Event()
    if what == "keeping":
        monkeypatch.setattr("gateway.workers._Slot", FailingSlot)
    else:
        replace.set()
    async with asyncio.timeout(10):
        with pytest.raises(RuntimeError, match=f"{what} failed"):
            await _run(workers, replace, lambda _: None)
