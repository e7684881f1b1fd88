"""The API's description: valid, complete, and held against a live gateway by schemathesis."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
import yaml
from aiohttp import web
from schemathesis.engine import Status, events, from_schema
from schemathesis.hooks import unregister

from gateway.app import add_routes
from gateway.core.periods import PERIODS
from gateway.web.page.templates import assets_version
from tests.running import Agent, Gateway, run_gateway

# The methods that OpenAPI 3.1 can name; a call may have any of them but TRACE.
METHODS = ("GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH")

ADMIN_TOKEN = "an-admin-token"
WORKSPACE = "reno-stars"  # the one of the description's examples
REMOVABLE = "removable"
OFTEN = {"dictionary": "known", "probability": 0.5}

# Every phase and every check that schemathesis has, with the same cases in every run.
CONFIG: dict[str, Any] = {
    "seed": 1,
    "generation": {"deterministic": True, "max-examples": 15},
    "dictionaries": {"known": {"values": [WORKSPACE]}},
    "parameters": {"path.id": OFTEN, "body.workspace_id": OFTEN},
    "operations": [
        {
            "include-tag": "calls",
            "checks": {
                # A valid call is refused, too, once the budget is spent.
                "positive_data_acceptance": {"expected-statuses": ["2xx", "402", "404"]},
                # What is gone after a DELETE that was forwarded, only the agent knows.
                "use_after_free": {"enabled": False},
            },
            # Calls have any method, also those that the description cannot name (QUERY).
            "phases": {"coverage": {"unexpected-methods": ["trace"]}},
        },
        {
            "include-operation-id": "changeBudget",
            # Whether If-Match names the limits as they are, no schema can say.
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "412"]}},
        },
        {
            "include-tag": "page",
            # People are not told off for an address that makes no sense, nor for a blank form.
            "checks": {
                "negative_data_rejection": {"enabled": False},
                # Another operator may have been faster, and tokens are guessed too often.
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "3xx", "401", "404", "409", "429"]
                },
            },
        },
        # A stream does not end; tests/web/test_page_live.py reads them.
        {"include-path-regex": "/events$", "enabled": False},
    ],
}
STREAMS = 2


@pytest.fixture
async def text(gateway: Gateway) -> str:
    """The description as it is served."""
    async with gateway.client.get(gateway.url + "/openapi.yaml") as answer:
        assert (answer.status, answer.content_type) == (200, "application/yaml")
        return await answer.text()


async def test_description_is_valid_openapi(text: str) -> None:
    description = yaml.safe_load(text)
    assert description["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(description).validate()


async def test_description_names_the_periods_that_there_are(text: str) -> None:
    schemas = yaml.safe_load(text)["components"]["schemas"]
    assert schemas["PeriodName"]["enum"] == [period.name for period in PERIODS]
    assert re.findall(r"PERIOD_NAMES|[A-Z]+_PERIOD", text.partition("openapi:")[2]) == []


async def test_every_example_fits_its_schema(text: str) -> None:
    components = yaml.safe_load(text)["components"]
    for name, schema in components["schemas"].items():
        whole = {"$ref": f"#/components/schemas/{name}", "components": components}
        for example in schema.get("examples", []):
            jsonschema_rs.Draft202012Validator(whole).validate(example)


async def test_every_route_is_described_and_nothing_else(text: str) -> None:
    described = {
        (method.upper(), path)
        for path, item in yaml.safe_load(text)["paths"].items()
        for method in item
        if method.upper() in METHODS
    }
    assert named(described) == named(routes())


def routes() -> Iterator[tuple[str, str]]:
    """What the application answers, as method and path."""
    router = web.UrlDispatcher()
    add_routes(router)
    for route in router.routes():
        assert route.resource is not None
        # aiohttp answers HEAD wherever it answers GET.
        is_implied = route.method == "HEAD"
        for method in () if is_implied else METHODS if route.method == "*" else (route.method,):
            yield method, route.resource.canonical


def named(operations: Any) -> set[tuple[str, str]]:
    """Operations without the names of their parameters."""
    return {(method, re.sub(r"{\w+}", "{}", path)) for method, path in operations}


@dataclass
class Findings:
    """What schemathesis found, and the statuses that every operation was answered with."""

    failures: list[str] = field(default_factory=list)
    statuses: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add(self, event: object) -> None:
        """Take in what an event of the engine tells."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures.append(str(vars(event)))
        if not isinstance(event, events.ScenarioFinished):
            return
        recorder = event.recorder
        for case_id, interaction in recorder.interactions.items():
            if case_id in recorder.cases and interaction.response is not None:
                label = recorder.cases[case_id].value.operation.label
                self.statuses[label].add(interaction.response.status_code)
        for check in (check for checks in recorder.checks.values() for check in checks):
            if check.status is not Status.SUCCESS and (found := check.failure_info) is not None:
                failure = f"{found.failure.operation}: {found.failure.title}"
                self.failures.append(f"{failure}\n{found.failure.message}\n{found.code_sample}")


async def test_live_gateway_answers_as_described(
    dsn: str, stack: AsyncExitStack, agent: Agent
) -> None:
    environment = {"GATEWAY_AUTH__ADMIN_TOKENS": ADMIN_TOKEN}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    token = await gateway.register(WORKSPACE, agent.url)
    await gateway.register(REMOVABLE, agent.url)
    findings = await asyncio.to_thread(run_all_phases, gateway.url, agent.url, token)
    assert findings.failures == []
    # Guards the test itself: every operation got past its checks of token, id and input.
    early = {400, 401, 403, 404, 405, 413}
    assert [label for label, found in findings.statuses.items() if found <= early] == []
    assert len(findings.statuses) == len(named(routes())) - STREAMS


def run_all_phases(gateway_url: str, agent_url: str, token: str) -> Findings:
    """Run schemathesis against the gateway. Blocks: it is a client of its own."""
    config = schemathesis.Config.from_dict({**CONFIG, "base-url": gateway_url})
    description = schemathesis.openapi.from_url(gateway_url + "/openapi.yaml").raw_schema
    schema = schemathesis.openapi.from_dict(description, config=config)

    @schema.auth(refresh_interval=None)
    class Tokens:
        """Agents' token for heartbeats, an operator's for the rest."""

        def get(self, case: schemathesis.Case, _: object) -> str:
            return token if case.operation.path == "/registry/heartbeat" else ADMIN_TOKEN

        def set(self, case: schemathesis.Case, value: str, _: object) -> None:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {value}"}

    findings = Findings()
    with adjusted_calls(agent_url):
        for event in from_schema(schema).execute():
            findings.add(event)
    return findings


@contextmanager
def adjusted_calls(agent_url: str) -> Iterator[None]:
    """Keeps what no schema can say, and the workspace that all other calls need."""
    removed: list[object] = []

    def before_call(_: object, case: schemathesis.Case, _kwargs: object) -> None:
        body = case.body if isinstance(case.body, dict) else {}
        is_valid = case.meta is not None and case.meta.generation.mode.is_positive
        # Agents live in allowed networks, and no test asks a name server.
        if case.operation.path == "/registry/register" and str(body.get("url"))[:4] == "http":
            body["url"] = agent_url
            # One that registers again is there again, which the check of what is gone cannot know.
            if body.get("id") in removed:
                body["id"] = WORKSPACE
        # Files have the one version that this gateway has.
        if case.operation.path.startswith("/ui/assets/"):
            case.path_parameters.update(version=assets_version(), name="style.css")
        # Both forms of a limit must agree.
        if case.operation.method == "patch" and is_valid and "budget_limits" in body:
            body.pop("budget_limit", None)
        if (
            case.operation.label == "DELETE /workspaces/{id}"
            and case.path_parameters["id"] == WORKSPACE
        ):
            case.path_parameters["id"] = REMOVABLE
        if case.operation.label == "DELETE /workspaces/{id}":
            removed.append(case.path_parameters["id"])

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        unregister(before_call)
