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

# An IPv4 address behind a translator (RFC 6052 section 2.1): its last 32 bits.
_NAT64 = IPv6Network("64:ff9b::/96")

# Whatever is configured, ::/0 too.
_NEVER_ALLOWED = (
    "0.0.0.0/8",  # this network: the kernel connects to this machine
    "224.0.0.0/4",  # multicast
    "ff00::/8",
    "240.0.0.0/4",  # reserved, and broadcast
    "192.0.2.0/24",  # documentation (RFC 5737, RFC 3849, RFC 9637)
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:db8::/32",
    "3fff::/20",
    # Clouds keep the metadata of their machines, credentials among them, at link-local addresses,
    # and at these, which lie within ranges that may be allowed.
    "169.254.0.0/16",
    "fe80::/10",
    "100.100.100.200/32",  # Alibaba
    "fd00:100::100:200/128",
    "fd00:a9fe:a9fe::1/128",  # Akamai
    "fd00:ec2::/32",  # AWS
    "168.63.129.16/32",  # Azure
    "fd20:ce::254/128",  # Google
    "192.0.0.192/32",  # Oracle
    "fd00:c1::a9fe:a9fe/128",
    "fd00:42::42/128",  # Scaleway
    # IPv4 addresses in disguise. IPv4-translated, 6to4 and Teredo are obsolete; where the address
    # stands behind a local NAT64 prefix (RFC 8215) is each network's own affair.
    "::ffff:0:0:0/96",
    "2002::/16",
    "2001::/32",
    "64:ff9b:1::/48",
)
# IPv4-compatible addresses, obsolete as well, and the unspecified one among them: all but loopback
# (RFC 4291 section 2.5.5.1).
_NOT_LOOPBACK = IPv6Network("::/96").address_exclude(IPv6Network("::1"))

NEVER_ALLOWED = (*map(ip_network, _NEVER_ALLOWED), *_NOT_LOOPBACK)


def read_address(text: str) -> Address:
    """An address, IPv4 unwrapped from IPv6 where it is mapped. Raises ValueError."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether an agent may be reached at this address; behind NAT64, both addresses count."""
    if address in _NAT64 and not is_allowed(IPv4Address(address.packed[-4:]), allowed):
        return False
    return is_in(address, allowed) and not is_in(address, NEVER_ALLOWED)


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks)
