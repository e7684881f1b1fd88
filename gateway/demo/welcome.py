"""What is said before the curtain rises and after it falls."""

import json
from pathlib import Path

from gateway.core.money import dollars
from gateway.demo.board import Board
from gateway.demo.cast import RUNAWAY, SHORTEST
from gateway.demo.history import LEAVES_EVERY
from gateway.demo.own_gateway import OwnGateway

SHELL_LINE_BREAK = " \\\n    "
RAISED_CENTS = 3_000

# A command in parts, to be joined by a blank or, for narrow screens, by SHELL_LINE_BREAK.
Command = tuple[str, ...]


def welcome(gateway: OwnGateway, joint: str) -> list[str]:
    """Where everything is, what will happen, and what to try."""
    return [
        "Three A2A agents, their callers, and between them a gateway with budgets.",
        "",
        *_addresses(gateway),
        "",
        f"The {RUNAWAY.name} soon runs into its {SHORTEST.name} limit. A part of its earlier",
        f"spend leaves the window every {LEAVES_EVERY.seconds} s: then a few more calls pass.",
        "Ctrl-C ends it. Times are UTC. To try in another terminal:",
        "",
        *_commands(gateway.url, joint),
    ]


def _addresses(gateway: OwnGateway) -> list[str]:
    url, place = gateway.url, gateway.place
    lines = [
        f"  page     {url}/",
        f"  API      {url}",
        f"  metrics  {url}/metrics",
        f"  health   {url}/healthz  {url}/readyz",
        f"  data     {place.folder}",
        f"  logs     {place.log_file}",
    ]
    if place.wanted_port in (place.port, 0):
        return lines
    return [f"Port {place.wanted_port} is in use; this is port {place.port}.", "", *lines]


def _commands(url: str, joint: str) -> list[str]:
    raised = f"raise its {SHORTEST.name} limit to {dollars(RAISED_CENTS)}"
    commands = {
        f"what the {RUNAWAY.name} may spend, and what it has spent": read_budget(url),
        "call it yourself: answered 402 while it is over budget": call(url),
        f"{raised}: it gets through again": raise_limit(url),
    }
    return [
        line
        for words, command in commands.items()
        for line in (f"  # {words}", f"  {joint.join(command)}", "")
    ]


def read_budget(url: str) -> Command:
    """Reads the runaway's budget."""
    return (f"curl {_workspace_url(url)}/budget",)


def raise_limit(url: str) -> Command:
    """Raises the runaway's limit."""
    change = json.dumps({"budget_limits": {SHORTEST.name: RAISED_CENTS}})
    return f"curl -X PATCH {_workspace_url(url)}/budget", f"-d '{change}'"


def call(url: str) -> Command:
    """Calls the runaway, and shows the status too."""
    message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    return (
        f"curl -i {_workspace_url(url)}/a2a",
        "-H 'A2A-Version: 1.0' -H 'Content-Type: application/json'",
        f"-d '{json.dumps(body, separators=(',', ':'))}'",
    )


def farewell(board: Board, folder: Path) -> list[str]:
    """What it came to, and what is left of it."""
    standings = board.standings.values()
    passed = sum(standing.passed_count for standing in standings)
    refused = sum(standing.refused_count for standing in standings)
    spent_cents = sum(standing.spent_cents for standing in standings)
    return [
        "",
        f"{passed} calls passed, {refused} refused, {dollars(spent_cents)} spent.",
        f"Nothing runs any more; data and logs are in {folder}.",
    ]


def _workspace_url(url: str) -> str:
    return f"{url}/workspaces/{RUNAWAY.workspace_id}"
