"""May this call go on? The budget decides; a database that cannot answer lets it pass, visibly."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from gateway.core.budget import Budget
from gateway.core.errors import StorageUnavailable, UnknownAgent, UnknownWorkspace
from gateway.core.last_verdicts import LastVerdicts
from gateway.storage.addresses import Addresses
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.gate import Gate
from gateway.web.metrics import Metrics

log = structlog.get_logger()

REMEMBERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Admission:
    """Where a call goes and its budget: as it was checked, or as it is known without a check.

    `unchecked_cause` says why there was no check, None where there was one.
    """

    workspace_id: str
    agent_url: str | None
    budget: Budget | None
    unchecked_cause: str | None = None

    @property
    def is_checked(self) -> bool:
        """Whether the budget was read for this call."""
        return self.unchecked_cause is None

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
    """Asks the gate before every call, and knows what to do when there is no answer.

    What is known stays true: while the database answers at all, a workspace whose last check found
    it over a limit stays refused when a check is late. During an outage its calls pass like all
    others, unless `keeps_known` is set (`budget.on_outage = "known"`).
    """

    gate: Gate
    metrics: Metrics
    addresses: Addresses = field(default_factory=Addresses)
    keeps_known: bool = False
    skipped: SkippedChecks = field(default_factory=SkippedChecks)
    # How many calls wait for their check.
    checking: int = 0
    _verdicts: LastVerdicts = field(default_factory=LastVerdicts)
    _reported_damage: set[str] = field(default_factory=set)
    _breaker_opened_at: float = 0

    def __post_init__(self) -> None:
        self.gate.breaker.on_change = self._report_breaker
        self.gate.on_found = self.note

    @property
    def is_cold(self) -> bool:
        """Whether this process knows neither budgets nor where agents are."""
        return self.gate.is_open and not (self.gate.has_answered or self.addresses.is_complete)

    async def admit(self, workspace_id: str) -> Admission:
        """Where the call goes and what its budget is. Fails open: no database, no refusal.

        Raises UnknownWorkspace, and UnknownAgent while the database is away.
        """
        started = time.perf_counter()
        self.checking += 1
        try:
            found = await self.gate.ask(workspace_id)
        except StorageUnavailable as error:
            return self._without_check(workspace_id, error.cause)
        except UnknownWorkspace:
            self.forget(workspace_id)
            raise
        finally:
            self.checking -= 1
            self.metrics.check_seconds.observe(time.perf_counter() - started)
        self.skipped.is_over = True
        return Admission(workspace_id, found.agent_url, found.budget)

    def note(self, found: WorkspaceBudget) -> None:
        """Keep what a check or a change showed, for when the next check comes to nothing."""
        key = found.budget.workspace_id
        self.addresses.learn(key, found.agent_url)
        self._verdicts.note(key, found.budget, time.monotonic())
        if found.damaged_limits:
            self._report_damage(key, found)

    def remember(self, workspace_id: str, agent_url: str) -> None:
        """Keep where a registered agent is."""
        self.addresses.learn(self.gate.keys.new(workspace_id), agent_url)

    def knows(self, workspace_id: str) -> bool:
        """Whether this process has seen an agent register as this workspace."""
        try:
            key = self.gate.keys.existing(workspace_id)
        except (UnknownWorkspace, StorageUnavailable):
            return False
        return self.addresses.url(key) is not None

    def forget(self, workspace_id: str) -> None:
        """There is no such workspace any more."""
        try:
            key = self.gate.keys.existing(workspace_id)
        except UnknownWorkspace:
            return
        self.addresses.learn(key, None)
        self._verdicts.forget(key)

    def _without_check(self, workspace_id: str, cause: str) -> Admission:
        try:
            key = self.gate.keys.existing(workspace_id)
        except StorageUnavailable:
            raise UnknownAgent from None
        budget = None
        if self.keeps_known or not self.gate.is_open:
            budget = self._verdicts.over_limit(key, time.monotonic())
        agent_url = self.addresses.url(key)
        if budget is None and agent_url is None:
            raise UnknownAgent
        return Admission(workspace_id, agent_url, budget, cause)

    def count_unchecked(self, admission: Admission) -> None:
        """Log and count a call that passes without a check."""
        cause = admission.unchecked_cause
        log.warning("budget_check_failed_open", workspace_id=admission.workspace_id, cause=cause)
        self.metrics.failed_open.labels(cause).inc()
        self.skipped.add()

    def _report_breaker(self, cause: str | None) -> None:
        if cause is not None:
            self._breaker_opened_at = time.monotonic()
            log.error("circuit_breaker_opened", cause=cause)
            return
        self.skipped.is_over = True
        open_s = round(time.monotonic() - self._breaker_opened_at, 3)
        log.warning("circuit_breaker_closed", open_s=open_s)

    def _report_damage(self, workspace_id: str, found: WorkspaceBudget) -> None:
        """Report limits that were damaged by hand once, not on every call."""
        if workspace_id in self._reported_damage:
            return
        if len(self._reported_damage) < REMEMBERED_MAX:
            self._reported_damage.add(workspace_id)
        log.warning("damaged_limits_ignored", workspace_id=workspace_id, parts=found.damaged_limits)
        self.metrics.damaged_limits.inc()
