"""The pages as they come from the server: what they show, and who sees them."""

import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from multidict import CIMultiDictProxy

from gateway.core.periods import PERIODS
from gateway.web.page.attempts import FAILURES_MAX
from tests.running import Agent, Gateway, run_gateway
from tests.storage.rows import add_rows, add_workspace

ADMIN_TOKEN = "an-admin-token"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
Answer = tuple[int, CIMultiDictProxy[str], str]


@pytest.fixture
async def guarded(dsn: str, stack: AsyncExitStack) -> Gateway:
    """A gateway whose operators need a token."""
    environment = {"GATEWAY_AUTH__ADMIN_TOKENS": ADMIN_TOKEN}
    return await stack.enter_async_context(run_gateway(dsn, environment))


async def get(gateway: Gateway, path: str, **headers: str) -> Answer:
    """Status, headers and text of a page; redirects are not followed."""
    return await ask(gateway, "GET", path, headers)


async def post(gateway: Gateway, path: str, form: dict[str, str], **headers: str) -> Answer:
    """The same for a form."""
    return await ask(gateway, "POST", path, headers, data=form)


async def ask(
    gateway: Gateway, method: str, path: str, headers: dict[str, str], **options: Any
) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.client.request(
        method, gateway.url + path, headers=fields, allow_redirects=False, **options
    ) as answer:
        gateway.client.cookie_jar.clear()
        return answer.status, answer.headers, await answer.text()


def words(html: str) -> str:
    """The text of a page, one blank between words."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


async def sign_in(gateway: Gateway, token: str, workspace: str = "") -> tuple[int, str]:
    """The status, and the cookie that came with it."""
    form = {"token": token, "workspace": workspace}
    status, headers, _ = await post(gateway, "/ui/sign-in", form)
    return status, headers.get("Set-Cookie", "").partition(";")[0]


async def test_overview_shows_the_top_spenders_first(gateway: Gateway, agent: Agent) -> None:
    for name, cents in (("small", 100), ("large", 900), ("middle", 500)):
        token = await gateway.register(name, agent.url)
        await gateway.spend(name, cents, token)
    await gateway.limit("large", hourly=1000)
    status, _, text = await get(gateway, "/")
    assert status == 200
    assert re.findall(r'id="row:(\w+)"', text) == ["large", "middle", "small"]
    assert 'aria-valuetext="$9.00 of $10.00, near the limit"' in text
    assert "Near a limit" in text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("sort=name", ["a-b", "b", "c"]),
        ("sort=name&order=desc", ["c", "b", "a-b"]),
        ("sort=used", ["c", "b", "a-b"]),  # a limit of 0 comes before any other
        ("sort=hourly&order=asc", ["c", "b", "a-b"]),
        ("sort=rate", ["a-b", "b", "c"]),
        ("q=B", ["a-b", "b"]),
        ("q=nothing", []),
        ("sort=nonsense&page=x&order=up", ["a-b", "b", "c"]),
        ("page=2", []),
    ],
)
async def test_overview_sorts_and_searches(
    gateway: Gateway, agent: Agent, query: str, names: list[str]
) -> None:
    for name, cents, limit in (("a-b", 3, None), ("b", 2, 10), ("c", 1, 0)):
        await gateway.spend(name, cents, await gateway.register(name, agent.url))
        await gateway.limit(name, hourly=limit)
    _, _, text = await get(gateway, f"/?{query}")
    assert re.findall(r'id="row:([\w-]+)"', text) == names


async def test_overview_sorts_by_what_the_forecasts_say(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    for name, limits, spent in (
        ("full", {"daily": 50}, {5: 50}),
        ("soon", {"hourly": 30}, {5: 20}),  # 2 a minute: in 5 min
        ("later", {"hourly": 500, "daily": 40}, {5: 20}),  # by the day, 20 in 4 h: in 4 h
        # Nearly full, and as much leaves as comes.
        ("steady", {"hourly": 145}, dict.fromkeys(range(5, 60, 10), 20)),
        ("idle", {"hourly": 100}, {30: 90}),
        ("unlimited", {}, {5: 900}),
    ):
        await add_workspace(connection, name, limits)
        rows = [(now - age * minute, cents) for age, cents in sorted(spent.items(), reverse=True)]
        await add_rows(connection, name, rows)
    names = ["full", "soon", "later", "idle", "unlimited", "steady"]
    _, _, text = await get(gateway, "/?sort=fullness")
    assert sorted(re.findall(r'id="row:(\w+)"', text)[3:]) == sorted(names[3:])
    assert re.findall(r'id="row:(\w+)"', text)[:3] == names[:3]
    assert 'aria-sort="ascending"' in text
    _, _, text = await get(gateway, "/?sort=fullness&order=desc")
    assert re.findall(r'id="row:(\w+)"', text)[3:] == names[2::-1]


async def test_workspace_shows_a_row_for_every_period_with_the_ledgers_values(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.spend("w", 140, await gateway.register("w", agent.url))
    await gateway.limit("w", hourly=100, daily=0)
    _, _, text = await get(gateway, "/ui/workspaces/w")
    assert re.findall(r'data-period="(\w+)"', text) == [period.name for period in PERIODS]
    assert 'aria-valuetext="$1.40 of $1.00, over the limit"' in text
    shown = words(text)
    assert "Last 60 minutes $1.40 of $1.00 $0.40 over" in shown
    assert re.search(r"\$0.00 blocks every call, refused since \d\d:\d\d:\d\d UTC", shown)
    assert re.search(r"Over \$0.40 leaves the window by \d\d:\d\d:\d\d UTC", shown)
    assert re.search(r"\$1.40 of \$1.00 , refused since \d\d:\d\d:\d\d UTC", shown)
    assert "Last 7 days $1.40 no limit" in shown


async def test_form_saves_one_limit_or_all(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    form = {"save": "hourly", "limit-hourly": "1,234.5", "limit-daily": "7"}
    status, headers, _ = await post(gateway, "/ui/workspaces/w", form)
    assert (status, headers["Location"]) == (303, "/ui/workspaces/w?saved")
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {"hourly": 123450}

    form = {"save": "", "limit-hourly": "", "was-hourly": "1234.50", "limit-daily": "0"}
    await post(gateway, "/ui/workspaces/w", form)
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {"daily": 0}


@pytest.mark.parametrize("text", ["abc", "-1", "1.234", "1e3", "9" * 14, "٣"])
async def test_form_says_beside_the_field_what_is_wrong(
    gateway: Gateway, agent: Agent, text: str
) -> None:
    await gateway.register("w", agent.url)
    status, _, page = await post(gateway, "/ui/workspaces/w", {"save": "", "limit-hourly": text})
    assert status == 400
    assert f'value="{text}"' in page
    error = re.search(r'id="error-hourly"[^>]*>([^<]+)<', page)
    assert error is not None
    assert "dollars" in error[1] or "must not be over" in error[1]
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {}


async def test_reason_that_is_too_long_is_told_beside_its_field(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    form = {"save": "", "limit-hourly": "3", "reason": "x" * 501}
    status, _, page = await post(gateway, "/ui/workspaces/w", form)
    assert status == 400
    assert "reason must have at most 500 characters." in page
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {}


def value_of(page: str, name: str) -> str:
    """What a field of the form holds."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None
    return found[1]


async def test_error_at_one_limit_leaves_what_was_typed_at_the_others_and_saves_none(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    form = {"save": "hourly", "limit-hourly": "abc", "limit-daily": "7", "reason": "why"}
    status, _, page = await post(gateway, "/ui/workspaces/w", {**form, "limit-weekly": "x"})
    assert status == 400
    assert value_of(page, "limit-daily") == "7"
    assert value_of(page, "limit-weekly") == "x"
    assert value_of(page, "reason") == "why"
    # It is not to be saved, so nothing is wrong with it yet.
    assert re.search(r'id="error-weekly"[^>]*></p>', page)
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {}


async def test_limit_saved_by_itself_does_not_wait_for_what_is_wrong_or_overtaken_elsewhere(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", daily=500)  # meanwhile
    form = {"save": "hourly", "limit-hourly": "3", "limit-daily": "7", "limit-weekly": "x"}
    status, _, _ = await post(gateway, "/ui/workspaces/w", form)
    assert status == 303
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {"hourly": 300, "daily": 500}


async def test_limits_changed_meanwhile_are_shown_and_never_overwritten_by_saving_again(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", daily=500, weekly=900)  # meanwhile
    form = {"save": "hourly", "limit-hourly": "abc", "limit-daily": "7", "limit-weekly": ""}
    _, _, page = await post(gateway, "/ui/workspaces/w", form)
    # Nobody typed here.
    assert (value_of(page, "limit-weekly"), value_of(page, "was-weekly")) == ("9", "9")
    assert (value_of(page, "limit-daily"), value_of(page, "was-daily")) == ("7", "5")
    assert "Changed meanwhile to $5.00." in page


@pytest.mark.parametrize("save", ["", "hourly"])
async def test_form_that_changes_nothing_says_so_and_keeps_the_reason_in_its_field(
    gateway: Gateway, agent: Agent, save: str
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=500)
    form = {"save": save, "limit-hourly": "5", "was-hourly": "5", "reason": "why"}
    status, _, page = await post(gateway, "/ui/workspaces/w", form)
    assert status == 200
    assert '<p class="notice" data-kind="ok" role="status">Nothing was changed.</p>' in page
    assert value_of(page, "reason") == "why"
    _, found = await gateway.json("GET", "/workspaces/w/budget/changes")
    assert [change["reason"] for change in found["changes"]] == [None]


async def test_second_operator_is_told_and_overwrites_nothing(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=500)  # meanwhile, after the page was read
    form = {"save": "", "limit-hourly": "3", "was-hourly": "", "limit-daily": "", "was-daily": ""}
    status, _, page = await post(gateway, "/ui/workspaces/w", form)
    assert status == 409
    assert "Changed meanwhile to $5.00." in page
    assert 'name="was-hourly" value="5"' in page
    _, budget = await gateway.json("GET", "/workspaces/w/budget")
    assert budget["budget_limits"] == {"hourly": 500}

    status, _, _ = await post(gateway, "/ui/workspaces/w", {**form, "was-hourly": "5"})
    assert status == 303


async def test_what_agents_say_is_text_and_never_markup(gateway: Gateway, agent: Agent) -> None:
    card = {"name": "<script>alert(1)</script>"}
    body = {"id": "w", "url": agent.url, "agent_card": card}
    _, answer = await gateway.json("POST", "/registry/register", body)
    await gateway.spend("w", 1, answer["token"], current_task='"><img src=x>')
    for path in ("/", "/ui/workspaces/w", "/?q=<script>"):
        _, _, text = await get(gateway, path)
        assert "<script>" not in text
        assert "<img" not in text


async def test_pages_forbid_everything_from_elsewhere(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    for path in ("/", "/ui/workspaces/w", "/ui/workspaces/nobody"):
        _, headers, text = await get(gateway, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert " style=" not in text
        assert re.findall(r'(?:src|href|action)="(?!/|#)[^"]*"', text) == []


async def test_assets_are_for_ever_and_named_by_their_content(gateway: Gateway) -> None:
    _, _, text = await get(gateway, "/")
    assets = re.findall(r'"(/ui/assets/[^"]+)"', text)
    assert len(assets) == 3
    for asset in assets:
        status, headers, _ = await get(gateway, asset)
        assert status == 200
        assert "immutable" in headers["Cache-Control"]
        assert (await get(gateway, asset.replace("/assets/", "/assets/0")))[0] == 404


async def test_unknown_workspace_is_a_page_that_says_so(gateway: Gateway) -> None:
    status, headers, text = await get(gateway, "/ui/workspaces/nobody")
    assert (status, headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "No workspace has this id" in text


async def test_stranger_is_sent_to_sign_in(guarded: Gateway, agent: Agent) -> None:
    await guarded.register("w", agent.url)
    for path, place in (
        ("/", "/ui/sign-in"),
        ("/ui/workspaces/w", "/ui/sign-in?workspace=w"),
    ):
        status, headers, _ = await get(guarded, path)
        assert (status, headers["Location"]) == (303, place)
    for path in ("/ui/events", "/ui/workspaces/w/events"):
        assert (await get(guarded, path))[0] == 401


async def test_page_that_was_asked_for_is_what_a_link_goes_on_to(guarded: Gateway) -> None:
    _, _, text = await get(guarded, "/?q=R%26D%23", Sec_Fetch_Site="cross-site")
    assert text.count("/?q=R%26D%23") == 2


async def test_operator_signs_in_with_a_cookie_that_no_script_and_no_site_gets(
    guarded: Gateway,
) -> None:
    status, headers, _ = await post(guarded, "/ui/sign-in", {"token": ADMIN_TOKEN})
    cookie = headers["Set-Cookie"]
    assert status == 303
    assert ADMIN_TOKEN not in cookie
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    status, _, text = await get(guarded, "/", Cookie=cookie.partition(";")[0])
    assert status == 200
    assert "Sign out" in text


async def test_session_is_secure_where_people_come_through_https(
    dsn: str, stack: AsyncExitStack
) -> None:
    environment = {
        "GATEWAY_AUTH__ADMIN_TOKENS": ADMIN_TOKEN,
        "GATEWAY_SERVER__PUBLIC_URL": "https://agents.example.com",
    }
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    _, headers, _ = await post(gateway, "/ui/sign-in", {"token": ADMIN_TOKEN})
    assert headers["Set-Cookie"].startswith("__Host-gateway-session=")
    assert "; Secure" in headers["Set-Cookie"]


async def test_another_replica_knows_the_session_and_one_without_its_token_does_not(
    dsn: str, guarded: Gateway, stack: AsyncExitStack
) -> None:
    _, cookie = await sign_in(guarded, ADMIN_TOKEN)
    for tokens, status in ((f"another,{ADMIN_TOKEN}", 200), ("another", 303)):
        environment = {"GATEWAY_AUTH__ADMIN_TOKENS": tokens}
        replica = await stack.enter_async_context(run_gateway(dsn, environment))
        assert (await get(replica, "/", Cookie=cookie))[0] == status


async def test_forged_session_is_none(guarded: Gateway) -> None:
    _, cookie = await sign_in(guarded, ADMIN_TOKEN)
    name, _, value = cookie.partition("=")
    _, expires_s, signature = value.strip('"').split("~")
    later = str(int(expires_s) + 1)
    for forged in (
        f"~{later}~{signature}",
        f"w~{expires_s}~{signature}",
        f"~{expires_s}~{'0' * 64}",
        f"~{expires_s}~",
        "~~",
        "~" * 400,
    ):
        assert (await get(guarded, "/", Cookie=f"{name}={forged}"))[0] == 303


async def test_workspace_sees_its_own_page_read_only(guarded: Gateway, agent: Agent) -> None:
    token = await guarded.register("mine", agent.url)
    await guarded.register("other", agent.url)
    status, cookie = await sign_in(guarded, token, "mine")
    assert status == 303
    status, _, text = await get(guarded, "/ui/workspaces/mine", Cookie=cookie)
    assert status == 200
    assert 'id="limit-hourly"' not in text
    assert (await get(guarded, "/", Cookie=cookie))[1]["Location"] == "/ui/workspaces/mine"
    assert (await get(guarded, "/ui/workspaces/other", Cookie=cookie))[0] == 403
    form = {"save": "", "limit-hourly": "9"}
    assert (await post(guarded, "/ui/workspaces/mine", form, Cookie=cookie))[0] == 403
    assert (await sign_in(guarded, token, "other"))[0] == 401


async def test_another_site_changes_nothing(guarded: Gateway, agent: Agent) -> None:
    await guarded.register("w", agent.url)
    _, cookie = await sign_in(guarded, ADMIN_TOKEN)
    form = {"save": "", "limit-hourly": "9"}
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        fields = {**headers, "Cookie": cookie}
        assert (await post(guarded, "/ui/workspaces/w", form, **fields))[0] == 403
        assert (await post(guarded, "/ui/sign-in", {"token": ADMIN_TOKEN}, **fields))[0] == 403
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        body = {"budget_limits": {"hourly": 900}}
        async with guarded.client.patch(
            f"{guarded.url}/workspaces/w/budget", json=body, headers=named
        ) as answer:
            assert answer.status == 403
    own = {"Origin": guarded.url, "Cookie": cookie}
    assert (await post(guarded, "/ui/workspaces/w", form, **own))[0] == 303


async def test_attempts_to_sign_in_are_few(guarded: Gateway) -> None:
    for _ in range(FAILURES_MAX):
        assert (await sign_in(guarded, "wrong"))[0] == 401
    status, headers, text = await post(guarded, "/ui/sign-in", {"token": ADMIN_TOKEN})
    assert status == 429
    assert 0 < int(headers["Retry-After"]) <= 61
    assert "Too many attempts" in text


async def test_signing_out_forgets_the_cookie(guarded: Gateway) -> None:
    status, headers, _ = await post(guarded, "/ui/sign-out", {})
    assert (status, headers["Location"]) == (303, "/ui/sign-in")
    assert all("Max-Age=0" in value for value in headers.getall("Set-Cookie"))
