"""`gateway demo`: real agents and callers around a real gateway, and a runaway that is stopped.

Read on in this order: cast (who plays), stand_in, agents and callers (what they do), own_gateway
(what they play on), board and its two screens, table and lines (what is seen of it).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Iterable
from contextlib import suppress

import httpx
from rich.console import Console

from gateway.config import Config
from gateway.demo.agents import run_agent
from gateway.demo.board import Board, Screen
from gateway.demo.callers import run_caller
from gateway.demo.cast import CAST, Role
from gateway.demo.history import forget
from gateway.demo.lines import Lines
from gateway.demo.own_gateway import OwnGateway, Place, claimed_place, run_own_gateway
from gateway.demo.table import LiveTable
from gateway.demo.welcome import SHELL_LINE_BREAK, farewell, welcome

# The first answer waits for the worker's start.
ANSWER_TIMEOUT_S = 30.0


def run_demo(config: Config) -> int:
    """Play until SIGINT or SIGTERM and return the exit status."""
    board = Board(CAST)
    try:
        with claimed_place(config) as place:
            asyncio.run(_until_signal(_play(config, place, board)))
        _say(farewell(board, place.folder))
    except* BrokenPipeError:
        # Who read our lines has seen enough; Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


async def _until_signal(play: Coroutine[None, None, None]) -> None:
    """Run the play; a signal ends it from the inside out, and further ones change nothing."""
    task = asyncio.create_task(play)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(
            number, lambda: None if task.cancelling() else task.cancel()
        )
    with suppress(asyncio.CancelledError):
        await task


async def _play(config: Config, place: Place, board: Board) -> None:
    console = Console(highlight=False)
    is_live = console.is_terminal and not console.is_dumb_terminal
    async with run_own_gateway(config, place) as gateway:
        _say(welcome(gateway, SHELL_LINE_BREAK if is_live else " "))
        board.screen = LiveTable(board, console, gateway.url) if is_live else Lines(board)
        await _perform(gateway, board, board.screen)


async def _perform(gateway: OwnGateway, board: Board, screen: Screen) -> None:
    await forget(gateway.database, [role.workspace_id for role in CAST])
    async with (
        httpx.AsyncClient(
            base_url=gateway.url, timeout=ANSWER_TIMEOUT_S, trust_env=False
        ) as operator,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(screen.keep_drawing())
        for role in CAST:
            group.create_task(_appear(role, gateway, operator, board))


async def _appear(
    role: Role, gateway: OwnGateway, operator: httpx.AsyncClient, board: Board
) -> None:
    """One agent, and its caller as soon as it is there."""
    async with (
        run_agent(role, gateway.database, operator, board) as agent,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(agent.keep_reporting())
        group.create_task(run_caller(role, gateway.url, board))
