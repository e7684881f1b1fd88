"""Which share of a worker a request belongs to, read from its first bytes."""

import pytest

from gateway.web.request_share import (
    OTHERS,
    PROBES,
    REGISTRY,
    UNKNOWN_CALLS,
    Kind,
    Share,
    share_of,
)

KNOWN = Share(Kind.CALL, "w")


@pytest.mark.parametrize(
    ("line", "share"),
    [
        (b"POST /workspaces/w/a2a HTTP/1.1", KNOWN),
        (b"POST /workspaces/w/a2a/v1/message:send HTTP/1.1", KNOWN),
        (b"GET /workspaces/w/a2a?x=1 HTTP/1.1", KNOWN),
        (b"GET /workspaces/w/.well-known/agent-card.json HTTP/1.1", KNOWN),
        (b"POST http://gateway:80/workspaces/w/a2a HTTP/1.1", KNOWN),
        (b"POST /workspaces/%77/a2a HTTP/1.1", KNOWN),
        (b"POST /workspaces/invented/a2a HTTP/1.1", UNKNOWN_CALLS),
        (b"POST /workspaces/%ff\xff/a2a HTTP/1.1", UNKNOWN_CALLS),
        (b"POST /workspaces/w/budget HTTP/1.1", OTHERS),
        (b"POST /workspaces/w/a2ax HTTP/1.1", OTHERS),
        (b"GET /healthz HTTP/1.1", PROBES),
        (b"GET /readyz?x HTTP/1.1", PROBES),
        (b"GET /metrics HTTP/1.1", PROBES),
        (b"GET /healthzz HTTP/1.1", OTHERS),
        (b"POST /registry/heartbeat HTTP/1.1", REGISTRY),
        (b"GET / HTTP/1.1", OTHERS),
        (b"POS", OTHERS),  # what is not there yet
        (b"\x16\x03\x01", OTHERS),  # TLS
    ],
)
def test_share_is_read_from_the_target(line: bytes, share: Share) -> None:
    assert share_of(line + b"\r\nHost: x\r\n\r\n", {"w"}.__contains__) == share
