"""Which share of a worker a new request belongs to, read from its first bytes.

For the order of starts alone: the request is parsed later, by the parser, and what stands here
decides nothing else about it. Ids that nobody registered share one share, so that inventing ids
gives a caller no more of the worker.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote


class Kind(StrEnum):
    """What a request is for."""

    CALL = "call"
    PROBE = "probe"
    REGISTRY = "registry"
    OTHER = "other"


class Share(NamedTuple):
    """Requests that take turns with all others as one."""

    kind: Kind
    workspace_id: str = ""


UNKNOWN_CALLS = Share(Kind.CALL)
PROBES = Share(Kind.PROBE)
REGISTRY = Share(Kind.REGISTRY)
OTHERS = Share(Kind.OTHER)

_CALL = re.compile(rb"[A-Z]+ (?:https?://[^/ ]*)?/workspaces/([^/? ]+)/(?:a2a[/? ]|\.well-known/)")
_PROBE = re.compile(rb"[A-Z]+ (?:https?://[^/ ]*)?/(?:healthz|readyz|metrics)[? ]")
_REGISTRY = re.compile(rb"[A-Z]+ (?:https?://[^/ ]*)?/registry/")


def share_of(data: bytes, is_known: Callable[[str], bool]) -> Share:
    """The share of the request that these bytes begin."""
    if call := _CALL.match(data):
        workspace_id = unquote(call[1].decode("latin-1"))
        return Share(Kind.CALL, workspace_id) if is_known(workspace_id) else UNKNOWN_CALLS
    if _PROBE.match(data):
        return PROBES
    return REGISTRY if _REGISTRY.match(data) else OTHERS
