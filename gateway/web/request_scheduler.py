"""Decides when a new request may start, and which calls are shed.

A request belongs to a *share*: one for each known workspace's calls, one for each kind of other
request. Up to 64 requests start at once. If more wait, they start in *rounds* a few milliseconds
apart, a share after the other (start-time fair queueing, Goyal 1996), and a share that asks for
little does not wait at all, whatever the others send. How many start in a round follows from the
CPU time that the rounds before took: half of each round is left to the calls of other workspaces,
whose every step would otherwise wait behind the steps of all that came at once. So the lag of the
event loop is regulated rather than watched: it is the same for a hundred callers and for two
thousand.

What arrives faster than it starts is shed, by the time that it waited. A burst may wait for half a
second. Where a share's queue has not been empty for half a second, it *stands*: more arrives than
can be served, and each of its calls may wait for a tenth of a second only. (Nichols and Jacobson,
"Controlling Queue Delay", 2012; in this form by Maurer, "Fail at Scale", 2015.) Time waited needs
no tuning for fast and slow machines, as a length or a rate would. A standing queue serves its
newest call first: the oldest ones would be shed before they could be answered in time. Shedding
gets a part of a round's work, so that callers who come again at once cannot use up the worker by
being shed.

Independent of the server and of the clock: time comes in as an argument, what to do is returned.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, TypeVar

Sender = TypeVar("Sender")


@dataclass(frozen=True, slots=True)
class Pace:
    """How much CPU time a round should take, and which part of it is for shedding."""

    work_s: float
    shed_part: float


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The scheduler's limits."""

    # So many requests may start in a turn of the event loop, or wait, before starts are paced.
    unpaced_max: int = 64
    # So many of one share may start in a turn at once while others wait.
    share_max: int = 8
    # For how long calls count as mixed after two in a row were to two workspaces.
    mixed_s: float = 1.0
    # With calls to other workspaces, half of every round's 3 ms is left to them. Without, all of
    # the time is used, in rounds that are long enough to check many calls by one query.
    mixed: Pace = Pace(work_s=0.0015, shed_part=0.5)
    alone: Pace = Pace(work_s=0.02, shed_part=0.25)
    # How many requests start in a round at least.
    starts_min: float = 1.0
    # How many calls may wait for their check. Beyond, the database is what is slow, and when it
    # answers, all of them go on in one turn of the loop.
    checking_max: int = 32
    # How much of the work of a start it takes to shed a call.
    shed_cost: float = 0.15
    # A queue stands if it was not empty for so long; until then its calls may wait for so long.
    standing_after_s: float = 0.5
    # How long a call may wait in a queue that stands.
    wait_max_s: float = 0.1


# A round that took too long lowers the starts of the next by this factor, any other raises them.
# They balance where one round in six takes too long.
_FEWER = 0.9
_MORE = 1.02

_NO_SHARE = object()


@dataclass(slots=True, eq=False)
class Waiting(Generic[Sender]):
    """A request that waits for its start: who sent it, and the bytes that arrived so far."""

    sender: Sender
    share: Hashable
    data: bytes
    since: float
    is_sheddable: bool
    is_waiting: bool = True


@dataclass(slots=True)
class Round(Generic[Sender]):
    """What to do now."""

    started: list[Waiting[Sender]] = field(default_factory=list)
    shed: list[Waiting[Sender]] = field(default_factory=list)


@dataclass(slots=True)
class _Queue(Generic[Sender]):
    """The waiting requests of one share, and when in virtual time the next of them starts."""

    share: Hashable
    next_start: float
    # When the queue was last empty.
    since: float
    is_sheddable: bool
    requests: deque[Waiting[Sender]] = field(default_factory=deque)
    length: int = 0

    def add(self, request: Waiting[Sender]) -> None:
        """Append a request."""
        if not self.length:
            self.since = request.since
        self.requests.append(request)
        self.length += 1

    def pop(self, *, is_standing: bool) -> Waiting[Sender]:
        """The next to start, of which there must be one: the oldest, mostly.

        Of a queue that stands and is shed, the newest: the older ones will be shed.
        """
        is_newest_first = is_standing and self.is_sheddable
        pop = self.requests.pop if is_newest_first else self.requests.popleft
        while not (request := pop()).is_waiting:
            pass
        return request

    def removed(self) -> None:
        """Count one request less, and forget those at the front that wait no more."""
        self.length -= 1
        while self.requests and not self.requests[0].is_waiting:
            self.requests.popleft()


@dataclass(slots=True)
class RequestScheduler(Generic[Sender]):
    """Queues new requests of any number of senders.

    Call `end_turn` after every turn of the event loop in which requests started, and `next_round`
    every few milliseconds while requests wait.
    """

    settings: SchedulerSettings = field(default_factory=SchedulerSettings)
    # How many requests wait.
    length: int = 0
    _queues: dict[Hashable, _Queue[Sender]] = field(default_factory=dict)
    # Every queue once, by its next start; the number keeps those that are equal in order.
    _order: list[tuple[float, int, _Queue[Sender]]] = field(default_factory=list)
    _order_count: int = 0
    _virtual_time: float = 0.0
    # The next starts of shares whose requests have all started.
    _next_starts: dict[Hashable, float] = field(default_factory=dict)
    # Every request that may be shed, in the order of arrival.
    _sheddable: deque[Waiting[Sender]] = field(default_factory=deque)
    # The requests that started in this turn of the loop, in all and by share.
    _started: int = 0
    _started_of: dict[Hashable, int] = field(default_factory=dict)
    _last_share: Hashable = _NO_SHARE
    _mixed_until: float = 0.0
    pace: Pace = field(init=False)
    # How many requests start in a round of each pace.
    _starts_per_round: dict[Pace, float] = field(default_factory=dict)
    _start_credit: float = 0.0
    _shed_credit: float = 0.0
    _worked_s: float | None = None

    def __post_init__(self) -> None:
        self.pace = self.settings.alone

    @property
    def starts_per_round(self) -> float:
        """How many requests start in a round at this pace."""
        return self._starts_per_round.get(self.pace, self.settings.starts_min)

    @property
    def is_quiet(self) -> bool:
        """Whether a request may start now, whatever its share."""
        return not self.length and self._started < self.settings.unpaced_max

    def start_quiet(self) -> None:
        """Count a request that starts while `is_quiet`."""
        self._started += 1

    def may_start(self, share: Hashable, *, is_sheddable: bool, now: float) -> bool:
        """Whether a new request of this share starts now, before those that wait."""
        if is_sheddable:
            self._see(share, now)
        limits, started = self.settings, self._started_of.get(share, 0)
        is_over = started >= limits.share_max or self._started >= limits.unpaced_max
        if is_over or self._is_waiting(share):
            return False
        self._started_of[share] = started + 1
        self._started += 1
        return True

    def end_turn(self) -> None:
        """Count anew: a turn of the event loop ended."""
        self._started = 0
        self._started_of.clear()

    def add(
        self, sender: Sender, data: bytes, share: Hashable, *, is_sheddable: bool, now: float
    ) -> Waiting[Sender]:
        """Let a request wait for its start."""
        request = Waiting(sender, share, data, now, is_sheddable)
        self._queue_of(request).add(request)
        self.length += 1
        if is_sheddable:
            self._sheddable.append(request)
        return request

    def remove(self, request: Waiting[Sender]) -> None:
        """Forget a request that waits: its sender left."""
        request.is_waiting = False
        self._queues[request.share].removed()
        self.length -= 1

    def next_round(self, now: float, *, worked_s: float, checking: int) -> Round[Sender]:
        """What starts and what is shed now.

        `worked_s` is the CPU time that the event loop has used so far: what other processes take of
        the machine makes no round long. So many calls are `checking`: they wait for their check.
        """
        this: Round[Sender] = Round()
        if self.length <= self.settings.unpaced_max:
            self._worked_s = None
            self._start(this, self.length, now)
        else:
            self._follow_work(worked_s)
            self.pace = self.settings.mixed if now < self._mixed_until else self.settings.alone
            self._start_small(this)
            self._shed(this, now)
            if checking < self.settings.checking_max:
                self._start_paced(this, now)
        if not self.length:
            self._reset()
        return this

    def _see(self, share: Hashable, now: float) -> None:
        if share != self._last_share:
            if self._last_share is not _NO_SHARE:
                self._mixed_until = now + self.settings.mixed_s
            self._last_share = share

    def _is_waiting(self, share: Hashable) -> bool:
        queue = self._queues.get(share)
        return queue is not None and queue.length > 0

    def _follow_work(self, worked_s: float) -> None:
        """Let more start if rounds take little work, and fewer if they take much."""
        if self._worked_s is not None:
            limits = self.settings
            is_long = worked_s - self._worked_s > self.pace.work_s
            starts = self.starts_per_round * (_FEWER if is_long else _MORE)
            starts = max(min(starts, limits.unpaced_max), limits.starts_min)
            self._starts_per_round[self.pace] = starts
        self._worked_s = worked_s

    def _shed(self, this: Round[Sender], now: float) -> None:
        """Shed the calls that waited too long, oldest first, within shedding's part of the work."""
        per_round = self.starts_per_round * self.pace.shed_part / self.settings.shed_cost
        self._shed_credit = min(self._shed_credit, 1.0) + per_round
        while self._shed_credit >= 1 and (overdue := self._overdue(now)):
            self._shed_credit -= 1
            self.remove(overdue)
            this.shed.append(overdue)

    def _overdue(self, now: float) -> Waiting[Sender] | None:
        """The oldest call, if it waited too long."""
        while self._sheddable and not self._sheddable[0].is_waiting:
            self._sheddable.popleft()
        if not self._sheddable:
            return None
        oldest, limits = self._sheddable[0], self.settings
        is_standing = self._is_standing(self._queues[oldest.share], now)
        wait_max_s = limits.wait_max_s if is_standing else limits.standing_after_s
        return oldest if now - oldest.since > wait_max_s else None

    def _start_small(self, this: Round[Sender]) -> None:
        """Start all of the shares where few requests wait, unless there are many of them."""
        limits = self.settings
        if len(self._queues) > limits.unpaced_max:
            return
        small = [each for each in self._queues.values() if each.length <= limits.share_max]
        if sum(queue.length for queue in small) > limits.unpaced_max:
            return
        for queue in small:
            while queue.length:
                self._start_next(this, queue, is_standing=False)

    def _start_paced(self, this: Round[Sender], now: float) -> None:
        shed_work = len(this.shed) * self.settings.shed_cost
        self._start_credit = min(self._start_credit, 1.0) + self.starts_per_round - shed_work
        count = min(max(int(self._start_credit), 0), self.length)
        self._start_credit -= count
        self._start(this, count, now)

    def _start(self, this: Round[Sender], count: int, now: float) -> None:
        """Start so many requests, a share after the other; as many must wait."""
        count += len(this.started)
        while len(this.started) < count:
            start, _, queue = heappop(self._order)
            if not queue.length:
                self._next_starts[queue.share] = queue.next_start
                del self._queues[queue.share]
                continue
            if start == queue.next_start:
                self._virtual_time = start
                self._start_next(this, queue, is_standing=self._is_standing(queue, now))
            self._line_up(queue)

    def _start_next(self, this: Round[Sender], queue: _Queue[Sender], *, is_standing: bool) -> None:
        request = queue.pop(is_standing=is_standing)
        self.remove(request)
        this.started.append(request)
        queue.next_start += 1

    def _queue_of(self, request: Waiting[Sender]) -> _Queue[Sender]:
        share = request.share
        queue = self._queues.get(share)
        if queue is None:
            next_start = max(self._virtual_time, self._next_starts.pop(share, 0.0))
            queue = _Queue(share, next_start, request.since, request.is_sheddable)
            self._queues[share] = queue
            self._line_up(queue)
        return queue

    def _line_up(self, queue: _Queue[Sender]) -> None:
        self._order_count += 1
        heappush(self._order, (queue.next_start, self._order_count, queue))

    def _is_standing(self, queue: _Queue[Sender], now: float) -> bool:
        return now - queue.since > self.settings.standing_after_s

    def _reset(self) -> None:
        """Nothing waits: nobody is ahead of anybody."""
        self._queues.clear()
        self._order.clear()
        self._next_starts.clear()
        self._sheddable.clear()
        self._virtual_time = 0.0
