"""May this call go on? The budget decides; a database that cannot answer lets it pass, visibly."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from gateway.core.budget import Budget
from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.gate import Gate
from gateway.web.metrics import Metrics

log = structlog.get_logger()

REMEMBERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Admission:
    """Where a call goes, and the budget it was checked against; None if it could not be read."""

    agent_url: str | None
    budget: Budget | None

    @property
    def is_check_skipped(self) -> bool:
        """Whether the call passes unchecked."""
        return self.budget is None

    @property
    def is_over_budget(self) -> bool:
        """Whether the call may pass only if it cannot cost money."""
        return self.budget is not None and bool(self.budget.exceeded)


@dataclass(slots=True)
class SkippedChecks:
    """The calls that this worker let pass unchecked: now, or the last time.

    Workers do not notice an outage at the same moment, so that only totals can be summed over all
    of them, as the metrics do.
    """

    since: datetime | None = None
    count: int = 0
    is_over: bool = True

    def add(self) -> None:
        """Count a call that passed unchecked."""
        if self.is_over:
            self.since, self.count, self.is_over = datetime.now(UTC), 0, False
        self.count += 1


@dataclass(slots=True)
class Admissions:
    """Asks the gate before every call, and remembers where agents are for when it is silent."""

    gate: Gate
    metrics: Metrics
    skipped: SkippedChecks = field(default_factory=SkippedChecks)
    _agent_urls: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _reported_damage: set[str] = field(default_factory=set)

    async def admit(self, workspace_id: str) -> Admission:
        """Where the call goes and what its budget is. Fails open: no database, no refusal.

        Raises UnknownWorkspace, and StorageUnavailable for a workspace that this process never
        saw while the database is away.
        """
        started = time.perf_counter()
        try:
            found = await self.gate.ask(workspace_id)
        except StorageUnavailable as error:
            return self._fail_open(workspace_id, error)
        except UnknownWorkspace:
            self.forget(workspace_id)
            raise
        finally:
            self.metrics.check_seconds.observe(time.perf_counter() - started)
        self.skipped.is_over = True
        self._report_damage(workspace_id, found)
        self.remember(workspace_id, found.agent_url)
        return Admission(found.agent_url, found.budget)

    def remember(self, workspace_id: str, agent_url: str | None) -> None:
        """Keep where the agent is for when the database is away."""
        if agent_url is None:
            self.forget(workspace_id)
            return
        self._agent_urls[workspace_id] = agent_url
        self._agent_urls.move_to_end(workspace_id)
        if len(self._agent_urls) > REMEMBERED_MAX:
            self._agent_urls.popitem(last=False)

    def forget(self, workspace_id: str) -> None:
        """There is no such workspace any more."""
        self._agent_urls.pop(workspace_id, None)

    def _fail_open(self, workspace_id: str, error: StorageUnavailable) -> Admission:
        agent_url = self._agent_urls.get(workspace_id)
        if agent_url is None:
            raise error
        log.warning("budget_check_failed_open", workspace_id=workspace_id, cause=error.cause)
        self.metrics.failed_open.labels(error.cause).inc()
        self.skipped.add()
        return Admission(agent_url, None)

    def _report_damage(self, workspace_id: str, found: WorkspaceBudget) -> None:
        """Report limits that were damaged by hand once, not on every call."""
        if not found.damaged_limits or workspace_id in self._reported_damage:
            return
        if len(self._reported_damage) < REMEMBERED_MAX:
            self._reported_damage.add(workspace_id)
        log.warning("damaged_limits_ignored", workspace_id=workspace_id, parts=found.damaged_limits)
        self.metrics.damaged_limits.inc()
