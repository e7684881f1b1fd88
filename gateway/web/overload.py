"""What a worker does when more requests arrive than it can serve.

New requests pass a scheduler (request_scheduler.py says by which rules they wait, start or are
shed). This is its place in the event loop: it is asked about every new request, has its rounds
while requests wait, and reports when shedding begins and ends.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import structlog
from aiohttp import web

from gateway.core.errors import Unavailable
from gateway.web.admission import Admissions
from gateway.web.calls_under_way import CallsUnderWay
from gateway.web.metrics import Metrics
from gateway.web.request_scheduler import RequestScheduler, Waiting
from gateway.web.request_share import Kind, share_of

log = structlog.get_logger()

RETRY_AFTER_S = 1
# Shedding is over when nothing was shed for so long.
CALM_S = 1.0
# How long a round is, unless it takes more work than that.
ROUND_S = 0.003


class Sender(Protocol):
    """A connection whose requests are scheduled."""

    def start_request(self, request: "Waiting[Sender]") -> None:
        """Parse the bytes of a request that waited, and serve it."""

    def shed_request(self, request: "Waiting[Sender]") -> None:
        """Answer a call that waited with 503."""

    def use_start(self) -> bool:
        """Whether the scheduler started this request; true once for every start."""

    def force_close(self) -> None:
        """End the connection."""


Serve = Callable[[Waiting[Sender]], None]


def shed_error() -> Unavailable:
    """What a call that is shed is answered."""
    return Unavailable("The gateway has more calls than it can serve.", RETRY_AFTER_S)


@dataclass(slots=True)
class Overload:
    """Schedules the new requests of one worker, and sheds the calls that it cannot serve."""

    admissions: Admissions
    calls_under_way: CallsUnderWay
    metrics: Metrics
    scheduler: RequestScheduler[Sender] = field(default_factory=RequestScheduler)
    is_shedding: bool = False
    _is_turn_due: bool = False
    _is_round_due: bool = False
    _shedding_began: float = 0.0
    _last_shed: float = 0.0
    _shed_count: int = 0

    def wait_to_start(self, sender: Sender, data: bytes) -> Waiting[Sender] | None:
        """None if the request that these bytes begin starts now; else a later round starts it."""
        scheduler = self.scheduler
        if not self._is_turn_due:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        if scheduler.is_quiet:
            scheduler.start_quiet()
            return None
        share, now = share_of(data, self.admissions.knows), time.monotonic()
        is_call = share.kind is Kind.CALL
        if scheduler.may_start(share, is_sheddable=is_call, now=now):
            return None
        if not self._is_round_due:
            self._is_round_due = True
            asyncio.get_running_loop().call_soon(self._next_round)
        return scheduler.add(sender, data, share, is_sheddable=is_call, now=now)

    def forget(self, request: Waiting[Sender]) -> None:
        """Neither start nor shed a request that waits."""
        self.scheduler.remove(request)

    def require_start(self, request: web.BaseRequest) -> None:
        """Raise Unavailable for a call that came around the scheduler while calls are shed.

        The second of two requests in a row without a wait for the response is such a call.
        """
        if self.is_shedding and not cast("Sender", request.protocol).use_start():
            self.count_shed()
            raise shed_error()

    def count_shed(self) -> None:
        """Count a call that was answered 503; it has no line of its own in the log."""
        self._shed_count += 1
        self.metrics.count_shed()

    def _end_turn(self) -> None:
        self._is_turn_due = False
        self.scheduler.end_turn()

    def _next_round(self) -> None:
        now, checking = time.monotonic(), self.admissions.checking
        this = self.scheduler.next_round(now, worked_s=time.thread_time(), checking=checking)
        self._is_round_due = self.scheduler.length > 0
        if self._is_round_due:
            asyncio.get_running_loop().call_later(ROUND_S, self._next_round)
        if this.shed:
            self._note_shedding(now, now - this.shed[0].since)
        for request in this.shed:
            self._serve(request.sender.shed_request, request)
        for request in this.started:
            self._serve(request.sender.start_request, request)

    def _serve(self, serve: Serve, request: Waiting[Sender]) -> None:
        try:
            serve(request)
        except Exception:
            # The others of this round must not wait forever because of it.
            log.exception("request_failed")
            request.sender.force_close()

    def _note_shedding(self, now: float, waited_s: float) -> None:
        self._last_shed = now
        if not self.is_shedding:
            self._begin_shedding(now, waited_s)

    def _begin_shedding(self, now: float, waited_s: float) -> None:
        self.is_shedding, self._shedding_began, self._shed_count = True, now, 0
        log.warning(
            "shedding_began",
            waited_ms=round(waited_s * 1000),
            waiting=self.scheduler.length,
            calls_in_flight=len(self.calls_under_way),
        )
        asyncio.get_running_loop().call_later(CALM_S, self._end_shedding)

    def _end_shedding(self) -> None:
        calm_s = time.monotonic() - self._last_shed
        if calm_s < CALM_S:
            asyncio.get_running_loop().call_later(CALM_S - calm_s, self._end_shedding)
            return
        self.is_shedding = False
        duration_s = round(self._last_shed - self._shedding_began, 1)
        log.warning("shedding_ended", duration_s=duration_s, shed=self._shed_count)
