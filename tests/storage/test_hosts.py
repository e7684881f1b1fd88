"""A DSN of several hosts: each is asked in turn, and one that is silent keeps nobody waiting."""

import asyncio
from dataclasses import dataclass

import pytest

from gateway.storage import hosts
from gateway.storage.hosts import each_host, first_connected


@pytest.mark.parametrize(
    ("dsn", "each"),
    [
        ("postgresql://u:p@a:1/d?x=1", ["postgresql://u:p@a:1/d?x=1"]),
        ("postgresql:///d?host=/run&port=1", ["postgresql:///d?host=/run&port=1"]),
        ("postgresql://", ["postgresql://"]),
        ("not a DSN, says the driver", ["not a DSN, says the driver"]),
        (
            "postgresql://u:p%40@a:1,b,[::1]:2/d?sslmode=require&target_session_attrs=read-write",
            [
                f"postgresql://u:p%40@{host}/d?sslmode=require&target_session_attrs=read-write"
                for host in ("a:1", "b", "[::1]:2")
            ],
        ),
        ("postgresql://[::1]:2/d", ["postgresql://[::1]:2/d"]),
        ("postgresql://[::1],a/d", ["postgresql://[::1]/d", "postgresql://a/d"]),
        # An environment file may leave the end of the line.
        ("postgresql://a,b/d\n", ["postgresql://a/d", "postgresql://b/d"]),
        ("postgresql://a,b?x=1#c", ["postgresql://a?x=1#c", "postgresql://b?x=1#c"]),
        ("postgresql://a,b/d", ["postgresql://a/d", "postgresql://b/d"]),
        (
            "postgresql://u@/d?host=/run/a b,c&port=1,2&user=%26",
            [
                "postgresql://u@/d?host=%2Frun%2Fa+b&port=1&user=%26",
                "postgresql://u@/d?host=c&port=2&user=%26",
            ],
        ),
        (
            "postgresql://u@/d?host=a,b&port=1",  # one port is that of every host
            ["postgresql://u@/d?host=a&port=1", "postgresql://u@/d?host=b&port=1"],
        ),
        (
            "postgresql://u@/d?host=a,b",
            ["postgresql://u@/d?host=a&port=5432", "postgresql://u@/d?host=b&port=5432"],
        ),
        # The driver says what is wrong with it.
        ("postgresql://u@/d?host=a,b&port=1,2,3", ["postgresql://u@/d?host=a,b&port=1,2,3"]),
        # The driver takes the host that stands first, and so do we.
        ("postgresql://u@a/d?host=b,c", ["postgresql://u@a/d?host=b,c"]),
    ],
)
def test_each_host_has_a_dsn_of_its_own(dsn: str, each: list[str]) -> None:
    assert each_host(dsn) == each


@dataclass
class Host:
    """A host that answers, refuses, or does neither."""

    refusal: Exception | None = None
    is_silent: bool = False
    is_asked: bool = False
    is_terminated: bool = False
    is_given_up: bool = False

    async def connect(self) -> "Host":
        self.is_asked = True
        try:
            await asyncio.sleep(3600 if self.is_silent else 0)
        except asyncio.CancelledError:
            self.is_given_up = True
            raise
        if self.refusal is not None:
            raise self.refusal
        return self

    def terminate(self) -> None:
        self.is_terminated = True


async def connected(*asked: Host) -> Host:
    async with asyncio.timeout(5):
        return await first_connected([host.connect for host in asked], (OSError,))


async def test_second_host_is_not_asked_if_the_first_answers() -> None:
    first, second = Host(), Host()
    assert await connected(first, second) is first
    assert not second.is_asked


async def test_second_host_is_taken_if_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HEAD_START_S", 3600)  # a refusal is not waited for any longer
    second = Host()
    assert await connected(Host(OSError()), second) is second


async def test_third_host_is_taken_if_others_are_silent_and_those_are_given_up() -> None:
    first, second, third = Host(is_silent=True), Host(is_silent=True), Host()
    assert await connected(first, second, third) is third
    assert first.is_given_up
    assert second.is_given_up
    assert not third.is_terminated


async def test_last_refusal_is_told_if_all_refuse() -> None:
    with pytest.raises(OSError, match="second"):
        await connected(Host(OSError("first")), Host(OSError("second")))


async def test_mistake_of_ours_is_no_refusal() -> None:
    second = Host()
    with pytest.raises(LookupError):
        await connected(Host(LookupError()), second)
    assert not second.is_asked


async def test_host_that_answers_too_late_is_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HEAD_START_S", 0)
    first, second = Host(), Host()
    winner = await connected(first, second)
    loser = second if winner is first else first
    assert loser.is_asked
    assert loser.is_terminated or loser.is_given_up


async def test_hosts_are_given_up_with_the_caller() -> None:
    silent = Host(is_silent=True)
    caller = asyncio.create_task(connected(silent))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    assert silent.is_given_up
