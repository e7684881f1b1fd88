"""Heartbeats that are not booked: each is one line with its cause, and a flood of them is few."""

import pytest
from structlog.testing import capture_logs

from gateway.log_limit import KEYS_MAX
from tests.running import Gateway

SECRET = "a token that nobody gave out"


async def beat(gateway: Gateway, body: object) -> int:
    status, _ = await gateway.json("POST", "/registry/heartbeat", body, SECRET)
    return status


async def failures(gateway: Gateway, *bodies: object) -> list[tuple[object, object, object]]:
    """Workspace, cause and status of the lines that these heartbeats made."""
    with capture_logs() as lines:
        for body in bodies:
            await beat(gateway, body)
    assert SECRET not in repr(lines)
    assert "current_task" not in repr(lines)
    return [
        (line["workspace_id"], line["cause"], line["status"])
        for line in lines
        if line["event"] == "heartbeat_failed"
    ]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({"workspace_id": "w"}, ("w", "Unauthorized", 401)),
        ({"workspace_id": "other"}, ("other", "UnknownWorkspace", 404)),
        ({"workspace_id": "no\nid"}, (None, "UnknownWorkspace", 404)),  # it cannot forge a line
        ({"workspace_id": 1}, (None, "BadRequest", 400)),
        ([], (None, "BadRequest", 400)),
    ],
)
async def test_heartbeat_that_fails_is_a_line_with_its_cause(
    gateway: Gateway, body: object, line: object
) -> None:
    await gateway.register("w", "http://127.0.0.1:9")
    assert await failures(gateway, body) == [line]


async def test_heartbeat_that_the_database_does_not_take_names_the_databases_cause(
    gateway: Gateway, connection: object
) -> None:
    await gateway.register("w", "http://127.0.0.1:9")
    await connection.execute("ALTER TABLE workspaces RENAME TO elsewhere")  # type: ignore[attr-defined]
    ((workspace_id, cause, status),) = await failures(gateway, {"workspace_id": "w"})
    assert (workspace_id, status) == ("w", 503)
    assert cause not in ("StorageUnavailable", "StatementFailed")


async def test_same_failure_is_one_line_and_other_workspaces_share_what_is_left(
    gateway: Gateway,
) -> None:
    same = await failures(gateway, *[{"workspace_id": "w"}] * 5)
    assert len(same) == 1
    with capture_logs() as lines:
        for number in range(3 * KEYS_MAX):
            await beat(gateway, {"workspace_id": f"w{number}"})
    assert len([line for line in lines if line["event"] == "heartbeat_failed"]) == KEYS_MAX


async def test_heartbeat_that_is_booked_is_no_line(gateway: Gateway) -> None:
    token = await gateway.register("w", "http://127.0.0.1:9")
    with capture_logs() as lines:
        await gateway.spend("w", 1, token)
    assert [line for line in lines if line["event"] == "heartbeat_failed"] == []
