"""What a call to an agent wants: whether it can cost money, and in which form it was made.

Only asked for a workspace that is over its budget. The rule is never weaker than the agent's
own parser: what we cannot read for certain is taken to cost money. Agents' parsers are laxer
than ours (Python's takes NaN and UTF-16, Go's matches member names ignoring case), so "not
JSON, cannot spend" would be a way around.
"""

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
# What every JSON writer can write; larger ones are nobody's ids.
RPC_ID_MAX = 2**63 - 1

FREE_HTTP_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

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
class CallBody:
    """What a call's body says: nothing, if there is none.

    `methods` and `ids` are the values of all members `method`, in any case, and `id` of the one
    JSON object that it is. `is_object` is false for all else, and for what cannot be read.
    """

    methods: Sequence[object] = ()
    ids: Sequence[object] = ()
    is_object: bool = True
    is_rpc: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What was found out about a call; `rpc_id` is what a JSON-RPC answer must repeat."""

    form: Form
    is_free: bool
    rpc_id: str | int | float | None = None


def is_free_by_method(http_method: str) -> bool:
    """Whether the HTTP method alone tells that the call starts no work."""
    return http_method in FREE_HTTP_METHODS


def read_call(http_method: str, path: str, body: CallBody) -> Call:
    """Read a call: `path` is decoded and below the workspace."""
    is_free = is_free_by_method(http_method)
    if is_rest_path(path):
        return Call(Form.REST, is_free or _is_free_rest(http_method, path, body))
    form = Form.JSON_RPC if body.is_rpc else Form.PLAIN
    return Call(form, is_free or _is_free_rpc(body), _rpc_id(body))


def is_rest_path(path: str) -> bool:
    """Whether the path is one of A2A's REST binding, below whatever prefix the agent has."""
    return _is_send_path(path) or _ends_with(_REST_PATH, path)


def _is_send_path(path: str) -> bool:
    return _SEND_PATH.search(path) is not None


def _ends_with(pattern: re.Pattern[str], path: str) -> bool:
    # Every start is tried, because an agent may have any prefix (/v1, a tenant).
    return any(pattern.fullmatch(path, at) for at, sign in enumerate(path) if sign == "/")


def _is_free_rest(http_method: str, path: str, body: CallBody) -> bool:
    if http_method != "POST" or _is_send_path(path) or not _ends_with(_FREE_REST_POST, path):
        return False
    # An agent may take JSON-RPC at any path: then the body decides what it does.
    return body.is_object and (not body.methods or _is_free_rpc(body))


def _is_free_rpc(body: CallBody) -> bool:
    # Two spellings of one member: which of them the agent obeys is its parser's business.
    match body.methods:
        case [str(method)]:
            return method in FREE_RPC_METHODS
    return False


def _rpc_id(body: CallBody) -> str | int | float | None:
    """The id to repeat: null where there is none, more than one, or one that cannot be written."""
    match body.ids:
        case [str(text)]:
            return text
        case [int() | float() as number] if not isinstance(number, bool):
            # Of larger ones a parser may have kept only the first digits.
            return number if abs(number) <= RPC_ID_MAX else None
    return None
