"""Where agents may live: decided on addresses, never on names."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# RFC 1918, RFC 4193 and loopback.
DEFAULT_ALLOWED = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
)

# Whatever is configured: this network, link-local (cloud metadata lives there), multicast,
# documentation (RFC 5737, RFC 3849) and the metadata service's address in a private range.
NEVER_ALLOWED = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "2001:db8::/32",
        "fd00:ec2::/32",
    )
)


def read_address(text: str) -> Address:
    """An address, IPv4 unwrapped from IPv6 where it is mapped. Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether an agent may be reached at this address."""
    return is_in(address, allowed) and not is_in(address, NEVER_ALLOWED)


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks if network.version == address.version)
