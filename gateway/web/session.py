"""A person who is signed in: a cookie that every worker and every replica can check by itself.

The cookie says who it is (an operator, or a workspace) and until when, with an HMAC over both. Its
key is the SHA-256 of the token that was shown at sign-in, which the gateway knows anyway: nothing
is stored, nothing is shared, the token is not in the cookie, and whoever takes a token away ends
all its sessions. Signing out forgets the cookie; there is no other copy that a page could read.
Who reads the database could sign with what it keeps of a workspace's token, and see with that what
it read already; of admin tokens it keeps nothing, and a session reports and registers nothing.
"""

import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from gateway.core.credentials import HTTP_SESSION_COOKIE, HTTPS_SESSION_COOKIE
from gateway.core.workspaces import is_workspace_id

LIFETIME_S = 12 * 3600

_PURPOSE = b"a2a-budget-gateway page session 1"
_VALUE_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie claims: whose it is, None for an operator; true only if `holder` finds one."""

    workspace_id: str | None
    expires_s: int
    signature: str

    def holder(self, token_sha256s: Iterable[bytes]) -> bytes | None:
        """The one of these tokens that the session was signed in with, while it lasts."""
        if self.expires_s <= time.time():
            return None
        matches = [
            each
            for each in token_sha256s
            if hmac.compare_digest(self.signature, _sign(each, self.workspace_id, self.expires_s))
        ]
        return matches[0] if matches else None


def new_session(token_sha256: bytes, workspace_id: str | None) -> Session:
    """A session of the holder of this token, from now on."""
    expires_s = int(time.time()) + LIFETIME_S
    return Session(workspace_id, expires_s, _sign(token_sha256, workspace_id, expires_s))


def _sign(token_sha256: bytes, workspace_id: str | None, expires_s: int) -> str:
    key = hmac.digest(token_sha256, _PURPOSE, hashlib.sha256)
    return hmac.digest(key, f"{workspace_id or ''}~{expires_s}".encode(), hashlib.sha256).hex()


def read_session(request: web.Request) -> Session | None:
    """What the request's cookie claims."""
    cookies = request.cookies
    value = cookies.get(HTTPS_SESSION_COOKIE) or cookies.get(HTTP_SESSION_COOKIE) or ""
    parts = value.split("~")
    if len(value) > _VALUE_CHARACTERS_MAX or len(parts) != 3 or not value.isascii():
        return None
    workspace_id, expires_s, signature = parts
    is_readable = expires_s.isdigit() and (not workspace_id or is_workspace_id(workspace_id))
    return Session(workspace_id or None, int(expires_s), signature) if is_readable else None


def keep_session(answer: web.StreamResponse, session: Session, *, is_https: bool) -> None:
    """Have the browser send the session from now on, from this site's pages only."""
    answer.set_cookie(
        HTTPS_SESSION_COOKIE if is_https else HTTP_SESSION_COOKIE,
        f"{session.workspace_id or ''}~{session.expires_s}~{session.signature}",
        max_age=LIFETIME_S,
        path="/",
        httponly=True,
        secure=is_https,
        samesite="Strict",
    )


def forget_session(answer: web.StreamResponse) -> None:
    """Have the browser forget the session."""
    for name, is_https in ((HTTPS_SESSION_COOKIE, True), (HTTP_SESSION_COOKIE, False)):
        answer.del_cookie(name, path="/", httponly=True, secure=is_https, samesite="Strict")
