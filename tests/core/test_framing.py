"""What a request's head may hold, as tables."""

import pytest

from gateway.core.errors import (
    BadRequest,
    CodingNotImplemented,
    GatewayError,
    VersionNotSupported,
)
from gateway.core.framing import HTTP_1_0, HTTP_1_1, Version, check_head, is_field_value, is_host

HOST = (b"Host", b"x")
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (b"example.com", True),
        (b"example.com:8080", True),
        (b"example.com:", True),  # RFC 3986 section 3.2.3: a port may have no digits
        (b"a_b-c.d~e", True),
        (b"127.0.0.1:65535", True),
        (b"[::1]", True),
        (b"[::1]:8080", True),
        (b"[::ffff:127.0.0.1]", True),
        (b"", False),
        (b":8080", False),
        (b"a/b", False),
        (b"a b", False),
        (b" a", False),
        (b"a\n", False),
        (b"a,b", False),  # two in one
        (b"u@h", False),
        (b"u:p@h", False),
        (b"h?q", False),
        (b"h#f", False),
        (b"h%41", False),
        (b"h\\i", False),
        (b"h:x", False),
        (b"h:-1", False),
        (b"h:+1", False),
        (b"h:1:2", False),
        (b"h:65536", False),
        (b"h:" + b"9" * 5000, False),  # more digits than int() takes
        (b"h\x00", False),
        (b"h\x7f", False),
        (b"h\xff", False),
        ("h\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), False),
        ("h:\N{ARABIC-INDIC DIGIT ONE}".encode(), False),
        (b"::1", False),
        (b"[::1", False),
        (b"[]", False),
        (b"[1.2.3.4]", False),
        (b"[::1%25eth0]", False),
        (b"[:::]", False),
        (b"[::1]x", False),
    ],
)
def test_host_is_a_name_or_address_and_maybe_a_port(value: bytes, is_valid: bool) -> None:
    assert is_host(value) is is_valid


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (b"", True),
        (b"plain; q=0.5", True),
        (b"a\tb", True),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), True),
        ("\N{GRINNING FACE}".encode(), True),
        (b"a\x00b", False),
        (b"a\x08b", False),
        (b"a\nb", False),
        (b"a\rb", False),
        (b"a\x1fb", False),
        (b"a\x7fb", False),
        (b"adm\xffin", False),
        (b"\xe9", False),  # Latin-1
        (b"\xc0\xaf", False),  # a slash in too many bytes
        (b"\xed\xa0\x80", False),  # half of a surrogate pair
        (b"\xf0\x9f\x98", False),  # broken off
    ],
)
def test_field_value_is_text_without_control_characters(value: bytes, is_valid: bool) -> None:
    assert is_field_value(value) is is_valid


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (HTTP_1_1, [HOST]),
        (HTTP_1_1, [(b"hOST", b"[::1]:8080"), (b"tRANSFER-eNCODING", b"cHUNKED")]),
        (HTTP_1_0, []),  # it did not know the field
        (HTTP_1_0, [HOST]),
        (HTTP_1_1, [HOST, (b"TE", b"gzip"), (b"X", b"a"), (b"X", b"b")]),
    ],
)
def test_head_that_everybody_reads_alike_passes(
    version: Version, fields: list[tuple[bytes, bytes]]
) -> None:
    check_head(version, fields)


@pytest.mark.parametrize(
    ("version", "fields", "error"),
    [
        ((0, 9), [HOST], VersionNotSupported),
        ((1, 2), [HOST], VersionNotSupported),
        ((2, 0), [HOST], VersionNotSupported),
        ((2, 0), [HOST, HOST, CHUNKED, CHUNKED], VersionNotSupported),  # the rest may mean anything
        (HTTP_1_1, [], BadRequest),
        (HTTP_1_1, [HOST, HOST], BadRequest),
        (HTTP_1_1, [HOST, (b"HOST", b"y")], BadRequest),
        (HTTP_1_1, [(b"Host", b"")], BadRequest),
        (HTTP_1_0, [(b"Host", b"")], BadRequest),
        (HTTP_1_0, [HOST, HOST], BadRequest),
        (HTTP_1_1, [HOST, (b"X", b"adm\xffin")], BadRequest),
        (HTTP_1_0, [CHUNKED], BadRequest),
        (HTTP_1_0, [(b"Transfer-Encoding", b"gzip, chunked")], BadRequest),
        (HTTP_1_1, [HOST, CHUNKED, CHUNKED], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", b"")], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", b"gzip, chunked")], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", b"chunked, chunked")], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", b",chunked")], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", b"chunked;x")], CodingNotImplemented),
        (HTTP_1_1, [HOST, (b"transfer-encoding", b"identity")], CodingNotImplemented),
        # The Kelvin sign becomes a k in lower case.
        (HTTP_1_1, [HOST, (b"Transfer-Encoding", "chun\u212aed".encode())], CodingNotImplemented),
    ],
)
def test_head_that_may_be_read_otherwise_is_refused(
    version: Version, fields: list[tuple[bytes, bytes]], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        check_head(version, fields)
