"""Who may do what: operators by admin token, agents by the token that registration gave them.

Tokens are compared as SHA-256 in constant time and never logged. Without admin tokens the
operators' routes are open, which the configuration allows on a loopback address only; a
workspace's own token never makes an operator.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from gateway.core.errors import Forbidden, Unauthorized
from gateway.core.operators import ANYONE
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
class Operator:
    """Who holds an admin token."""

    name: str
    token_sha256: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """Decides on requests. Raises Unauthorized, Forbidden, and what Tokens raises."""

    operators: Sequence[Operator]
    tokens: Tokens

    @property
    def is_open(self) -> bool:
        """Whether operators need no token."""
        return not self.operators

    def credentials(self, request: web.Request) -> Credentials:
        """Who asks to register."""
        presented = bearer_sha256(request)
        return Credentials(presented, self._name(presented) is not None, self.is_open)

    async def require_operator(self, request: web.Request) -> str:
        """Let operators pass, and tell the name of the one who asks."""
        presented = bearer_sha256(request)
        name = self._name(presented)
        if name is not None:
            return name
        if self.is_open and presented is None:
            return ANYONE
        if presented is None:
            raise Unauthorized("This needs an admin token.")
        if await self.tokens.is_held(presented):
            raise Forbidden("A workspace's token cannot do this; it needs an admin token.")
        if not self.is_open:
            raise Unauthorized("This is no admin token.")
        return ANYONE

    async def require_reader(self, request: web.Request, workspace_id: str) -> None:
        """Let operators pass, and the workspace itself."""
        presented = bearer_sha256(request)
        is_candidate = presented is not None and self._name(presented) is None
        if is_candidate and holds_token(presented, await self.tokens.live(workspace_id)):
            return
        await self.require_operator(request)

    def _name(self, presented: bytes | None) -> str | None:
        if presented is None:
            return None
        # All are compared, so that the time does not tell which one it was.
        names = [
            each.name
            for each in self.operators
            if hmac.compare_digest(presented, each.token_sha256)
        ]
        return names[0] if names else None
