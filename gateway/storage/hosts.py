"""A database on several hosts, of which one takes writes: the first that answers and fits is taken.

The driver asks one host after another and waits for each. A host that died with its machine does
not even refuse, and the time to connect would be over before the new primary is asked.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

# How long a host is waited for before the next one is asked as well.
HEAD_START_S = 0.1


class _Terminable(Protocol):
    def terminate(self) -> None: ...


Found = TypeVar("Found", bound=_Terminable)
Attempt = Callable[[], Coroutine[Any, Any, Found]]


def each_host(dsn: str) -> list[str]:
    """A DSN for each host that this one names, in its order."""
    parts = urlsplit(dsn)
    login, at, netloc = parts.netloc.rpartition("@")
    fields = dict(parse_qsl(parts.query))
    if "," in netloc:
        return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in netloc.split(",")]
    hosts, ports = fields.get("host", "").split(","), fields.get("port", "5432").split(",")
    # Where ports do not match, the driver finds the words for it.
    if netloc or len(hosts) == 1 or len(ports) not in (1, len(hosts)):
        return [dsn]
    if len(ports) == 1:
        ports *= len(hosts)
    addresses = [{"host": host, "port": port} for host, port in zip(hosts, ports, strict=True)]
    return [parts._replace(query=urlencode(fields | address)).geturl() for address in addresses]


async def first_connected(
    attempts: Sequence[Attempt[Found]], errors: tuple[type[Exception], ...]
) -> Found:
    """The connection of the first attempt that succeeds; each has a head start over the next.

    Raises what the last one raised if all fail; `errors` are those that an attempt may fail with.
    """
    tasks: list[asyncio.Task[Found]] = []
    winner: Found | None = None
    try:
        for attempt in attempts:
            tasks.append(asyncio.create_task(attempt()))
            is_last = len(tasks) == len(attempts)
            winner = await _first_success(tasks, errors, None if is_last else HEAD_START_S)
            if winner is not None:
                return winner
        return tasks[-1].result()
    finally:
        await _end_others(tasks, winner)


async def _first_success(
    tasks: Sequence[asyncio.Task[Found]],
    errors: tuple[type[Exception], ...],
    timeout_s: float | None,
) -> Found | None:
    """None if all failed, or none has succeeded in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for task in asyncio.as_completed(tasks):
                with suppress(*errors):
                    return await task
    return None


async def _end_others(tasks: Sequence[asyncio.Task[Found]], winner: Found | None) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None and task.result() is not winner:
            task.result().terminate()
