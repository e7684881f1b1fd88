"""The way of a call: what a proxy adds to tell the agent who called and through whom.

`Via` is RFC 9110 section 7.6.3, `Forwarded` RFC 7239; the X-Forwarded fields were never written
down, but are what most agents read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.networks import Network, is_in, read_address

Fields = Sequence[tuple[str, str]]

# What a caller says of the way is the gateway's to say.
ABOUT_THE_WAY = frozenset(
    {"via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
)

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Hop:
    """The last hop of a call, from whoever opened the connection to us.

    `is_trusted`: the peer is a proxy of ours, so that what it says of the hops before counts.
    """

    peer: str
    scheme: str
    host: str
    http_version: str
    is_trusted: bool


def has_passed(received: Fields, name: str) -> bool:
    """Whether a gateway of this name forwarded the call before: a registered URL leads back."""
    entries = (entry.split() for entry in _listed(received, "via"))
    return any(len(entry) > 1 and entry[1].lower() == name.lower() for entry in entries)


def fields_of_the_way(received: Fields, hop: Hop, name: str) -> list[tuple[str, str]]:
    """The fields that take the place of those in ABOUT_THE_WAY.

    `Via` keeps what others said. The others are what we saw ourselves; only what a trusted proxy
    said stands before it.
    """
    via = ", ".join([*_listed(received, "via"), f"{hop.http_version} {name}"])
    if not hop.is_trusted:
        return [
            ("Via", via),
            ("X-Forwarded-For", hop.peer),
            ("X-Forwarded-Proto", hop.scheme),
            ("X-Forwarded-Host", hop.host),
            ("Forwarded", _forwarded(hop)),
        ]
    origin = public_origin(received, hop)
    return [
        ("Via", via),
        ("X-Forwarded-For", ", ".join([*_listed(received, "x-forwarded-for"), hop.peer])),
        ("X-Forwarded-Proto", origin.scheme),
        ("X-Forwarded-Host", origin.host),
        ("Forwarded", ", ".join([*_listed(received, "forwarded"), _forwarded(hop)])),
    ]


@dataclass(frozen=True, slots=True)
class PublicOrigin:
    """How the caller reached us: the scheme and the host it used."""

    scheme: str
    host: str


def public_origin(received: Fields, hop: Hop) -> PublicOrigin:
    """The scheme and host that the caller used, before any trusted proxy."""
    if not hop.is_trusted:
        return PublicOrigin(hop.scheme, hop.host)
    # The first one: that of the proxy that stands farthest out.
    schemes = [each.lower() for each in _listed(received, "x-forwarded-proto")]
    hosts = _listed(received, "x-forwarded-host")
    scheme = schemes[0] if schemes and schemes[0] in ("http", "https") else hop.scheme
    host = hosts[0] if hosts and _HOST.fullmatch(hosts[0]) else hop.host
    return PublicOrigin(scheme, host)


def caller_address(received: Fields, peer: str, trusted: Sequence[Network]) -> str:
    """Whose address the call came from, as far as trusted proxies say it one after another.

    Each says who opened the connection to it. What stands before the first that is not trusted, or
    is no address, anybody may have written.
    """
    nearest = peer
    for named in reversed(_listed(received, "x-forwarded-for")):
        if not _is_trusted(nearest, trusted) or not _is_address(named):
            break
        nearest = named
    return nearest


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    return _is_address(address) and is_in(read_address(address), trusted)


def _is_address(text: str) -> bool:
    try:
        read_address(text)
    except ValueError:
        return False
    return True


def _forwarded(hop: Hop) -> str:
    """One element of `Forwarded`; what holds a colon must be quoted (RFC 7239 section 4)."""
    peer = f'"[{hop.peer}]"' if ":" in hop.peer else hop.peer
    return f'for={peer};host="{hop.host}";proto={hop.scheme}'


def _listed(fields: Fields, name: str) -> list[str]:
    """The members of a list that may be spread over several fields (RFC 9110 section 5.3)."""
    length = len(name)
    values = [value for field, value in fields if len(field) == length and field.lower() == name]
    if not values:
        return values
    return [member.strip() for value in values for member in value.split(",") if member.strip()]
