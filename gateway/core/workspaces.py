"""What a workspace is called and how an agent describes itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

REMOVED_STATUS = "removed"

_WORKSPACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def is_workspace_id(text: str) -> bool:
    """Whether `text` may name a workspace: 1 to 128 of `A-Z a-z 0-9 . _ : -`, UUIDs among them."""
    return _WORKSPACE_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Registration:
    """What an agent says of itself: where it listens, and its agent card."""

    workspace_id: str
    url: str
    agent_card: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Liveness:
    """The rest of a heartbeat, kept for people to look at."""

    uptime_seconds: int | None = None
    active_tasks: int | None = None
    current_task: str | None = None
    error_rate: float | None = None
    sample_error: str | None = None
    runtime_state: str | None = None
    runtime_metadata: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """One agent worker as operators see it."""

    workspace_id: str
    name: str | None
    status: str | None
    url: str | None
    last_heartbeat_at: datetime | None
    liveness: Liveness
