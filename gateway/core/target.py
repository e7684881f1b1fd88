"""Where a call goes: its request target, and the URL at which an agent listens, each read once.

RFC 9112 section 3.2. The budget and the forwarding use the same value. The tail is forwarded byte
for byte, so nothing may stand in it that the agent could resolve to another place than the one
that was checked.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from gateway.core.errors import BadGateway, BadRequest, NotFound
from gateway.core.workspaces import is_workspace_id

PORT_MAX = 65535

# A client that joins the card's path to the workspace's address by the rules for URLs drops /a2a.
_CALL_PATH = re.compile(
    r"/workspaces/(?P<id>[^/]*)(?:/a2a(?P<tail>/.*)?|(?P<card>/\.well-known/agent(-card)?\.json))",
    re.DOTALL,
)
_AUTHORITY = re.compile(r"https?://(?P<host>[^/?#]*)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"//|\\|#|%2f|%5c|%00|[\x00-\x20\x7f]", re.IGNORECASE)
_DOT_SEGMENT = re.compile(r"(^|/)(\.|%2e){1,2}(/|;|$)", re.IGNORECASE)

# What every reader of URLs takes apart in the same way: visible ASCII, and no user, fragment,
# backslash, zone or encoded host, any of which makes one reader's host another reader's path.
_AGENT_URL = re.compile(
    r"(?=[!-~]+\Z)"
    r"(?P<origin>https?://(?P<host>[a-z0-9._~-]+|\[[0-9a-f.]*:[0-9a-f:.]*\])"
    r"(:(?P<port>[0-9]{1,5}))?)"
    r"(?P<path>(/[^?#\\]*)?)"
    r"(\?(?P<query>[^#\\]*))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CallTarget:
    """Whom a call is for, and the part of its target that the agent gets, still encoded."""

    workspace_id: str
    tail: str
    query: str

    @property
    def path(self) -> str:
        """The tail decoded, to compare with A2A's REST paths."""
        return unquote(self.tail)

    def upstream_url(self, agent_url: str) -> str:
        """The agent's URL with the tail and the query of this call.

        A registered URL may bring a query of its own; the call's comes behind it. Raises BadGateway
        for a URL that could not be registered: another hand than ours may have stored it.
        """
        try:
            agent = read_agent_url(agent_url)
        except ValueError:
            raise BadGateway("The agent's stored URL cannot be called.") from None
        path = agent.path.rstrip("/") + self.tail if self.tail else agent.path
        query = "&".join(part for part in (agent.query, self.query) if part)
        return f"{agent.origin}{path}?{query}" if query else agent.origin + path


@dataclass(frozen=True, slots=True)
class AgentUrl:
    """A URL at which an agent may listen, taken apart; `host` is without brackets."""

    origin: str
    host: str
    path: str
    query: str


@lru_cache(maxsize=4096)
def read_agent_url(url: str) -> AgentUrl:
    """Take an agent's URL apart. Raises ValueError for one that not every reader reads alike."""
    match = _AGENT_URL.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 80) <= PORT_MAX:
        raise ValueError("not the URL of an agent")
    host = match["host"].strip("[]")
    return AgentUrl(match["origin"], host, match["path"], match["query"] or "")


@lru_cache(maxsize=1024)
def read_call_target(target: str) -> CallTarget:
    """Read a request target in origin or absolute form. Raises NotFound and BadRequest."""
    path, _, query = _without_authority(target).partition("?")
    match = _CALL_PATH.fullmatch(path)
    if match is None:
        raise NotFound("There is nothing at this address.")
    workspace_id, tail = unquote(match["id"]), match["tail"] or match["card"] or ""
    if not is_workspace_id(workspace_id) or workspace_id in (".", ".."):
        raise NotFound("No workspace has this id, or it was removed.")
    if _AMBIGUOUS.search(tail) or _DOT_SEGMENT.search(tail) or "#" in query:
        raise BadRequest("The path has a part that may mean different things to different servers.")
    return CallTarget(workspace_id, tail, query)


def host_of(target: str) -> str | None:
    """The host that a target in absolute form names, in whose favour `Host` is ignored."""
    match = _AUTHORITY.match(target)
    return match["host"] if match else None


def _without_authority(target: str) -> str:
    """The origin form of a target that may be in absolute form."""
    if target.startswith("/"):
        return target
    # Cut by hand: urlsplit drops a fragment and tabs, and what is forwarded must be what was sent.
    return _AUTHORITY.sub("", target, count=1)
