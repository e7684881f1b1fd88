"""What runs the gateway: liveness, readiness, and metrics that Prometheus can read."""

import re
from collections.abc import Iterable
from functools import partial

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.core.periods import PERIODS
from gateway.web import ops
from tests.running import Agent, Gateway, until

# prometheus.io/docs/practices/naming: base units, and the units that this gateway counts in.
UNITS = ("_seconds", "_bytes", "_cents", "_total", "_info", "_rows", "_open", "_connections")

# Nothing that a workspace, a caller or an agent chooses may become a label.
LABELS = {"outcome", "status", "period", "cause", "result", "reason", "use", "state", "version"}


async def scrape(gateway: Gateway) -> list[Metric]:
    """The families of metrics as Prometheus reads them."""
    async with gateway.client.get(gateway.url + "/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return list(text_string_to_metric_families(await answer.text()))


def values(families: Iterable[Metric], name: str) -> dict[tuple[str, ...], float]:
    """The values of a metric by its labels' values."""
    samples = [sample for family in families for sample in family.samples]
    return {tuple(each.labels.values()): each.value for each in samples if each.name == name}


async def use_everything(gateway: Gateway, agent: Agent) -> None:
    """Let everything happen that is counted: calls of all outcomes, heartbeats of all results."""
    token = await gateway.register("reno-stars", agent.url)
    await gateway.register("away", "http://127.0.0.1:1")
    await gateway.json("POST", "/workspaces/reno-stars/a2a", {})
    await gateway.json("POST", "/workspaces/unknown/a2a", {})
    await gateway.json("POST", "/workspaces/away/a2a", {})
    for cents in (40, 40, 30, -1, 10**13):
        await gateway.spend("reno-stars", cents, token, instance_id="pod-7f")
    await gateway.spend("reno-stars", 0, token, current_task="reno-stars")
    await gateway.json("POST", "/registry/heartbeat", {"workspace_id": "unknown"})
    await gateway.limit("reno-stars", **dict.fromkeys((each.name for each in PERIODS), 1))
    await gateway.json("POST", "/workspaces/reno-stars/a2a", {})


async def test_process_is_alive(gateway: Gateway) -> None:
    assert await gateway.json("GET", "/healthz") == (200, {"status": "ok"})


async def is_readiness(gateway: Gateway, status: int, body: object) -> bool:
    return await gateway.json("GET", "/readyz") == (status, body)


async def test_gateway_is_ready_until_it_drains(gateway: Gateway) -> None:
    # On a busy machine the database may be late once.
    await until(lambda: is_readiness(gateway, 200, {"status": "ok", "database": "up"}))
    gateway.services.is_draining = True
    await until(lambda: is_readiness(gateway, 503, {"status": "draining", "database": "up"}))
    assert (await gateway.json("GET", "/healthz"))[0] == 200  # a draining process is alive


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_answer_about_now_is_kept_by_nobody(gateway: Gateway, path: str) -> None:
    for method in ("GET", "HEAD"):
        async with gateway.client.request(method, gateway.url + path) as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")


async def test_calls_are_counted_by_what_became_of_them(gateway: Gateway, agent: Agent) -> None:
    await use_everything(gateway, agent)
    families = await scrape(gateway)
    assert values(families, "gateway_calls_total") == {
        ("forwarded", "2xx"): 1,
        ("refused", "4xx"): 1,
        ("upstream_error", "5xx"): 1,
        ("rejected", "4xx"): 1,
        **dict.fromkeys(
            [
                (each, "2xx")
                for each in (
                    "refused",
                    "skipped_check",
                    "upstream_error",
                    "rejected",
                    "unknown_agent",
                )
            ],
            0,
        ),
    }
    assert values(families, "gateway_budget_check_duration_seconds_count") == {(): 4}
    # Only an answer has a first byte; the agent that is away gave none.
    assert values(families, "gateway_upstream_first_byte_seconds_count") == {(): 1}
    assert values(families, "gateway_upstream_duration_seconds_count") == {(): 1}


async def test_heartbeats_are_counted_by_what_became_of_them(
    gateway: Gateway, agent: Agent
) -> None:
    await use_everything(gateway, agent)
    families = await scrape(gateway)
    counted = {
        labels[0]: count for labels, count in values(families, "gateway_heartbeats_total").items()
    }
    assert counted == {
        "booked": 2,
        "unchanged": 1,
        "reset": 1,
        "no_report": 2,
        "stale": 0,
        "rejected": 1,
        "unavailable": 0,
    }
    booked_cents = 40 + 30 + 10**12 - 30
    assert values(families, "gateway_booked_cents_total") == {(): booked_cents}
    assert values(families, "gateway_counter_resets_total") == {(): 1}
    clamped = values(families, "gateway_clamped_reports_total")
    assert clamped == {("negative",): 1, ("too_large",): 1}


async def test_every_period_has_its_refusals(gateway: Gateway, agent: Agent) -> None:
    before = values(await scrape(gateway), "gateway_refusals_total")
    assert before == {(period.name,): 0 for period in PERIODS}
    await use_everything(gateway, agent)
    after = values(await scrape(gateway), "gateway_refusals_total")
    assert after == {(period.name,): 1 for period in PERIODS}


async def test_gauges_show_the_database_the_loop_and_the_version(gateway: Gateway) -> None:
    # Serving begins with the first of them.
    await until(lambda: gateway.services.gate.open_count == gateway.services.gate.size)
    families = await scrape(gateway)
    assert families[0].name == "gateway_breaker_open"  # the one to alert on
    assert values(families, "gateway_build_info") == {(__version__,): 1}
    assert values(families, "gateway_breaker_open") == {(): 0}
    assert values(families, "gateway_loop_lag_seconds")[()] >= 0
    assert values(families, "gateway_log_lines_lost_total") == {(): 0}
    assert values(families, "gateway_ledger_size_bytes")[()] > 0
    assert values(families, "gateway_ledger_rows")[()] >= 0
    uses = [("busy", use) for use in gateway.services.connections]
    uses += [("open", use) for use in gateway.services.connections]
    connections = values(families, "gateway_database_connections")
    assert connections.keys() == set(uses)
    assert connections["open", "check"] == gateway.services.connections["check"].size


async def test_lost_log_lines_are_counted(gateway: Gateway) -> None:
    gauges = gateway.services.exposition.gauges
    for lost in (3, 3, 5):
        gauges.lines_lost_count = partial(int, lost)
        assert values(await scrape(gateway), "gateway_log_lines_lost_total") == {(): lost}


async def test_description_is_rendered_once(gateway: Gateway) -> None:
    async with gateway.client.get(gateway.url + "/openapi.yaml") as answer:
        assert answer.headers["Content-Type"] == "application/yaml; charset=utf-8"
        assert PERIODS[0].name in await answer.text()
    assert ops.api_description() is ops.api_description()


async def test_names_follow_the_conventions(gateway: Gateway, agent: Agent) -> None:
    await use_everything(gateway, agent)
    # The client library writes a family of its own beside each counter: when it was created.
    families = [each for each in await scrape(gateway) if not each.name.endswith("_created")]
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert re.fullmatch(r"gateway(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        name = f"{family.name}_total" if family.type == "counter" else family.name
        name = f"{name}_info" if family.type == "info" else name
        assert name.endswith(UNITS), name


async def test_labels_carry_no_workspace_and_nothing_that_others_choose(
    gateway: Gateway, agent: Agent
) -> None:
    await use_everything(gateway, agent)
    samples = [sample for family in await scrape(gateway) for sample in family.samples]
    assert {label for each in samples for label in each.labels} - {"le"} == LABELS
    chosen = ("reno-stars", "away", "unknown", "pod-7f", agent.url)
    assert not [each for each in samples for value in each.labels.values() if value in chosen]
