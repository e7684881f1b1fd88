"""A database on several hosts, of which one takes writes: the first that answers and fits is taken.

The driver asks one host after another and waits for each. A host that died with its machine does
not even refuse, and the time to connect would be over before the new primary is asked.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

# How long a host is waited for before the next one is asked as well.
HEAD_START_S = 0.1

# Scheme, authority, path, query, fragment (RFC 3986 appendix B). Not urlsplit: newer patch levels
# of Python accept an IPv6 address only as the first host.
DSN_PARTS = re.compile(r"([^:/?#]+://)([^/?#]*)([^?#]*)(?:\?([^#]*))?(.*)", re.DOTALL)


class _Terminable(Protocol):
    def terminate(self) -> None: ...


Found = TypeVar("Found", bound=_Terminable)
Attempt = Callable[[], Coroutine[Any, Any, Found]]


def each_host(dsn: str) -> list[str]:
    """A DSN for each host that this one names, in its order."""
    if (dsn_parts := DSN_PARTS.fullmatch(dsn.strip())) is None:
        return [dsn]
    scheme, authority, path, query, fragment = dsn_parts.groups(default="")
    login, at, netloc = authority.rpartition("@")
    if "," in netloc:
        rest = dsn_parts[0][dsn_parts.end(2) :]
        return [f"{scheme}{login}{at}{host}{rest}" for host in netloc.split(",")]
    fields = dict(parse_qsl(query))
    addresses = [] if netloc else _addresses(fields)
    return [
        f"{scheme}{authority}{path}?{urlencode(fields | address)}{fragment}"
        for address in addresses
    ] or [dsn]


def _addresses(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """Host and port of each host that a query names, if there are several."""
    hosts, ports = fields.get("host", "").split(","), fields.get("port", "5432").split(",")
    # Where ports do not match, the driver finds the words for it.
    if len(hosts) == 1 or len(ports) not in (1, len(hosts)):
        return []
    if len(ports) == 1:
        ports *= len(hosts)
    return [{"host": host, "port": port} for host, port in zip(hosts, ports, strict=True)]


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
