"""What a request's head may hold, beyond what the parser already checks (RFC 9112).

What two servers can read differently is refused: a request that ends at one byte here and at
another at the agent hides a second one.
"""

import ipaddress
import re
from collections.abc import Sequence

from gateway.core.errors import BadRequest, CodingNotImplemented, VersionNotSupported

Version = tuple[int, int]
Fields = Sequence[tuple[bytes, bytes]]

HTTP_1_0 = (1, 0)
HTTP_1_1 = (1, 1)

PORT_MAX = 65_535

# Narrower than RFC 3986's reg-name: no host has percent escapes or "!$&'()*+,;=" in its name, and
# agents' addresses are told to callers with this one in them.
_HOST = re.compile(
    r"([A-Za-z0-9._~-]+|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{0,5}))?", re.ASCII
)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_head(version: Version, fields: Fields) -> None:
    """Return if both sides read this head alike, else raise what it is refused with."""
    if version not in (HTTP_1_0, HTTP_1_1):
        raise VersionNotSupported("The gateway speaks HTTP/1.1 and HTTP/1.0.")
    # All at once: a tab between two values changes nothing that is looked for.
    if not is_field_value(b"\t".join([value for _, value in fields])):
        raise BadRequest("A header field holds bytes that are no text in UTF-8.")
    _check_host(version, _values(fields, b"host"))
    _check_coding(version, _values(fields, b"transfer-encoding"))


def is_field_value(value: bytes) -> bool:
    """Whether a field's value is text in UTF-8 without control characters (RFC 9110 section 5.5).

    Other bytes are valid there, but servers drop, replace or decode them each in its own way.
    """
    if _CONTROL.search(value):
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_host(value: bytes) -> bool:
    """Whether this is a host, maybe with a port, and nothing else (RFC 9110 section 7.2)."""
    match = _HOST.fullmatch(value.decode("latin-1"))
    if match is None or int(match["port"] or 0) > PORT_MAX:
        return False
    return match["ipv6"] is None or _is_ipv6(match["ipv6"])


def _is_ipv6(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _check_host(version: Version, hosts: list[bytes]) -> None:
    """RFC 9112 section 3.2: exactly one, and valid; HTTP/1.0 did not know it yet."""
    if not hosts and version == HTTP_1_0:
        return
    if len(hosts) != 1 or not is_host(hosts[0]):
        raise BadRequest("The request must name one valid host.")


def _check_coding(version: Version, codings: list[bytes]) -> None:
    """RFC 9112 section 6.1: chunked and no other coding; in HTTP/1.0 the framing is faulty."""
    if not codings:
        return
    if version == HTTP_1_0:
        raise BadRequest("A body in HTTP/1.0 has a Content-Length and no Transfer-Encoding.")
    if len(codings) != 1 or codings[0].lower() != b"chunked":
        raise CodingNotImplemented("The only transfer coding here is chunked.")


def _values(fields: Fields, name: bytes) -> list[bytes]:
    length = len(name)
    return [value for each, value in fields if len(each) == length and each.lower() == name]
