"""POST /registry/register: an agent says where it listens, and gets its token."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from gateway.core.errors import BadRequest
from gateway.core.networks import Network, is_allowed, read_address
from gateway.core.target import read_agent_url
from gateway.core.workspaces import Registration, is_workspace_id
from gateway.web.access import new_token, token_sha256
from gateway.web.json_body import json_response, parse, read_object
from gateway.web.services import services

BODY_BYTES_MAX = 1024 * 1024
RESOLVE_TIMEOUT_S = 5.0


class RegistrationBody(BaseModel):
    """What an agent sends; unknown members are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: str
    url: str = Field(max_length=2048)
    agent_card: dict[str, Any] | None = None


async def post_registration(request: web.Request) -> web.Response:
    """Create or move a workspace; the first answer carries its token."""
    parts = services(request)
    body = await parse(RegistrationBody, await read_object(request, BODY_BYTES_MAX))
    if not is_workspace_id(body.id):
        raise BadRequest("id: must be 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    await require_allowed_url(body.url, parts.config.registry.networks)
    token = new_token()
    is_given = await parts.registry.register(
        Registration(body.id, body.url, body.agent_card),
        parts.access.credentials(request),
        token_sha256(token),
    )
    parts.admissions.remember(body.id, body.url)
    answer = {"status": "registered", "workspace_id": body.id}
    # auth_token is what agents in the field read.
    return json_response({**answer, "token": token, "auth_token": token} if is_given else answer)


async def require_allowed_url(text: str, allowed: Sequence[Network]) -> None:
    """Raise BadRequest unless an agent may live at this URL: every address of its host counts.

    Connections are checked again when they are made, because a name may change its addresses.
    """
    try:
        host = read_agent_url(text).host
    except ValueError:
        raise BadRequest(
            "url: must be an http or https URL in visible ASCII characters, "
            "without a user, a password, a fragment or a backslash."
        ) from None
    for address in await _resolve(host):
        if not is_allowed(read_address(address), allowed):
            raise BadRequest("url: its host is not in a network that agents may live in.")


async def _resolve(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise BadRequest("url: its host cannot be resolved.") from None
    return [str(entry[4][0]) for entry in found]
