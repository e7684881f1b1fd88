"""When requests start, and which are shed: the rules, without a server and without a clock."""

from dataclasses import replace

import pytest

from gateway.web.request_scheduler import Pace, RequestScheduler, Round, SchedulerSettings, Waiting

# Every request waits, and one starts in each round.
SLOWLY = Pace(work_s=0, shed_part=0.001)
ONE_A_ROUND = SchedulerSettings(unpaced_max=0, share_max=0, mixed=SLOWLY, alone=SLOWLY)


class Scheduled:
    """A scheduler with a clock of the test's own; requests are named by their number."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.scheduler: RequestScheduler[str] = RequestScheduler(settings)
        self.now = 100.0
        self.worked_s = 0.0

    def arrive(self, share: str, *names: str, is_sheddable: bool = True) -> list[Waiting[str]]:
        """Requests of a share that all wait, by their names."""
        return [
            self.scheduler.add(name, b"", share, is_sheddable=is_sheddable, now=self.now)
            for name in names
        ]

    def may_start(self, share: str, *, is_sheddable: bool = True) -> bool:
        return self.scheduler.may_start(share, is_sheddable=is_sheddable, now=self.now)

    def next_round(
        self, after_s: float = 0.0, work_s: float = 1.0, checking: int = 0
    ) -> Round[str]:
        self.now += after_s
        self.worked_s += work_s
        return self.scheduler.next_round(self.now, worked_s=self.worked_s, checking=checking)

    def starts(self, rounds: int) -> list[str]:
        """The names of what starts in so many rounds."""
        return [each.sender for _ in range(rounds) for each in self.next_round().started]


def names(requests: list[Waiting[str]]) -> list[str]:
    return [request.sender for request in requests]


def test_64_requests_start_in_a_turn_and_as_many_in_the_next() -> None:
    scheduler: RequestScheduler[str] = RequestScheduler()
    for _ in range(3):
        for _ in range(64):
            assert scheduler.is_quiet
            scheduler.start_quiet()
        assert not scheduler.is_quiet
        scheduler.end_turn()


def test_64_requests_that_wait_start_together() -> None:
    scheduled = Scheduled(SchedulerSettings())
    scheduled.arrive("a", *map(str, range(64)))
    assert len(scheduled.next_round().started) == 64
    scheduled.arrive("a", *map(str, range(65)))
    assert len(scheduled.next_round().started) == 1


def test_request_behind_others_of_its_share_does_not_overtake_them() -> None:
    scheduled = Scheduled(SchedulerSettings())
    scheduled.arrive("a", "1")
    assert not scheduled.scheduler.is_quiet
    assert not scheduled.may_start("a")


def test_request_of_another_share_starts_before_those_that_wait() -> None:
    scheduled = Scheduled(SchedulerSettings())
    scheduled.arrive("a", *map(str, range(1000)))
    assert [scheduled.may_start("b") for _ in range(9)] == [True] * 8 + [False]
    scheduled.scheduler.end_turn()
    assert scheduled.may_start("b")


def test_shares_of_their_own_are_not_a_way_around_the_limit_of_a_turn() -> None:
    scheduled = Scheduled(SchedulerSettings())
    scheduled.arrive("a", "1")
    assert [scheduled.may_start(f"share {number}") for number in range(70)].count(True) == 64


def test_shares_take_turns_whatever_each_of_them_sends() -> None:
    scheduled = Scheduled(ONE_A_ROUND)
    scheduled.arrive("a", *(f"a{number}" for number in range(50)))
    scheduled.arrive("b", "b0", "b1")
    scheduled.arrive("c", "c0")
    assert scheduled.starts(6) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_share_that_asks_seldom_is_next_behind_nothing_of_a_flood() -> None:
    scheduled = Scheduled(ONE_A_ROUND)
    scheduled.arrive("flood", *(f"f{number}" for number in range(50)))
    for number in range(5):
        scheduled.starts(4)
        scheduled.arrive("b", f"b{number}")
        assert f"b{number}" in scheduled.starts(2)


def test_share_gains_nothing_by_being_empty_in_between() -> None:
    scheduled = Scheduled(ONE_A_ROUND)
    scheduled.arrive("a", *(f"a{number}" for number in range(50)))
    started = []
    for number in range(20):
        scheduled.arrive("b", f"b{number}")
        started += scheduled.starts(2)
    assert len([name for name in started if name.startswith("a")]) == pytest.approx(20, abs=1)


def test_share_with_few_requests_does_not_wait_for_paced_ones() -> None:
    scheduled = Scheduled(replace(ONE_A_ROUND, unpaced_max=32, share_max=8))
    scheduled.arrive("a", *(f"a{number}" for number in range(50)))
    scheduled.arrive("b", "b0", "b1")
    assert names(scheduled.next_round().started) == ["b0", "b1", "a0"]
    # Not even if so many checks are waited for that nothing else starts.
    scheduled.arrive("b", "b2")
    assert names(scheduled.next_round(checking=32).started) == ["b2"]


def test_nothing_more_starts_while_many_calls_wait_for_their_check() -> None:
    scheduled = Scheduled(ONE_A_ROUND)
    scheduled.arrive("a", "1")
    assert scheduled.next_round(checking=32).started == []
    assert names(scheduled.next_round(checking=31).started) == ["1"]


def test_starts_follow_the_work_that_rounds_take() -> None:
    scheduled = Scheduled(SchedulerSettings(alone=Pace(work_s=0.001, shed_part=0.25)))
    scheduled.arrive("a", *map(str, range(20_000)))
    for _ in range(300):
        scheduled.next_round(work_s=0.0005)
    assert scheduled.scheduler.starts_per_round > 16
    for _ in range(300):
        scheduled.next_round(work_s=0.002)
    assert scheduled.scheduler.starts_per_round == 1


def test_rounds_are_short_while_there_are_calls_to_another_workspace() -> None:
    scheduled = Scheduled(SchedulerSettings())
    scheduler = scheduled.scheduler
    scheduled.arrive("a", *map(str, range(1000)))

    def pace_after(share: str, *, is_sheddable: bool = True) -> Pace:
        scheduled.may_start(share, is_sheddable=is_sheddable)
        scheduled.next_round()
        return scheduler.pace

    limits = scheduler.settings
    assert pace_after("a") == limits.alone
    assert pace_after("probe", is_sheddable=False) == limits.alone
    assert pace_after("b") == limits.mixed
    scheduled.now += 2
    assert pace_after("b") == limits.alone
    assert pace_after("a") == limits.mixed


# A queue may be there for 10 s before it stands, and its calls then wait for 1 s.
SHEDDING = SchedulerSettings(
    unpaced_max=0, share_max=0, alone=Pace(0, 0.25), standing_after_s=10, wait_max_s=1
)
# Shedding may take all the work there is, and nothing starts.
ONLY_SHEDDING = replace(SHEDDING, alone=Pace(0, 1000), checking_max=0)


@pytest.mark.parametrize(
    ("stood_s", "waited_s", "is_shed"),
    [
        (0, 9, False),  # a burst may wait
        (0, 11, True),
        (9, 0.5, False),
        (9, 1.5, True),  # the queue stands by now
        (20, 0.5, False),
        (20, 1.5, True),
    ],
)
def test_call_is_shed_by_how_long_it_waited_and_how_long_its_queue_stands(
    stood_s: float, waited_s: float, is_shed: bool
) -> None:
    scheduled = Scheduled(ONLY_SHEDDING)
    # Keeps the queue from being empty, and is never shed.
    scheduled.arrive("a", "first", is_sheddable=False)
    scheduled.now += stood_s
    scheduled.arrive("a", "call")
    assert names(scheduled.next_round(after_s=waited_s).shed) == ["call"] * is_shed


def test_only_what_may_be_shed_is_shed() -> None:
    scheduled = Scheduled(ONLY_SHEDDING)
    scheduled.arrive("probe", "probe", is_sheddable=False)
    scheduled.arrive("a", "call")
    assert names(scheduled.next_round(after_s=1000).shed) == ["call"]
    assert scheduled.scheduler.length == 1


def test_standing_queue_of_calls_starts_its_newest_first() -> None:
    scheduled = Scheduled(replace(ONE_A_ROUND, standing_after_s=10, wait_max_s=100))
    scheduled.arrive("a", "old", "older", "new")
    scheduled.arrive("page", "first", "second", is_sheddable=False)
    assert scheduled.starts(2) == ["old", "first"]
    scheduled.now += 11
    scheduled.arrive("a", "newest")
    # What is never shed keeps its order: its oldest would wait forever.
    assert scheduled.starts(2) == ["newest", "second"]


def test_shedding_leaves_three_quarters_of_the_work_to_starts() -> None:
    scheduled = Scheduled(SHEDDING)
    scheduled.arrive("a", *map(str, range(5000)))
    scheduled.now += 100
    rounds = [scheduled.next_round() for _ in range(400)]
    started = sum(len(each.started) for each in rounds)
    shed = sum(len(each.shed) for each in rounds)
    assert shed * SHEDDING.shed_cost == pytest.approx(100, rel=0.05)
    assert started == pytest.approx(300, rel=0.05)


def test_oldest_call_is_shed_first() -> None:
    scheduled = Scheduled(SHEDDING)
    scheduled.arrive("a", "1")
    scheduled.arrive("b", "2")
    scheduled.arrive("a", "3", "4")
    assert names(scheduled.next_round(after_s=100).shed) == ["1"]


def test_removed_request_neither_starts_nor_is_shed() -> None:
    scheduled = Scheduled(ONE_A_ROUND)
    first, second, third = scheduled.arrive("a", "1", "2", "3")
    for request in (second, first):
        scheduled.scheduler.remove(request)
    assert scheduled.scheduler.length == 1
    assert scheduled.starts(5) == ["3"]
    assert not third.is_waiting
    # Nothing is left of it: the share begins anew.
    scheduled.arrive("a", "4")
    assert scheduled.starts(1) == ["4"]


def test_nothing_is_kept_of_requests_that_no_longer_wait() -> None:
    scheduled = Scheduled(replace(SHEDDING, wait_max_s=0.1, standing_after_s=0.1))
    scheduler = scheduled.scheduler
    for number in range(3000):
        scheduled.arrive("a", f"{number}a", f"{number}b")
        scheduled.next_round(after_s=0.01)
    kept = sum(len(queue.requests) for queue in scheduler._queues.values())
    assert kept <= 2 * scheduler.length
    assert len(scheduler._sheddable) <= 2 * scheduler.length
