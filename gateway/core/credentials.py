"""Which credentials are the gateway's own: agents must neither receive nor set them.

A caller may send what the gateway itself asks for: the cookie of a signed-in operator, or an
operator's token. An agent that got them could act as that operator. Everything else in these
fields is the agent's own authentication and passes as it was sent.
"""

import re
from collections.abc import Callable, Sequence

# A browser takes a cookie of the first name only over https, for this host alone (RFC 6265bis
# section 4.1.3.2).
HTTPS_SESSION_COOKIE, HTTP_SESSION_COOKIE = "__Host-gateway-session", "gateway-session"

Fields = Sequence[tuple[str, str]]

# Wider than both names, so that no reader of cookies can find one where we do not: spaces, quotes,
# a cookie without a name and prefixes in another case are each read differently somewhere.
_SESSION_COOKIE = re.compile("gateway-session", re.IGNORECASE)

_CARRIERS = frozenset({"cookie", "authorization", "x-gateway-token"})
# Most names have other lengths, which is quicker to see.
_LENGTHS = frozenset(map(len, _CARRIERS))


def bearer_token(authorization: str) -> str | None:
    """The token of an `Authorization` field, None for other schemes (RFC 6750 section 2.1)."""
    scheme, _, token = authorization.partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


def without_credentials(fields: Fields, is_operators: Callable[[str], bool]) -> Fields:
    """The fields of a request that an agent may see.

    `is_operators` says whether a token is an operator's.
    """
    if not [1 for name, _ in fields if len(name) in _LENGTHS and name.lower() in _CARRIERS]:
        return fields
    return [
        (name, kept)
        for name, value in fields
        if (kept := _without_credential(name.lower(), value, is_operators)) is not None
    ]


def _without_credential(name: str, value: str, is_operators: Callable[[str], bool]) -> str | None:
    """What is left of a field; None if it must not pass at all."""
    if name == "cookie":
        return _without_session(value)
    token = None
    if name == "authorization":
        token = bearer_token(value)
    elif name == "x-gateway-token":
        token = value.strip()
    return None if token and is_operators(token) else value


def _without_session(cookies: str) -> str | None:
    pairs = cookies.split(";")
    kept = [pair for pair in pairs if not _SESSION_COOKIE.search(pair)]
    if len(kept) == len(pairs):
        return cookies
    rest = ";".join(kept).strip(" \t")
    return rest if rest.strip("; \t") else None


def without_session_cookies(fields: Fields) -> Fields:
    """The fields of an agent's response without a `Set-Cookie` for the gateway's session."""
    return [
        (name, value)
        for name, value in fields
        if not (len(name) == 10 and name.lower() == "set-cookie" and _sets_session(value))
    ]


def _sets_session(cookie: str) -> bool:
    return _SESSION_COOKIE.search(cookie.partition(";")[0]) is not None
