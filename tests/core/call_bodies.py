"""Calls by the bytes of their body."""

from gateway.core.calls import Call, CallBody, read_call
from gateway.web.call_body import parse_call_body


def read_bytes(http_method: str, path: str, body: bytes | None) -> Call:
    """Read a call with this body; None is a coded one, or one over 64 KiB."""
    if body is None:
        return read_call(http_method, path, CallBody(is_object=False))
    unreadable = CallBody(is_object=False, is_rpc=b'"jsonrpc"' in body)
    return read_call(http_method, path, parse_call_body(body) or unreadable)
