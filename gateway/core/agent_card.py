"""Agent cards: what an agent says of itself, changed so that its addresses lead to the gateway.

A2A 1.0 has `supportedInterfaces`, 0.3 and 0.2 have `url` and `additionalInterfaces`, and many
cards have both. Names of members are compared as the laxest reader does: protobuf's takes
snake_case, Go's any case.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from gateway.core.errors import BadRequest
from gateway.core.target import read_call_target

Card = Mapping[str, object]

WELL_KNOWN_PATHS = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # 0.3 on, and 0.2

# The extended card of 1.0 (maybe below a tenant), 0.3 and 0.2, whatever prefix the agent has. A
# well-known card below a prefix is another agent's at the same URL. Some servers ignore case.
_CARD_PATH = re.compile(
    r"/card/?|.*/(v1/card|extendedAgentCard|agent/authenticatedExtended(Agent)?Card)/?"
    r"|.*/\.well-known/agent(-card)?\.json/?",
    re.IGNORECASE | re.DOTALL,
)

# Apart, because one pattern for both takes nine times as long. The second is an ASCII letter that
# JSON hides; the byte is in every body in UTF-16 or UTF-32, which Python's parser takes.
_CARD_METHOD = re.compile(rb"xtended(?:Agent)?Card")
_HIDDEN_LETTER = re.compile(rb"\\u00[4-7]")
_ESCAPE = b"\\"
_WIDE_BYTE = b"\0"
_MARKER_BYTES_MAX = len(b"xtendedAgentCard")

# Cut by hand: urlsplit takes what clients read otherwise, and drops a part of it.
_HTTP_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[^/?#\\\x00-\x20\x7f]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_INTERFACE_LISTS = frozenset({"supportedinterfaces", "additionalinterfaces"})
# Cards have two or three; what an agent lists beyond this is dropped, as what cannot be served is.
_INTERFACES_MAX = 100
_TRANSPORTS = frozenset({"transport", "protocolbinding", "preferredtransport"})
_MAIN_MEMBERS = {"url": "url", "preferredtransport": "preferredTransport"}
# With a `url`, these tell a card from a configuration for push notifications.
_CARD_MEMBERS = frozenset({"skills", "capabilities", "defaultinputmodes", "protocolversion"})


def is_well_known_path(path: str) -> bool:
    """Whether the decoded path below the workspace is where an agent's own card is looked for."""
    return path in WELL_KNOWN_PATHS


def is_card_path(path: str) -> bool:
    """Whether what a GET finds at the decoded path may be a card, well-known or extended."""
    return _CARD_PATH.fullmatch(path) is not None


def may_ask_for_card(body: bytes) -> bool:
    """Whether a JSON-RPC body could be asking for the extended card; nothing is parsed."""
    return _WIDE_BYTE in body or names_card_method(body)


def names_card_method(body: bytes) -> bool:
    """Whether a body in UTF-8 has a method's name for the extended card, or hides letters."""
    # Cheap questions first: on 1 MB rfind takes a third of the pattern's time, and of find's.
    if body.rfind(b"xtended") >= 0 and _CARD_METHOD.search(body):
        return True
    return _ESCAPE in body and _HIDDEN_LETTER.search(body) is not None


@dataclass(slots=True)
class CardQuestion:
    """Whether a body that passes in chunks could be asking for the extended card.

    Set `is_asked` at the start for a body that cannot be read: a coded one, or another charset.
    """

    is_asked: bool = False
    _end: bytes = b""

    def see(self, chunk: bytes) -> None:
        """Look at the next chunk, together with the end of what came before."""
        if not self.is_asked:
            seen = self._end + chunk
            self.is_asked = may_ask_for_card(seen)
            self._end = seen[1 - _MARKER_BYTES_MAX :]


def public_base(public_url: str | None, scheme: str, host: str, workspace_id: str) -> str:
    """The workspace's address for callers: below the public URL, or below what was asked."""
    return f"{(public_url or f'{scheme}://{host}').rstrip('/')}/workspaces/{workspace_id}/a2a"


def is_agent_card(value: object) -> TypeGuard[Card]:
    """Whether a value has the shape of a card, which no task and no message has."""
    if not isinstance(value, Mapping):
        return False
    names = {_folded(name) for name in value}
    has_address = _INTERFACE_LISTS & names or ("url" in names and _CARD_MEMBERS & names)
    return "name" in names and bool(has_address)


def rewrite_card(card: Card, agent_url: str, public_base: str) -> Card:
    """The card with every interface below `public_base`, less those that cannot be served there.

    Signatures stay only on a card that had nothing to change. Never raises.
    """
    places = _Places(public_base, _read_address(public_base), _read_address(agent_url))
    listed = {
        name: _interfaces(value, places) if _folded(name) in _INTERFACE_LISTS else value
        for name, value in card.items()
    }
    rewritten = _with_main_rewritten(listed, places)
    if rewritten == card:
        return card
    return {name: value for name, value in rewritten.items() if _folded(name) != "signatures"}


def rewrite_rpc_answer(answer: object, agent_url: str, public_base: str) -> object | None:
    """A JSON-RPC answer or batch with the cards in it rewritten; None if there is none."""
    if not isinstance(answer, list):
        return _rewrite_result(answer, agent_url, public_base)
    rewritten = [_rewrite_result(each, agent_url, public_base) for each in answer]
    if all(each is None for each in rewritten):
        return None
    return [old if new is None else new for old, new in zip(answer, rewritten, strict=True)]


def _rewrite_result(answer: object, agent_url: str, public_base: str) -> Card | None:
    if not isinstance(answer, Mapping) or not is_agent_card(card := answer.get("result")):
        return None
    return {**answer, "result": rewrite_card(card, agent_url, public_base)}


@dataclass(frozen=True, slots=True)
class _Address:
    """An http or https URL in parts; a default port is not told apart from none."""

    origin: tuple[str, str]
    path: str
    query: str


@dataclass(frozen=True, slots=True)
class _Places:
    """Where an agent is for callers and where for the gateway."""

    public_base: str
    public: _Address | None
    agent: _Address | None


def _read_address(url: object) -> _Address | None:
    found = _HTTP_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return None
    scheme = found["scheme"].lower()
    host = found["host"].lower().removesuffix(_DEFAULT_PORTS[scheme])
    return _Address((scheme, host), found["path"] or "", found["query"] or "")


def _public_url(url: object, places: _Places) -> str | None:
    """Where the gateway serves what a card has at `url`; None where it cannot."""
    address = _read_address(url)
    if address is None:
        return None
    rest = _rest(address, places.public)
    if rest is not None and places.public and address.origin == places.public.origin:
        return str(url)
    # Only the path counts, because hosts differ inside and outside: 0.0.0.0, a public name.
    if rest is None:
        rest = _rest(address, places.agent) or ""
    # The registered URL's own query is added to every call.
    is_own = places.agent is not None and address.query == places.agent.query
    return places.public_base + rest + ("" if is_own else address.query)


def _rest(address: _Address, base: _Address | None) -> str | None:
    """The address's path below the base's; None if it is elsewhere or cannot be called there."""
    base_path = base.path.rstrip("/") if base else ""
    if base is None or not f"{address.path}/".startswith(f"{base_path}/"):
        return None
    rest = address.path[len(base_path) :]
    try:
        return read_call_target(f"/workspaces/w/a2a{rest}").tail
    except BadRequest:
        return None


def _interfaces(value: object, places: _Places) -> list[Card] | None:
    if value is None:
        return None
    members = value[:_INTERFACES_MAX] if isinstance(value, list) else []
    return [kept for each in members if (kept := _interface(each, places)) is not None]


def _interface(value: object, places: _Places) -> Card | None:
    """An interface at its public address; None for what is none or cannot be served."""
    if not isinstance(value, Mapping) or _is_grpc(value):
        return None
    urls = {name: _public_url(url, places) for name, url in value.items() if _folded(name) == "url"}
    return {**value, **urls} if urls and None not in urls.values() else None


def _is_grpc(members: Card) -> bool:
    return any(
        isinstance(value, str) and value.strip().casefold() == "grpc"
        for name, value in members.items()
        if _folded(name) in _TRANSPORTS
    )


def _with_main_rewritten(card: Card, places: _Places) -> Card:
    """The card with its legacy address rewritten; one that cannot be served is replaced."""
    if not any(_folded(name) == "url" for name in card):
        return card
    return _interface(card, places) or _with_main(card, _first_additional(card))


def _with_main(card: Card, main: Card) -> Card:
    """The card with these members for its legacy address, each where its old one was."""
    replaced: dict[str, object] = {}
    for name, value in card.items():
        member = _MAIN_MEMBERS.get(_folded(name))
        if member is None:
            replaced[name] = value
        elif member in main:
            replaced[member] = main[member]
    return {**replaced, **main}


def _first_additional(card: Card) -> Card:
    """The first additional interface as members of the card; none if there is none."""
    for name, value in card.items():
        if _folded(name) == "additionalinterfaces" and isinstance(value, list) and value:
            members = {_folded(each): member for each, member in value[0].items()}
            transport = members.get("transport", "JSONRPC")
            return {"url": members["url"], "preferredTransport": transport}
    return {}


def _folded(name: str) -> str:
    """A member's name without case and underscores."""
    return name.replace("_", "").casefold()
