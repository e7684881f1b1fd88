"""Who may do what: operators by admin token, agents by the token that registration gave them.

Tokens are compared as SHA-256 in constant time and never logged. Without admin tokens the
operators' routes are open, which the configuration allows on a loopback address only; a
workspace's own token never makes an operator. Browsers show a session's cookie in the place of the
token it was signed in with.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from gateway.core.credentials import bearer_token
from gateway.core.errors import Forbidden, Unauthorized, UnknownWorkspace
from gateway.core.operators import ANYONE
from gateway.storage.registry import Credentials
from gateway.storage.tokens import Tokens, holds_token
from gateway.web.same_origin import require_own_name, require_same_origin
from gateway.web.session import Session, new_session, read_session


def token_sha256(token: str) -> bytes:
    """How a token is stored and compared."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def bearer_sha256(request: web.Request) -> bytes | None:
    """The SHA-256 of the bearer token, None without one (RFC 6750 section 2.1)."""
    token = bearer_token(request.headers.get("Authorization", ""))
    return None if token is None else token_sha256(token)


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
    # By which people know us, beside addresses of this machine.
    public_host: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether operators need no token."""
        return not self.operators

    def is_operators(self, token: str) -> bool:
        """Whether this is an operator's token."""
        return self._name(token_sha256(token)) is not None

    def credentials(self, request: web.Request) -> Credentials:
        """Who asks to register."""
        if self.is_open:
            self._require_own_site(request)
        presented = bearer_sha256(request)
        return Credentials(presented, self._name(presented) is not None, self.is_open)

    async def require_operator(self, request: web.Request) -> str:
        """Let operators pass, and tell the name of the one who asks."""
        presented = await self.presented(request)
        name = self._name(presented)
        if name is not None:
            return name
        if self.is_open:
            self._require_own_site(request)
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
        presented = await self.presented(request)
        is_candidate = presented is not None and self._name(presented) is None
        if is_candidate and holds_token(presented, await self.tokens.live(workspace_id)):
            return
        await self.require_operator(request)

    def _require_own_site(self, request: web.Request) -> None:
        """Where anybody is an operator, the pages that somebody else's browser shows are not."""
        require_same_origin(request)
        require_own_name(request, self.public_host)

    async def presented(self, request: web.Request) -> bytes | None:
        """The SHA-256 of the token that a request shows, or that its session was signed in with."""
        bearer = bearer_sha256(request)
        session = read_session(request) if bearer is None else None
        if session is None:
            return bearer
        require_same_origin(request)
        return session.holder(await self._possible_holders(session))

    async def _possible_holders(self, session: Session) -> Sequence[bytes]:
        if session.workspace_id is None:
            return [operator.token_sha256 for operator in self.operators]
        try:
            return await self.tokens.live(session.workspace_id)
        except UnknownWorkspace:
            return ()

    async def sign_in(self, token: str, workspace_id: str | None) -> Session:
        """A session for the holder of an admin's or the workspace's token. Raises Unauthorized."""
        presented = token_sha256(token)
        if self._name(presented) is not None:
            return new_session(presented, None)
        if workspace_id is not None:
            session = new_session(presented, workspace_id)
            if session.holder(await self._possible_holders(session)) is not None:
                return session
        raise Unauthorized("This is no admin token, and no token of this workspace.")

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
