"""Which browsers may do what: pages of other sites."""

import pytest

from tests.running import Agent, Gateway
from tests.web.test_page import post

SAVE = {"save": "", "limit-hourly": "9"}


@pytest.mark.parametrize("origin", ["http://[", "null", "", "://", "http://127.0.0.1.evil.example"])
async def test_origin_that_is_none_is_another_site(
    gateway: Gateway, agent: Agent, origin: str
) -> None:
    await gateway.register("w", agent.url)
    assert (await post(gateway, "/ui/workspaces/w", SAVE, Origin=origin))[0] == 403
