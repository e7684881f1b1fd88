"""Who may do what: operators by admin token, agents by the token that registration gave them.

Tokens are compared as SHA-256 in constant time and never logged. Without admin tokens the
operators' routes are open, which the configuration allows on a loopback address only; a
workspace's own token never makes an operator.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from gateway.core.errors import Forbidden, Unauthorized
from gateway.storage.registry import Credentials
from gateway.storage.tokens import Tokens, holds_token


def token_sha256(token: str) -> bytes:
    """How a token is stored and compared."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def bearer_sha256(request: web.Request) -> bytes | None:
    """The SHA-256 of the bearer token, None without one (RFC 6750 section 2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token_sha256(token.strip()) if scheme.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True, slots=True)
class Access:
    """Decides on requests. Raises Unauthorized, Forbidden, and what Tokens raises."""

    admin_sha256s: Sequence[bytes]
    tokens: Tokens

    @property
    def is_open(self) -> bool:
        """Whether operators need no token."""
        return not self.admin_sha256s

    def credentials(self, request: web.Request) -> Credentials:
        """Who asks to register."""
        presented = bearer_sha256(request)
        return Credentials(presented, self._is_admin(presented), self.is_open)

    async def require_operator(self, request: web.Request) -> None:
        """Let operators pass."""
        presented = bearer_sha256(request)
        if self._is_admin(presented) or (self.is_open and presented is None):
            return
        if presented is None:
            raise Unauthorized("This needs an admin token.")
        if await self.tokens.is_held(presented):
            raise Forbidden("A workspace's token cannot do this; it needs an admin token.")
        if not self.is_open:
            raise Unauthorized("This is no admin token.")

    async def require_reader(self, request: web.Request, workspace_id: str) -> None:
        """Let operators pass, and the workspace itself."""
        presented = bearer_sha256(request)
        is_candidate = presented is not None and not self._is_admin(presented)
        if is_candidate and holds_token(presented, await self.tokens.live(workspace_id)):
            return
        await self.require_operator(request)

    def _is_admin(self, presented: bytes | None) -> bool:
        if presented is None:
            return False
        matches = [hmac.compare_digest(presented, each) for each in self.admin_sha256s]
        return any(matches)
