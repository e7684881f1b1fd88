"""What a call to an agent wants: whether it can cost money, and in which form it was made.

Only asked for a workspace that is over its budget. The rule is never weaker than the agent's
own parser: what we cannot read for certain is taken to cost money. Agents' parsers are laxer
than ours (Python's takes NaN and UTF-16, Go's matches member names ignoring case), so "not
JSON, cannot spend" would be a way around.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# A2A 0.2, 0.3 and 1.0: reading, ending and watching what exists.
FREE_RPC_METHODS = frozenset(
    {
        "tasks/get",
        "tasks/list",
        "tasks/cancel",
        "tasks/resubscribe",
        "tasks/pushNotificationConfig/set",
        "tasks/pushNotificationConfig/get",
        "tasks/pushNotificationConfig/list",
        "tasks/pushNotificationConfig/delete",
        "agent/getAuthenticatedExtendedCard",
        "agent/authenticatedExtendedCard",
        "GetTask",
        "ListTasks",
        "CancelTask",
        "SubscribeToTask",
        "CreateTaskPushNotificationConfig",
        "GetTaskPushNotificationConfig",
        "ListTaskPushNotificationConfigs",
        "ListTaskPushNotificationConfig",
        "DeleteTaskPushNotificationConfig",
        "GetExtendedAgentCard",
    }
)
# Half a character, which JSON can escape but UTF-8 cannot hold.
_SURROGATE = re.compile("[\ud800-\udfff]")

# What every JSON writer can write; larger ones are nobody's ids.
RPC_ID_MAX = 2**63 - 1

FREE_HTTP_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

Members = Sequence[tuple[str, object]]

_FREE_REST_POST = re.compile(r"/tasks/[^/]+(:cancel|:subscribe|/pushNotificationConfigs)")
_REST_PATH = re.compile(r"/tasks(/[^/]+(:[a-z]+|/pushNotificationConfigs)?)?")

# Wherever it stands: Express matches a path whatever its case and with a slash at its end, servlet
# containers cut off what follows a semicolon. A body that is free must not hide such a path.
_SEND_PATH = re.compile(r"message:(send|stream)", re.IGNORECASE)


class Form(StrEnum):
    """The protocol binding a call was made in, and hence the form of its refusal."""

    JSON_RPC = "json_rpc"
    REST = "rest"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Call:
    """What was found out about a call; `rpc_id` is what a JSON-RPC answer must repeat."""

    form: Form
    is_free: bool
    rpc_id: str | int | float | None = None


def is_free_by_method(http_method: str) -> bool:
    """Whether the HTTP method alone tells that the call starts no work."""
    return http_method in FREE_HTTP_METHODS


def read_call(http_method: str, path: str, body: bytes | None) -> Call:
    """Read a call: `path` is decoded and below the workspace; `body` is None if unreadable."""
    members = _read_members(body)
    is_free = is_free_by_method(http_method)
    if is_rest_path(path):
        return Call(Form.REST, is_free or _is_free_rest(http_method, path, members))
    form = Form.JSON_RPC if _is_rpc(members, body) else Form.PLAIN
    return Call(form, is_free or _is_free_rpc(members), _rpc_id(members))


def is_rest_path(path: str) -> bool:
    """Whether the path is one of A2A's REST binding, below whatever prefix the agent has."""
    return _is_send_path(path) or _ends_with(_REST_PATH, path)


def _is_send_path(path: str) -> bool:
    return _SEND_PATH.search(path) is not None


def _ends_with(pattern: re.Pattern[str], path: str) -> bool:
    # Every start is tried, because an agent may have any prefix (/v1, a tenant).
    return any(pattern.fullmatch(path, at) for at, sign in enumerate(path) if sign == "/")


def _is_free_rest(http_method: str, path: str, members: Members | None) -> bool:
    if http_method != "POST" or _is_send_path(path) or not _ends_with(_FREE_REST_POST, path):
        return False
    # An agent may take JSON-RPC at any path: then the body decides what it does.
    return members is not None and (not _methods(members) or _is_free_rpc(members))


def _is_free_rpc(members: Members | None) -> bool:
    # Two spellings of one member: which of them the agent obeys is its parser's business.
    methods = _methods(members or ())
    return len(methods) == 1 and isinstance(methods[0], str) and methods[0] in FREE_RPC_METHODS


def _methods(members: Members) -> Sequence[object]:
    return [value for name, value in members if name.casefold() == "method"]


def _is_rpc(members: Members | None, body: bytes | None) -> bool:
    if members is not None:
        return any(name == "jsonrpc" for name, _ in members)
    # A batch, or what only a laxer parser can read: answer in the form it seems to want.
    return body is not None and b'"jsonrpc"' in body


def _rpc_id(members: Members | None) -> str | int | float | None:
    """The id to repeat: null where there is none, more than one, or one that cannot be written."""
    match [value for name, value in members or () if name == "id"]:
        case [str(text)] if not _SURROGATE.search(text):
            return text
        case [float(number)]:
            return number
        case [int(number)] if not isinstance(number, bool) and abs(number) <= RPC_ID_MAX:
            return number
    return None


def _read_members(body: bytes | None) -> Members | None:
    """The members of the one object that `body` is, doubles included; None for all else.

    No body has no members.
    """
    if body is None:
        return None
    if body == b"":
        return ()
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_Members, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, _Members) else None


class _Members(tuple[tuple[str, object], ...]):
    """A JSON object as its pairs, told apart from a JSON array."""

    __slots__ = ()


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
