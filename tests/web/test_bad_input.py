"""Bad input: a clear problem document whatever was sent, and nothing is changed by it.

One gateway serves the whole module: what bad input leaves behind would show in the next row.
"""

import io
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from yarl import URL

from gateway.core.periods import PERIODS, Period
from tests.conftest import dsn_of
from tests.running import Gateway, run_agent, run_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Stands in what is sent wherever text fits, and must stand in no answer.
MARK = "zebra"
TABLES = ("workspaces", "workspace_spend_events", "workspace_spend_marks", "workspace_tokens")
TABLES += ("workspace_budget_changes",)

REGISTER = ("POST", "/registry/register")
HEARTBEAT = ("POST", "/registry/heartbeat")
BUDGET = ("PATCH", "/workspaces/w/budget")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connection(postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of this module's own."""
    server = await asyncpg.connect(postgres)
    await server.execute("CREATE DATABASE bad_input TEMPLATE template_gateway STRATEGY file_copy")
    connection = await asyncpg.connect(dsn_of(postgres, "bad_input"))
    yield connection
    await connection.close()
    await server.execute("DROP DATABASE bad_input WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(postgres: str, connection: asyncpg.Connection) -> AsyncIterator[Gateway]:
    """A gateway with the workspace `w`, which needs no token and has spent 140 of 1000."""
    async with run_agent() as agent, run_gateway(dsn_of(postgres, "bad_input")) as gateway:
        await connection.execute("INSERT INTO workspaces (id, url) VALUES ('w', $1)", agent.url)
        await gateway.limit("w", hourly=1000)
        await gateway.spend("w", 140, "")
        yield gateway


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unchanged(connection: asyncpg.Connection, gateway: Gateway) -> AsyncIterator[None]:
    """Fails a test that changed the ledger, a limit, a token or anything else that is stored."""
    before = await stored(connection)
    yield
    assert await stored(connection) == before


async def stored(connection: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    """All rows of all tables."""
    return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


async def refused(
    gateway: Gateway, method: str, path: str, body: Any = None, **fields: str
) -> tuple[int, str]:
    """Send it and give the status and the sentence of its problem, whose form is checked here."""
    url = URL(gateway.url + path, encoded=True)
    async with gateway.client.request(method, url, data=body, headers=fields) as answer:
        text = await answer.text()
        problem = await answer.json(content_type="application/problem+json")
        assert answer.headers["Cache-Control"] == "no-store"
    assert problem.keys() == {"type", "title", "status", "detail", "error"}
    assert problem["status"] == answer.status
    assert problem["error"] == problem["detail"]
    assert MARK not in text
    return answer.status, problem["detail"]


def nested(levels: int) -> bytes:
    """A body that is right for every route but for a member nested so deeply."""
    deep = '{"a":' * levels + "[]" + "}" * levels
    body = f'{{"workspace_id": "w", "id": "w", "url": "http://127.0.0.1", "agent_card": {deep},'
    return f'{body} "runtime_metadata": {deep}, "budget_limits": {deep}}}'.encode()


# No values of JSON: no UTF-8, a lone surrogate in both spellings, no numbers.
NO_VALUES = [b'"\xff\xfezebra"', b'"\xed\xa0\x80"', b'"\\ud800"', b"NaN", b"-Infinity"]
NO_VALUES += [b"1e400", b"9" * 400, b"0x10", b"01"]


@pytest.mark.parametrize(("method", "path"), [REGISTER, HEARTBEAT, BUDGET])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"zebra", b"null", b'"zebra"', b"5", b"[1]", b"[" * 60_000, b'{"a":' * 10_000),
        b'{"zebra": 1}',  # what is needed is missing
        b'[{"workspace_id": "w", "id": "w", "budget_limit": 1}]',
        b'{"workspace_id": "w", "id": "w", "budget_limit": 1',  # it breaks off
        b'{"workspace_id": "w", "id": "w", "budget_limit": 1}zebra',
        b"{'workspace_id': 'w', 'id': 'w', 'budget_limit': 1}",
        b"workspace_id=w&id=w&budget_limit=5",  # what a form sends
        b'\xef\xbb\xbf{"workspace_id": "w", "id": "w", "budget_limit": 1}',  # a byte order mark
        '{"workspace_id": "w", "id": "w", "budget_limit": 1}'.encode("utf-16"),
        *(b'{"workspace_id": "w", "id": "w", "budget_limit": %s}' % each for each in NO_VALUES),
        *(nested(65), nested(3_000)),
        b"\x1f\x8b\x08\x00zebra",  # gzip
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_body_that_is_no_object_of_json_is_400(
    gateway: Gateway, method: str, path: str, body: bytes
) -> None:
    assert (await refused(gateway, method, path, body))[0] == 400


async def test_a_hundred_thousand_brackets_are_400(gateway: Gateway) -> None:
    assert (await refused(gateway, *REGISTER, b"[" * 100_000))[0] == 400


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    """A body in chunks, whose length nobody knows before its end."""
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "bytes_max"),
    [(*REGISTER, 1024 * 1024), (*HEARTBEAT, 65_536), (*BUDGET, 65_536)],
)
async def test_body_over_its_limit_is_413(
    gateway: Gateway, method: str, path: str, bytes_max: int, is_chunked: bool
) -> None:
    body = b'{"workspace_id": "w", "id": "w", "monthly_spend": 999, "budget_limit": 5}'
    body = body.ljust(bytes_max + 1)
    sent = chunked(body) if is_chunked else io.BytesIO(body)
    assert (await refused(gateway, method, path, sent))[0] == 413


# No whole number, in JSON; each of them with the member's name in front.
NO_NUMBERS = ["1.5", "-0.5", "true", '"5"', '"zebra"', "[]", "[1]", "{}"]
NO_TEXTS = ["5", "true", "[]", '{"zebra": 1}', '"\\u0000zebra"']
NO_OBJECTS = ["5", '"zebra"', "[]", "false", '{"a": ["\\u0000"]}', '{"\\u0000": 1}']


@pytest.mark.parametrize(
    ("route", "member", "values"),
    [
        (BUDGET, "budget_limit", [*NO_NUMBERS, "-1", "1000000000001", "1e13", "1" + "0" * 30]),
        (BUDGET, "budget_limits", ["5", "true", '"zebra"', "[]", '{"zebra": 5}', '{"": null}']),
        (BUDGET, "reason", [*NO_TEXTS, f'"{"z" * 501}"', '"a\\nzebra"', '"a\\u009bzebra"']),
        (HEARTBEAT, "workspace_id", [*NO_TEXTS, "null"]),
        (HEARTBEAT, "monthly_spend", NO_NUMBERS),
        (HEARTBEAT, "uptime_seconds", NO_NUMBERS),
        (HEARTBEAT, "active_tasks", NO_NUMBERS),
        (HEARTBEAT, "error_rate", ["true", '"0.5"', "[]", "{}"]),
        (HEARTBEAT, "current_task", NO_TEXTS),
        (HEARTBEAT, "sample_error", NO_TEXTS),
        (HEARTBEAT, "runtime_state", NO_TEXTS),
        (HEARTBEAT, "runtime_metadata", NO_OBJECTS),
        (HEARTBEAT, "instance_id", [*NO_TEXTS, f'"{"i" * 201}"']),
        (HEARTBEAT, "counter_epoch", [*NO_TEXTS, f'"{"e" * 201}"']),
        (REGISTER, "id", [*NO_TEXTS, "null", '""', '"zebra/"', '"\\u00e9"', f'"{"a" * 129}"']),
        (REGISTER, "url", [*NO_TEXTS, "null", '""', '"zebra"', f'"http://127.0.0.1/{"z" * 2048}"']),
        (REGISTER, "agent_card", NO_OBJECTS),
    ],
)
async def test_member_of_a_wrong_type_or_size_is_400_and_named(
    gateway: Gateway, route: tuple[str, str], member: str, values: list[str]
) -> None:
    good = {"workspace_id": '"w"', "id": '"w"', "url": '"http://127.0.0.1"', "monthly_spend": "999"}
    if member == "reason":
        good["budget_limit"] = "5"
    for value in values:
        members = {**good, member: value}
        body = ", ".join(f'"{name}": {text}' for name, text in members.items())
        status, detail = await refused(gateway, *route, f"{{{body}}}".encode())
        assert (status, detail.startswith(member)) == (400, True), value


@pytest.mark.parametrize("limit", [*NO_NUMBERS, "-1", "1000000000001", "1e30", "-1e-300"])
@pytest.mark.parametrize("period", PERIODS, ids=lambda period: period.name)
async def test_limit_that_is_no_amount_is_400_and_names_its_period(
    gateway: Gateway, period: Period, limit: str
) -> None:
    body = f'{{"budget_limits": {{"{period.name}": {limit}}}}}'.encode()
    status, detail = await refused(gateway, *BUDGET, body)
    assert (status, detail.partition(" ")[0]) == (400, f"budget_limits.{period.name}")


@pytest.mark.parametrize("flag", ["", "True", "1", "zebra", "true%20", "%00", "%FF"])
async def test_flag_that_is_neither_true_nor_false_is_400_and_named(
    gateway: Gateway, flag: str
) -> None:
    method, path = BUDGET
    body = b'{"budget_limit": 5}'
    status, detail = await refused(gateway, method, f"{path}?dry_run={flag}", body)
    assert (status, detail.partition(" ")[0]) == (400, "dry_run")


async def test_mistake_is_the_same_whether_a_change_is_made_or_tried(gateway: Gateway) -> None:
    method, path = BUDGET
    for body in (b"zebra", b"{}", b'{"budget_limit": -1}', b'{"budget_limit": 1, "reason": 5}'):
        made = await refused(gateway, method, path, body)
        assert made == await refused(gateway, method, f"{path}?dry_run=true", body)


# Ids that name nobody: unknown ones, and those that cannot be ids at all.
IDS = [
    *("unknown", "00000000-0000-0000-0000-000000000000", "a" * 129, "a" * 4000),
    *("%00", "w%00", "%2F", "w%2Fx", "%20w", "w%0A", "w%0D%0Azebra:1", "%2e%2e", "w%25", "%zz"),
    *("%C3%A9zebra", "%F0%9F%A6%93", "%D9%A1"),  # beyond ASCII, a digit among them
    *("%FF%FE", "%ED%A0%80"),  # no UTF-8
    *("w'--", "w;zebra", "*"),
]


@pytest.mark.parametrize(
    ("method", "tail", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/budget", None),
        ("PATCH", "/budget", b'{"budget_limit": 5}'),
        ("PATCH", "/budget?dry_run=true", b'{"budget_limit": 5}'),
        ("GET", "/budget/changes", None),
        ("GET", "/spend", None),
        ("POST", "/a2a", b"{}"),
        ("GET", "/a2a", None),
        ("POST", "/a2a/message:send", b"{}"),
    ],
)
async def test_id_that_names_nobody_is_404(
    gateway: Gateway, method: str, tail: str, body: bytes | None
) -> None:
    for each in IDS:
        assert (await refused(gateway, method, f"/workspaces/{each}{tail}", body))[0] == 404, each


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/healthz", "GET"),
        ("DELETE", "/readyz", "GET"),
        ("PUT", "/metrics", "GET"),
        ("PATCH", "/openapi.yaml", "GET"),
        ("GET", "/registry/register", "POST"),
        ("PUT", "/registry/heartbeat", "POST"),
        ("POST", "/workspaces", "GET"),
        ("PUT", "/workspaces/w", "DELETE"),
        ("PROPFIND", "/workspaces/w/budget", "PATCH"),
        ("POST", "/workspaces/w/spend", "GET"),
        ("DELETE", "/workspaces/w/budget/changes", "GET"),
    ],
)
async def test_method_that_a_route_does_not_know_is_405(
    gateway: Gateway, method: str, path: str, allowed: str
) -> None:
    async with gateway.client.request(method, gateway.url + path) as answer:
        assert allowed in answer.headers["Allow"]
    assert (await refused(gateway, method, path, b"zebra"))[0] == 405


@pytest.mark.parametrize(
    "path", ["/zebra", "/workspaces/", "/workspaces/w/", "/workspaces/w/zebra", "//workspaces"]
)
async def test_address_without_a_route_is_404(gateway: Gateway, path: str) -> None:
    assert (await refused(gateway, "GET", path))[0] == 404
