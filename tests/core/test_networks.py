"""Where agents may live: which addresses, whatever they are written as."""

from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from gateway.core.networks import DEFAULT_ALLOWED, is_allowed, read_address


def may_live(text: str, allowed: Sequence[str]) -> bool:
    """Whether an agent may live at the address when these networks are configured."""
    return is_allowed(read_address(text), [ip_network(network) for network in allowed])


@pytest.mark.parametrize(
    ("text", "is_default"),
    [
        # The edges of every network.
        ("127.0.0.0", True),
        ("127.255.255.255", True),
        ("128.0.0.0", False),
        ("::1", True),
        ("::2", False),
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("172.15.255.255", False),
        ("172.16.0.0", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.167.255.255", False),
        ("192.168.0.0", True),
        ("192.168.255.255", True),
        ("192.169.0.0", False),
        ("fbff::1", False),
        ("fc00::", True),
        ("fdff:ffff::1", True),
        ("fe00::", False),
        # Allowed only where an operator says so.
        ("100.64.0.1", False),  # shared by carriers, and by Kubernetes (RFC 6598)
        ("198.18.0.1", False),  # benchmarks (RFC 2544)
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        # The kernel opens an IPv4 connection.
        ("::ffff:10.0.0.1", True),
        ("::ffff:7f00:1", True),
        ("::ffff:8.8.8.8", False),
        ("::ffff:169.254.169.254", False),
        # A zone does not change the network.
        ("fd12::1%eth0", True),
        ("fe80::1%eth0", False),
    ],
)
def test_agents_live_on_loopback_and_in_private_networks_by_default(
    text: str, is_default: bool
) -> None:
    assert may_live(text, DEFAULT_ALLOWED) is is_default


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "::",
        # link-local: metadata of most clouds, of ECS tasks and EKS pods, of Tencent, of Scaleway
        *("169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23"),
        *("169.254.42.42", "169.254.255.255", "fe80::a9fe:a9fe", "febf::1", "::ffff:a9fe:a9fe"),
        # metadata elsewhere
        "100.100.100.200",  # Alibaba
        "fd00:100::100:200",
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle
        "fd00:c1::a9fe:a9fe",
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:a9fe:a9fe::1",  # Akamai
        # multicast, reserved, broadcast
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "ff02::1"),
        # documentation
        *("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),
        # IPv4 in disguise, of an address that is allowed
        *("::10.0.0.1", "::7f00:1"),  # IPv4-compatible
        "::ffff:0:10.0.0.1",  # IPv4-translated
        "2002:a00:1::1",  # 6to4
        "2001:0:a00:1:0:0:f5ff:fffe",  # Teredo
        "64:ff9b:1::10.0.0.1",  # NAT64 with a local prefix
    ],
)
def test_agents_never_live_here_even_if_everything_is_allowed(text: str) -> None:
    assert not may_live(text, ["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    ("text", "allowed", "is_expected"),
    [
        ("8.8.8.8", ["8.8.8.0/24"], True),
        ("127.0.0.1", ["8.8.8.0/24"], False),  # what is configured replaces the default
        ("127.0.0.2", ["127.0.0.2/32"], True),
        ("127.0.0.1", ["127.0.0.2/32"], False),
        ("100.64.0.1", ["100.64.0.0/10"], True),
        ("10.0.0.1", [], False),
        ("::1", ["0.0.0.0/0"], False),  # another version
        ("127.0.0.1", ["::/0"], False),
        ("::1", ["::/0"], True),
        # Behind NAT64 the translator's address and the one it stands for must be allowed.
        ("64:ff9b::8.8.8.8", ["64:ff9b::/96", "8.8.8.0/24"], True),
        ("64:ff9b::8.8.8.8", ["64:ff9b::/96"], False),
        ("64:ff9b::8.8.8.8", ["8.8.8.0/24"], False),
        ("64:ff9b::10.0.0.1", DEFAULT_ALLOWED, False),
        ("64:ff9b::a9fe:a9fe", ["0.0.0.0/0", "::/0"], False),
        ("64:ff9b::1:808:808", ["::/0"], True),  # no NAT64: its network ends before
    ],
)
def test_operators_choose_the_networks(
    text: str, allowed: Sequence[str], is_expected: bool
) -> None:
    assert may_live(text, allowed) is is_expected


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f.1", "1.2.3.4/32"])
def test_what_is_no_address_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        read_address(text)
