"""How often a token may be tried."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from gateway.core.errors import TooManyRequests
from gateway.web.page.attempts import FAILURES_MAX, SOURCES_MAX, Attempts
from tests.running import Agent, Gateway, run_gateway
from tests.web.test_page import ADMIN_TOKEN

PROXY = {
    "GATEWAY_AUTH__ADMIN_TOKENS": ADMIN_TOKEN,
    "GATEWAY_SERVER__TRUSTED_PROXIES": "127.0.0.0/8, 10.0.0.0/8",
}


async def try_token(gateway: Gateway, token: str, *forwarded_for: str, workspace: str = "") -> int:
    """The status of one attempt; each of `forwarded_for` is a field of its own."""
    headers = [("X-Forwarded-For", value) for value in forwarded_for]
    async with gateway.client.post(
        f"{gateway.url}/ui/sign-in",
        data={"token": token, "workspace": workspace},
        headers=headers,
        allow_redirects=False,
    ) as answer:
        gateway.client.cookie_jar.clear()
        return answer.status


async def test_attempts_at_once_are_no_more_than_one_after_another(
    dsn: str, agent: Agent, stack: AsyncExitStack
) -> None:
    gateway = await stack.enter_async_context(run_gateway(dsn, PROXY))
    await gateway.register("w", agent.url)
    # A workspace's token is looked up in the database, which takes a while.
    attempts = [try_token(gateway, f"wrong-{number}", workspace="w") for number in range(40)]
    assert Counter(await asyncio.gather(*attempts)) == {401: FAILURES_MAX, 429: 30}


async def test_attempt_that_succeeds_does_not_count(dsn: str, stack: AsyncExitStack) -> None:
    gateway = await stack.enter_async_context(run_gateway(dsn, PROXY))
    for _ in range(FAILURES_MAX + 1):
        assert await try_token(gateway, ADMIN_TOKEN) == 303


async def test_address_is_what_our_own_proxy_says_and_not_what_the_caller_does(
    dsn: str, stack: AsyncExitStack
) -> None:
    gateway = await stack.enter_async_context(run_gateway(dsn, PROXY))
    for number in range(FAILURES_MAX):
        # Some proxies add a field of their own, some add to the one that is there; the second of
        # ours names the first.
        fields = ([f"8.8.8.{number}", "1.2.3.4"], [f"8.8.8.{number}, 1.2.3.4, 10.0.0.1"])
        assert await try_token(gateway, "wrong", *fields[number % 2]) == 401
    assert await try_token(gateway, "wrong", "1.2.3.4") == 429
    assert await try_token(gateway, "wrong", "1.2.3.5") == 401


def fail(attempts: Attempts, address: str) -> bool:
    """Whether a failed attempt was allowed."""
    try:
        attempts.begin(address)
    except TooManyRequests:
        return False
    return True


@pytest.mark.parametrize(
    ("addresses", "is_one"),
    [
        (("2001:db9::1", "2001:db9::ffff:1"), True),  # one network
        (("2001:db9::1", "2001:db9:0:1::1"), False),
        (("::ffff:1.2.3.4", "1.2.3.4"), True),
        (("1.2.3.4", "1.2.3.5"), False),
    ],
)
def test_network_of_ipv6_is_one_source(addresses: tuple[str, str], is_one: bool) -> None:
    attempts = Attempts()
    assert all(fail(attempts, addresses[0]) for _ in range(FAILURES_MAX))
    assert fail(attempts, addresses[1]) is not is_one


def test_table_of_attempts_has_an_end() -> None:
    attempts = Attempts()
    for number in range(SOURCES_MAX + 100):
        attempts.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._failures) == SOURCES_MAX
