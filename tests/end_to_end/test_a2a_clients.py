"""Real A2A callers and agents, on both SDK versions in the field, with the gateway between them."""

import asyncio
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import dsn_of
from tests.end_to_end.a2a_older_sdk import NoOlderSdk, find_older_python
from tests.end_to_end.a2a_processes import (
    NEWER,
    OLDER,
    Agent,
    CallFailed,
    Script,
    User,
    run_script,
)
from tests.running import Gateway, run_gateway

# One loop, gateway and set of processes for all tests here: it is starting them that takes time.
pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSAL = r"workspace budget limit exceeded: hourly \$1\.40 of \$1\.00; earliest retry [-\d: ]+ UTC"
FORMS = {"JSONRPC": {"code": -32000}, "HTTP+JSON": {"code": 402, "status": "RESOURCE_EXHAUSTED"}}

EXTENSION = "urn:example:extension"
# By the versions of caller and agent.
SENT_HEADERS = {
    (NEWER, NEWER): {"a2a-version": "1.0", "a2a-extensions": EXTENSION},
    (NEWER, OLDER): {
        "a2a-version": "0.3",
        "a2a-extensions": EXTENSION,
        "x-a2a-extensions": EXTENSION,
    },
    (OLDER, NEWER): {"x-a2a-extensions": EXTENSION},
    (OLDER, OLDER): {"x-a2a-extensions": EXTENSION},
}

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def older_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with a2a-sdk 0.3; if it has to be made, pytest's cache keeps it."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("a2a-0.3") if cache else tmp_path_factory.mktemp("a2a-0.3")
    try:
        return find_older_python(folder)
    except NoOlderSdk as error:
        pytest.skip(f"a2a-sdk 0.3 cannot be had: {error}")


def python_of(version: str, request: pytest.FixtureRequest) -> Path:
    """The Python with this version; the older one is only looked for when a test needs it."""
    return Path(sys.executable if version == NEWER else request.getfixturevalue("older_python"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(postgres: str) -> AsyncIterator[Gateway]:
    """A gateway on a database of this module's own."""
    connection = await asyncpg.connect(postgres)
    await connection.execute("CREATE DATABASE a2a_clients TEMPLATE template_gateway")
    async with run_gateway(dsn_of(postgres, "a2a_clients")) as gateway:
        yield gateway
    await connection.execute("DROP DATABASE a2a_clients WITH (FORCE)")
    await connection.close()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[NEWER, OLDER], ids="agent on {}".format
)
async def agent(request: pytest.FixtureRequest) -> AsyncIterator[Agent]:
    """An agent with JSON-RPC and REST; the newer one speaks 1.0 and 0.3 on the same URL."""
    python = python_of(request.param, request)
    async with run_script(python, request.param, "agent.py") as script:
        yield Agent(script, await script.hear())


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[NEWER, OLDER], ids="caller on {}".format
)
async def program(request: pytest.FixtureRequest) -> AsyncIterator[Script]:
    """A user's program."""
    python = python_of(request.param, request)
    async with run_script(python, request.param, "client.py") as script:
        yield script


@dataclass
class Workspace:
    """A workspace with an agent, and what becomes of its budget."""

    gateway: Gateway
    id: str
    token: str

    @property
    def url(self) -> str:
        """Where users find the agent."""
        return f"{self.gateway.url}/workspaces/{self.id}/a2a"

    async def spend_over_its_limit(self) -> None:
        """Report $1.40 spent of $1.00."""
        await self.gateway.limit(self.id, hourly=100)
        await self.gateway.spend(self.id, 140, self.token)

    async def raise_its_limit(self) -> None:
        """Leave room again."""
        await self.gateway.limit(self.id, hourly=200)


@pytest_asyncio.fixture(loop_scope="module")
async def workspace(gateway: Gateway, agent: Agent) -> Workspace:
    """A workspace of this test's own."""
    workspace_id = f"agent-{next(_numbers)}"
    return Workspace(gateway, workspace_id, await gateway.register(workspace_id, agent.url))


@pytest.fixture(params=["JSONRPC", "HTTP+JSON"])
def user(request: pytest.FixtureRequest, program: Script, workspace: Workspace) -> User:
    """Who calls the workspace's agent, in one of the bindings."""
    return User(program, workspace.url, request.param)


@pytest.mark.parametrize(
    ("card", "name"), [("card", "counter"), ("extended card", "extended counter")]
)
async def test_card_leads_through_the_gateway_alone(
    user: User, workspace: Workspace, card: str, name: str
) -> None:
    seen = await user.gets(card)
    assert seen["name"] == name
    assert {url.rstrip("/") for url in seen["urls"]} == {workspace.url}


async def test_headers_of_a2a_reach_the_agent_and_its_answer_the_user(
    user: User, agent: Agent
) -> None:
    seen = await user.gets("send", text="Which headers reached you?")
    versions = (user.program.version, agent.script.version)
    assert json.loads(seen["text"]) == SENT_HEADERS[versions]


async def test_event_arrives_before_the_agent_sends_the_next(user: User, agent: Agent) -> None:
    events = user.watches("stream", text="count")
    assert (await anext(events))["state"] == "submitted"
    for number in ("1", "2", "3"):
        agent.go_on()
        assert (await anext(events))["text"] == number
    agent.finish()
    assert [event["state"] async for event in events] == ["completed"]


@pytest.mark.parametrize("call", ["send", "stream"])
async def test_refusal_tells_the_user_how_much_was_spent_and_when_to_come_back(
    user: User, agent: Agent, workspace: Workspace, call: str
) -> None:
    await workspace.spend_over_its_limit()
    with pytest.raises(CallFailed) as failed:
        await user.gets(call, text="hello")
    assert failed.value.status == 402
    assert re.search(REFUSAL, shown(failed.value, user, agent))

    await workspace.raise_its_limit()
    assert (await user.gets(call, text="hello"))["text"]


def shown(error: CallFailed, user: User, agent: Agent) -> str:
    """What a user reads: the error's own words, and where they are no more than "402" the log."""
    versions = (user.program.version, agent.script.version)
    if (*versions, user.binding) == (NEWER, OLDER, "JSONRPC"):
        return error.traceback
    return str(error)


async def test_refusal_is_in_the_form_of_the_binding(user: User, workspace: Workspace) -> None:
    await workspace.spend_over_its_limit()
    with pytest.raises(CallFailed) as failed:
        await user.gets("send", text="hello")
    error = failed.value.answer["error"]
    assert error.items() >= FORMS[user.binding].items()
    assert re.fullmatch(REFUSAL, error["message"])


async def test_task_of_a_workspace_over_its_budget_can_be_read_and_cancelled(
    user: User, workspace: Workspace
) -> None:
    task = (await user.gets("start", text="count"))["task"]
    await workspace.spend_over_its_limit()
    assert (await user.gets("get", task=task))["state"] == "submitted"
    assert (await user.gets("cancel", task=task))["state"] == "canceled"
    assert (await user.gets("get", task=task))["state"] == "canceled"


@pytest.mark.parametrize("card", ["card", "extended card"])
async def test_cards_of_a_workspace_over_its_budget_can_be_read(
    user: User, workspace: Workspace, card: str
) -> None:
    await workspace.spend_over_its_limit()
    assert (await user.gets(card))["urls"]


async def test_task_of_a_workspace_over_its_budget_can_be_watched_to_its_end(
    user: User, agent: Agent, workspace: Workspace
) -> None:
    task = (await user.gets("start", text="count"))["task"]
    await workspace.spend_over_its_limit()
    events = user.watches("watch", task=task)
    first = asyncio.ensure_future(anext(events))
    # An agent on 0.3 tells who comes later nothing until there is something new.
    while not first.done():
        agent.go_on()
        await asyncio.wait([first], timeout=0.02)
    assert first.result()["task"] == task
    agent.finish()
    assert [event["state"] async for event in events][-1] == "completed"
