"""What every refusal of a request looks like, whatever was wrong with it."""

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from tests.raw import Message, RawConnection, connect
from tests.running import Gateway, run_gateway

# Stands in what is sent wherever text fits, and must stand in no answer.
MARK = "zebra"


async def refusal(gateway: Gateway, sent: bytes) -> Message:
    """Send it on a connection of its own, and give its refusal."""
    async with connect(gateway.url) as connection:
        return await receive_refusal(connection.send(sent))


async def receive_refusal(connection: RawConnection) -> Message:
    """The one answer, which must be a problem document and the end of the connection."""
    answer = await connection.receive_message()
    await connection.ended()
    assert connection.unread == b""
    assert not connection.was_reset
    assert answer.values("Content-Type") == ["application/problem+json"]
    assert answer.values("Cache-Control") == ["no-store"]
    assert answer.values("Connection") == ["close"]
    problem = json.loads(answer.body)
    assert problem.keys() == {"type", "title", "status", "detail", "error"}
    assert problem["status"] == answer.status
    assert problem["error"] == problem["detail"]
    assert MARK not in repr(answer)
    return answer


def beside(
    gateway: Gateway, environment: Mapping[str, str]
) -> AbstractAsyncContextManager[Gateway]:
    """Another gateway on the same database, configured otherwise."""
    dsn = gateway.services.config.database.dsn
    assert dsn is not None
    return run_gateway(dsn.get_secret_value(), environment)
