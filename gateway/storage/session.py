"""A connection for one piece of work, which nobody waits for when the work does not go on.

Closing a connection, cancelling its query and undoing its transaction all wait for the server to
answer. A server that is silent would keep whoever cancelled the work.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.storage.database import (
    DRIVER_ERRORS,
    Connection,
    DatabaseSettings,
    connect,
    terminate,
)
from gateway.storage.deadline import Deadline

# Of work that only reads a row or two.
LOOK_TIMEOUT_S = 10.0


@asynccontextmanager
async def session(
    settings: DatabaseSettings, timeout_s: float | None = None
) -> AsyncIterator[Connection]:
    """A connection for as long as the block runs, and at most for `timeout_s`; None is no limit.

    Raises TimeoutError at the deadline, and a driver error in time where none can be made. A
    transaction in the block is begun and committed by hand: `async with` would wait for a ROLLBACK,
    which the server does by itself when the connection ends.
    """
    connection = await connect(settings)
    is_late = False

    def expire() -> None:
        nonlocal is_late
        is_late = True
        terminate(connection)

    deadline = None if timeout_s is None else Deadline(timeout_s, expire)
    try:
        yield connection
        with suppress(*DRIVER_ERRORS):
            await connection.close(timeout=settings.connect_timeout_s)
    except Exception as error:
        # The driver reports its connection's end, or trips over it.
        if is_late:
            raise TimeoutError(f"The database did not answer within {timeout_s:g} s.") from error
        raise
    finally:
        if deadline is not None:
            deadline.cancel()
        terminate(connection)
