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


async def resolve(origin: Origin, allowed: Sequence[Network]) -> Addresses:
    """The addresses of an agent at which it may live, never empty.

    Raises BadGateway if there is none, and OSError if the name cannot be resolved.
    """
    found = await _look_up(origin)
    usable = [each for each in found if is_allowed(read_address(str(each[4][0])), allowed)]
    if not usable:
        raise BadGateway("The agent's address is not in a network that agents may live in.")
    return usable


async def _look_up(origin: Origin) -> Addresses:
    kind = socket.SOCK_STREAM
    try:
        # Asked first, because a look-up of a name costs a thread.
        return socket.getaddrinfo(origin.host, origin.port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(origin.host, origin.port, type=kind)
