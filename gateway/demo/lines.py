"""The screen for a pipe: one plain line for every event, and now and then how all stand."""

import asyncio
from datetime import UTC, datetime

from gateway.core.money import dollars
from gateway.core.periods import PERIODS, Period
from gateway.demo.board import Board, Event, Standing

SUMMARY_INTERVAL_S = 10.0


class Lines:
    """Prints lines that a person can read and grep can find."""

    def __init__(self, board: Board) -> None:
        """Take the board to sum up."""
        self._board = board

    def show(self, event: Event) -> None:
        """Print an event."""
        print(f"{event.at:%H:%M:%S} {event.name}: {event.text}", flush=True)

    async def keep_drawing(self) -> None:
        """Print a summary every SUMMARY_INTERVAL_S."""
        while True:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
            for standing in self._board.standings.values():
                print(f"{datetime.now(UTC):%H:%M:%S} summary: {_words(standing)}", flush=True)


def _words(standing: Standing) -> str:
    counts = f"{standing.passed_count} passed, {standing.refused_count} refused"
    windows = ", ".join(_window_words(standing, period) for period in PERIODS)
    return f"{standing.role.name} is {standing.state}: {counts}; {windows}"


def _window_words(standing: Standing, period: Period) -> str:
    window = standing.window(period)
    if window is None:
        return f"{period.name} unknown"
    limit = "" if window["limit"] is None else f" of {dollars(window['limit'])}"
    return f"{period.name} {dollars(window['spend'])}{limit}"
