"""Where an agent listens: the parts of its URL, and the addresses behind its name.

The address of the connection decides whether an agent may live there, not its name: a name may
have changed its addresses since the agent registered (DNS rebinding).
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.core.errors import BadGateway
from gateway.core.networks import Network, is_allowed, read_address

# What core.target.AgentUrl can be, with the tail and the query of a call behind it.
_URL = re.compile(
    r"(?=[!-~]+\Z)(?P<scheme>https?)://"
    r"(?P<authority>(?P<host>[a-z0-9._~-]+|\[[0-9a-f.:]+\])(?::(?P<port>[0-9]{1,5}))?)"
    r"(?P<path>(?:/[^?#]*)?)(?P<query>(?:\?[^#]*)?)",
    re.ASCII | re.IGNORECASE,
)

# As getaddrinfo gives them, and as connections are made to them.
Addresses = Sequence[tuple[int, int, int, str, Any]]


@dataclass(frozen=True, slots=True)
class Origin:
    """What connections are kept for."""

    is_tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a request goes: whom to connect to, and what to put into the request."""

    origin: Origin
    authority: str
    target: str


@lru_cache(maxsize=1024)
def read_destination(url: str) -> Destination:
    """The parts of a URL. Raises BadGateway for one that a connection cannot be made from."""
    match = _URL.fullmatch(url)
    if match is None:
        raise BadGateway("The agent's URL cannot be called.")
    is_tls = match["scheme"].lower() == "https"
    origin = Origin(
        is_tls, match["host"].strip("[]"), int(match["port"] or (443 if is_tls else 80))
    )
    return Destination(origin, match["authority"], (match["path"] or "/") + match["query"])


class Resolver:
    """Finds the addresses behind agents' names, one look-up at a time for each.

    A look-up takes a thread, for many seconds if the name server is silent: calls to one such
    agent would take all threads, and no other new agent could be connected to.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._under_way: dict[Origin, asyncio.Task[Addresses]] = {}

    async def resolve(self, origin: Origin) -> Addresses:
        """The addresses of an agent at which it may live, never empty.

        Raises BadGateway if there is none, and OSError if the name cannot be resolved.
        """
        found = _read_numeric(origin) or await self._look_up(origin)
        usable = [
            each for each in found if is_allowed(read_address(str(each[4][0])), self._allowed)
        ]
        if not usable:
            raise BadGateway("The agent's address is not in a network that agents may live in.")
        return usable

    async def _look_up(self, origin: Origin) -> Addresses:
        look_up = self._under_way.get(origin)
        if look_up is None:
            look_up = self._under_way[origin] = asyncio.create_task(_ask_system(origin))
            look_up.add_done_callback(lambda _: self._under_way.pop(origin))
        # Shielded, because calls share it: one that leaves must not take it away.
        return await asyncio.shield(look_up)


def _read_numeric(origin: Origin) -> Addresses:
    """The address that the host is, empty for a name: no thread is needed to read it."""
    numeric = socket.AI_NUMERICHOST
    try:
        return socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=numeric)
    except socket.gaierror:
        return ()


async def _ask_system(origin: Origin) -> Addresses:
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
