"""The request target of a call, read once: the budget and the forwarding use the same value.

RFC 9112 section 3.2. The tail is forwarded byte for byte, so nothing may stand in it that the
agent could resolve to another place than the one that was checked.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.core.errors import BadRequest, NotFound
from gateway.core.workspaces import is_workspace_id

# A client that joins the card's path to the workspace's address by the rules for URLs drops /a2a.
_CALL_PATH = re.compile(
    r"/workspaces/(?P<id>[^/]*)(?:/a2a(?P<tail>/.*)?|(?P<card>/\.well-known/agent(-card)?\.json))",
    re.DOTALL,
)
_AUTHORITY = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"//|\\|#|%2f|%5c|%00|[\x00-\x20\x7f]", re.IGNORECASE)
_DOT_SEGMENT = re.compile(r"(^|/)(\.|%2e){1,2}(/|;|$)", re.IGNORECASE)


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

        A registered URL may bring a query of its own; the call's comes behind it.
        """
        base, _, own_query = agent_url.partition("?")
        path = base.rstrip("/") + self.tail if self.tail else base
        query = "&".join(part for part in (own_query, self.query) if part)
        return f"{path}?{query}" if query else path


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


def _without_authority(target: str) -> str:
    """The origin form of a target that may be in absolute form."""
    if target.startswith("/"):
        return target
    # Cut by hand: urlsplit drops a fragment and tabs, and what is forwarded must be what was sent.
    return _AUTHORITY.sub("", target, count=1)
