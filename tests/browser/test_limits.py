"""Setting limits in a real browser."""

import re
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from gateway.core.periods import PERIODS
from tests.browser.conftest import ADMIN_TOKEN, PATH, Tab, open_tab, sign_in
from tests.running import Agent, Gateway
from tests.storage.rows import add_rows

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUDGET = "/workspaces/w/budget"


async def limits(gateway: Gateway) -> dict[str, int]:
    """The limits as the API tells them."""
    found: dict[str, int] = (await gateway.json("GET", BUDGET))[1]["budget_limits"]
    return found


async def test_escape_takes_back_and_words_say_what_a_limit_means(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.gateway.limit("w", daily=700)
    await tab.open(PATH)
    field, meaning = tab.page.locator("#limit-daily"), tab.page.locator("#meaning-daily")
    save = tab.page.locator('.save[value="daily"]')
    assert not await save.is_visible()
    await field.fill("0")
    assert (await meaning.inner_text()).startswith("Blocks every call.")
    assert await save.is_visible()
    await field.fill("")
    assert await meaning.text_content() == "No limit"
    await field.press("Escape")
    assert await field.input_value() == "7"
    assert not await save.is_visible()
    await field.fill("seven")
    await field.press("Enter")
    await tab.shows("#error-daily", "Write an amount in dollars")
    assert await field.get_attribute("aria-invalid") == "true"
    assert await limits(tab.gateway) == {"daily": 700}


async def test_what_the_server_said_stands_beside_the_field_that_it_names(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.type_limit("daily", "5")
    await tab.type_limit("hourly", "99999999999999")
    await tab.page.get_by_role("button", name="Save all").click()
    await tab.shows("#error-hourly", "budget_limits.hourly must not be over")
    assert await tab.page.locator("#error-daily").text_content() == ""
    assert await limits(tab.gateway) == {}
    tab.forgive("400")


async def test_gateway_that_does_not_answer_is_said_beside_the_field(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.page.context.set_offline(True)
    await tab.type_limit("hourly", "5", key="Enter")
    await tab.shows("#error-hourly", "The gateway did not answer. Nothing was saved.")
    tab.forgive("ERR_INTERNET_DISCONNECTED")


async def test_all_changed_limits_are_saved_at_once(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    for number, period in enumerate(PERIODS, start=1):
        await tab.type_limit(period.name, f"{number}.50")
    await tab.page.get_by_role("button", name="Save all").click()
    await tab.shows("#saved", "Saved.")
    assert list((await limits(tab.gateway)).values()) == [150, 250, 350, 450]


async def test_saving_one_row_leaves_what_is_typed_in_another(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.type_limit("weekly", "9")
    await tab.type_limit("hourly", "1")
    await tab.page.locator('.save[value="hourly"]').click()
    await tab.shows("#saved", "Saved.")
    await tab.shows("#changes", "Last 60 minutes: no limit → $1.00")
    assert await limits(tab.gateway) == {"hourly": 100}
    assert await tab.page.locator("#limit-weekly").input_value() == "9"


async def test_limit_tells_before_it_is_saved_what_it_would_have_refused(
    tab: Tab, agent: Agent, connection: asyncpg.Connection
) -> None:
    await tab.gateway.register("w", agent.url)
    now = await connection.fetchval("SELECT now()")
    await add_rows(connection, "w", [(now - timedelta(hours=ago), 300) for ago in (50, 40, 9)])
    await tab.open(PATH)
    for text, words in (
        ("3", "With this limit, the last 30 days would have seen 3 stretches of refusals, 3 h in"),
        ("3.01", "With this limit, the last 30 days would have seen no refusal."),
        ("0", "Blocks every call. With this limit, the last 30 days would have seen 1 stretch of"),
    ):
        await tab.type_limit("hourly", text)
        await tab.shows("#meaning-hourly", words)
    assert await limits(tab.gateway) == {}
    assert (await tab.gateway.json("GET", f"{BUDGET}/changes"))[1]["total"] == 0


async def test_limit_that_would_never_stop_a_call_is_said_to_before_it_is_saved(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    # Neither is saved yet: they are tried together.
    await tab.type_limit("hourly", "3")
    await tab.type_limit("daily", "2.50")
    sentence = "The hourly limit of $3.00 never stops a call that the daily one of $2.50 would not."
    await tab.shows("#meaning-hourly", sentence)
    await tab.shows("#meaning-daily", sentence)
    await tab.type_limit("daily", "4")
    await tab.page.locator("#meaning-hourly", has_text="never stops").wait_for(state="detached")


async def test_second_operator_is_told_while_typing(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    field = tab.page.locator("#limit-hourly")
    await field.fill("3")
    await tab.gateway.limit("w", hourly=500)
    await tab.shows("#figures-hourly", "of $5.00")
    assert await field.input_value() == "3"
    await field.press("Enter")
    await tab.shows("#error-hourly", "Changed meanwhile to $5.00")
    assert await limits(tab.gateway) == {"hourly": 500}
    await field.press("Enter")
    await tab.shows("#saved", "Saved.")
    assert await limits(tab.gateway) == {"hourly": 300}


async def test_of_two_who_save_at_the_same_time_the_second_overwrites_nothing(
    tab: Tab, agent: Agent
) -> None:
    gateway = tab.gateway
    await gateway.register("w", agent.url)
    await tab.open(PATH)

    async def be_late(route: Any) -> None:
        """Let another operator save after the page has looked, and before its change arrives."""
        if route.request.method == "PATCH" and "dry_run" not in route.request.url:
            await gateway.limit("w", hourly=500)
        await route.continue_()

    await tab.page.route(f"**{BUDGET}*", be_late)
    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#error-hourly", "The limits are not those that If-Match names. anyone changed")
    assert await limits(gateway) == {"hourly": 500}
    tab.forgive("412")


async def test_nothing_is_saved_over_limits_that_cannot_be_read(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)

    async def refuse_to_tell(route: Any) -> None:
        if route.request.method == "GET":
            await route.fulfill(status=503, json={"detail": "The database cannot answer."})
        else:
            await route.continue_()

    await tab.page.route(f"**{BUDGET}", refuse_to_tell)
    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#error-hourly", "The database cannot answer.")
    assert await limits(tab.gateway) == {}
    tab.forgive("503")


async def test_limit_is_saved_behind_a_proxy_that_makes_entity_tags_weak(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)

    async def weaken(route: Any) -> None:
        answer = await route.fetch()
        tag = answer.headers.get("etag", "")
        await route.fulfill(response=answer, headers={**answer.headers, "etag": f"W/{tag}"})

    await tab.page.route(f"**{BUDGET}", weaken)
    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#saved", "Saved.")


async def test_while_a_limit_is_saved_it_is_not_saved_again_and_typing_goes_on(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    field, changes = tab.page.locator("#limit-hourly"), []

    async def type_on(route: Any) -> None:
        if route.request.method == "PATCH" and "dry_run" not in route.request.url:
            changes.append(route)
            await field.press("Enter")
            await field.fill("45")
        await route.continue_()

    await tab.page.route(f"**{BUDGET}*", type_on)
    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#saved", "Saved.")
    await tab.shows("#changes", "no limit → $3.00")
    assert (len(changes), await field.input_value()) == (1, "45")
    assert await limits(tab.gateway) == {"hourly": 300}


async def test_focus_stays_in_the_form_when_a_button_has_saved(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.type_limit("daily", "3")
    await tab.page.locator('.save[value="daily"]').click()
    await tab.shows("#saved", "Saved.")
    await tab.page.locator("#limit-daily:focus").wait_for()


async def test_limit_that_is_changed_back_at_once_does_not_stay_in_its_field(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.shows("#gateway", "Every call is checked.")

    async def take_back(route: Any) -> None:
        """Let another operator answer the change before this page hears that it is saved."""
        answer = await route.fetch()
        if route.request.method == "PATCH" and "dry_run" not in route.request.url:
            await tab.gateway.limit("w", hourly=None)
        await route.fulfill(response=answer)

    await tab.page.route(f"**{BUDGET}*", take_back)
    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#saved", "Saved.")
    await tab.shows("#changes", "Last 60 minutes: $3.00 → no limit")
    await tab.page.locator("#limit-hourly:placeholder-shown").wait_for()


async def test_another_limit_that_changed_meanwhile_is_no_reason_to_refuse(
    tab: Tab, agent: Agent
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.type_limit("hourly", "3")
    await tab.gateway.limit("w", daily=900)
    await tab.page.locator("#limit-hourly").press("Enter")
    await tab.shows("#saved", "Saved.")
    assert await limits(tab.gateway) == {"hourly": 300, "daily": 900}


async def test_changes_tell_who_when_from_what_to_what_and_why(
    browser: Any, gateway: Gateway, guarded: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    async with open_tab(browser, guarded) as tab:
        await tab.page.goto(guarded.url)
        await sign_in(tab, ADMIN_TOKEN)
        await tab.shows("h1", "Workspaces")
        await tab.open(PATH)
        await tab.shows("#changes", "No limit has been changed yet.")
        await tab.type_limit("hourly", "3")
        await tab.type_limit("daily", "8")
        await tab.page.get_by_label("Reason").fill("the <night> shift")
        await tab.page.get_by_label("Reason").press("Enter")
        await tab.shows("#changes", "the <night> shift")
        newest = tab.page.locator(".changes > li").first
        assert await newest.locator("ul li").all_inner_texts() == [
            "Last 60 minutes: no limit → $3.00",
            "Last 24 hours: no limit → $8.00",
        ]
        assert re.match(r"alice, .*\d+:\d\d", await newest.locator(".note").inner_text())
        assert await tab.page.get_by_label("Reason").input_value() == ""

        # Through the other gateway, where nobody needs a token.
        body = {"budget_limits": {"hourly": None}, "reason": "over"}
        await gateway.json("PATCH", BUDGET, body)
        await tab.shows("#changes", "Last 60 minutes: $3.00 → no limit")
        await tab.shows("#changes", "anyone, ")
        await tab.page.locator("#limit-hourly:placeholder-shown").wait_for()
        assert tab.complaints == []


async def test_keyboard_alone_reaches_a_limit_and_saves_it(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open("/")
    keyboard = tab.page.keyboard

    async def tab_to(selector: str) -> None:
        for _ in range(30):
            await keyboard.press("Tab")
            if await tab.page.evaluate("at => document.activeElement.matches(at)", selector):
                return
        pytest.fail(f"the keyboard does not reach {selector}")

    await tab_to(".skip")
    assert await tab.page.locator(".skip").is_visible()
    await tab_to(f'[href="{PATH}"]')
    await keyboard.press("Enter")
    await tab.page.wait_for_selector("#limits")
    await tab_to("#limit-hourly")
    await keyboard.type("2.50")
    await keyboard.press("Tab")
    await keyboard.press("Enter")  # the button that appeared
    await tab.shows("#saved", "Saved.")
    assert await limits(tab.gateway) == {"hourly": 250}
    await tab_to("summary")
    await keyboard.press("Enter")
    assert await tab.page.locator("#table-hourly").is_visible()
