"""Via, Forwarded and the X-Forwarded fields."""

from ipaddress import ip_network

import pytest

from gateway.core.hops import (
    Hop,
    PublicOrigin,
    caller_address,
    fields_of_the_way,
    has_passed,
    public_origin,
)

STRANGER = Hop("203.0.113.9", "http", "agents.example:8080", "1.1", is_trusted=False)
OWN_PROXY = Hop("10.0.0.2", "http", "gateway:8080", "1.1", is_trusted=True)


@pytest.mark.parametrize(
    ("via", "is_loop"),
    [
        ([], False),
        (["1.1 edge"], False),
        (["1.1 gateway-1"], False),  # another one, whose name begins like ours
        (["1.1 gateway"], True),
        (["1.0 edge, 1.1 GATEWAY (comment)"], True),  # names are hosts: no matter the case
        (["1.1 edge", "HTTP/1.1 gateway"], True),  # spread over two fields
        (["gateway"], False),  # a protocol without a name
    ],
)
def test_call_that_a_gateway_of_this_name_forwarded_before_is_a_loop(
    via: list[str], is_loop: bool
) -> None:
    assert has_passed([("Via", value) for value in via], "gateway") is is_loop


def test_what_a_stranger_says_of_the_way_is_replaced() -> None:
    said = [
        ("X-Forwarded-For", "127.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=127.0.0.1"),
    ]
    assert fields_of_the_way(said, STRANGER, "gateway") == [
        ("Via", "1.1 gateway"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "agents.example:8080"),
        ("Forwarded", 'for=203.0.113.9;host="agents.example:8080";proto=http'),
    ]


def test_what_a_trusted_proxy_says_of_the_way_is_kept_and_continued() -> None:
    said = [
        ("Via", "2.0 edge"),
        ("X-Forwarded-For", "198.51.100.7, 10.0.0.1"),
        ("X-Forwarded-Host", "agents.example"),
        ("X-Forwarded-Proto", "HTTPS"),
        ("Forwarded", "for=198.51.100.7"),
    ]
    assert fields_of_the_way(said, OWN_PROXY, "gateway") == [
        ("Via", "2.0 edge, 1.1 gateway"),
        ("X-Forwarded-For", "198.51.100.7, 10.0.0.1, 10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "agents.example"),
        ("Forwarded", 'for=198.51.100.7, for=10.0.0.2;host="gateway:8080";proto=http'),
    ]


def test_ipv6_peer_is_quoted_in_forwarded() -> None:
    hop = Hop("::1", "http", "[::1]:80", "1.0", is_trusted=False)
    assert fields_of_the_way([], hop, "g")[0] == ("Via", "1.0 g")
    assert fields_of_the_way([], hop, "g")[-1] == (
        "Forwarded",
        'for="[::1]";host="[::1]:80";proto=http',
    )


@pytest.mark.parametrize(
    ("said", "origin"),
    [
        ([], PublicOrigin("http", "gateway:8080")),
        ([("X-Forwarded-Proto", "https")], PublicOrigin("https", "gateway:8080")),
        ([("X-Forwarded-Proto", "https, http")], PublicOrigin("https", "gateway:8080")),
        ([("X-Forwarded-Proto", "javascript")], PublicOrigin("http", "gateway:8080")),
        ([("X-Forwarded-Host", "a.example, b")], PublicOrigin("http", "a.example")),
        ([("X-Forwarded-Host", "a/b")], PublicOrigin("http", "gateway:8080")),  # no host
    ],
)
def test_public_origin_is_what_the_outermost_trusted_proxy_was_called_by(
    said: list[tuple[str, str]], origin: PublicOrigin
) -> None:
    assert public_origin(said, OWN_PROXY) == origin


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("1.2.3.4", ["9.9.9.9"], "1.2.3.4"),  # a stranger's word
        ("10.0.0.1", [], "10.0.0.1"),  # our proxy asks for itself
        ("10.0.0.1", ["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9", "1.2.3.4"], "1.2.3.4"),  # in a field of its own
        ("10.0.0.1", ["9.9.9.9, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),  # through two of ours
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),  # no address
        ("unknown", ["1.2.3.4"], "unknown"),  # a unix socket has no peer
    ],
)
def test_caller_is_whom_the_last_proxy_in_a_row_of_ours_names(
    peer: str, said: list[str], address: str
) -> None:
    received = [("X-Forwarded-For", value) for value in said]
    assert caller_address(received, peer, [ip_network("10.0.0.0/8")]) == address
