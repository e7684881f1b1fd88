"""The screen for a terminal: a live table of the agents, and below it what happened last."""

import asyncio
from collections import deque

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gateway.core.money import dollars
from gateway.core.periods import PERIODS, Period
from gateway.demo.board import Board, Event, Kind, Standing
from gateway.demo.cast import RUNAWAY, SHORTEST
from gateway.demo.welcome import SHELL_LINE_BREAK, raise_limit

DRAW_INTERVAL_S = 0.25
EVENTS_KEPT = 8
NEARLY = 0.8

STYLES = {Kind.PASSED: "green", Kind.REFUSED: "bold red", Kind.FAILED: "yellow", Kind.TOLD: "dim"}


class LiveTable:
    """Draws the whole screen again a few times a second."""

    def __init__(self, board: Board, console: Console, url: str) -> None:
        """Take the board to draw and where the gateway is."""
        self._board = board
        self._console = console
        self._url = url
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def show(self, event: Event) -> None:
        """Keep an event for the next drawing."""
        self._events.append(event)

    async def keep_drawing(self) -> None:
        """Draw until cancelled; the last drawing stays."""
        # Standard error is a file by now, and nothing else prints.
        with Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while True:
                live.update(self._drawing(), refresh=True)
                await asyncio.sleep(DRAW_INTERVAL_S)

    def _drawing(self) -> RenderableType:
        above = Group(agents_table(self._board), "")
        below = Group("", *hint(self._url))
        taken = len(self._console.render_lines(Group(above, below)))
        return Group(above, Tail(events_table(self._events), self._console.height - taken), below)


class Tail:
    """The last lines of something that may be too long."""

    def __init__(self, whole: RenderableType, lines_max: int) -> None:
        """Take the whole and how many lines of it there is room for."""
        self._whole = whole
        self._lines_max = max(lines_max, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the last lines."""
        for line in console.render_lines(self._whole, options)[-self._lines_max :]:
            yield from line
            yield Segment.line()


def agents_table(board: Board) -> Table:
    """A row for every agent, a column for every period."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", expand=True)
    table.add_column("agent", no_wrap=True)
    for period in PERIODS:
        table.add_column(period.name, justify="right", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    table.add_column("last answer", ratio=1, no_wrap=True, overflow="ellipsis")
    for standing in board.standings.values():
        table.add_row(*agent_cells(standing))
    return table


def agent_cells(standing: Standing) -> list[Text]:
    """What stands in one agent's row, two lines to a cell."""
    is_over = standing.state == "over budget"
    name = Text.assemble(
        (standing.role.name, "bold"), "\n", (standing.state, "bold red" if is_over else "green")
    )
    calls = Text.assemble(
        f"{standing.passed_count} passed\n",
        (f"{standing.refused_count} refused", "red" if standing.refused_count else "dim"),
    )
    windows = [window_cell(standing, period) for period in PERIODS]
    return [name, *windows, calls, Text(standing.last_answer)]


def window_cell(standing: Standing, period: Period) -> Text:
    """Spend over limit."""
    window = standing.window(period)
    if window is None:
        return Text("-", "dim")
    spend, limit = window["spend"], window["limit"]
    if limit is None:
        return Text.assemble(dollars(spend), "\n", ("no limit", "dim"))
    style = "bold red" if window["exceeded"] else "yellow" if spend > NEARLY * limit else "green"
    return Text.assemble((dollars(spend), style), f"\nof {dollars(limit)}")


def events_table(events: deque[Event]) -> Table:
    """What happened last, the newest at the bottom; long texts go on below themselves."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for event in events:
        table.add_row(f"{event.at:%H:%M:%S}", event.name, Text(event.text, STYLES[event.kind]))
    return table


def hint(url: str) -> list[Text]:
    """How to help the runaway, in lines short enough to be copied from a narrow terminal."""
    title = f"To raise the {SHORTEST.name} limit of the {RUNAWAY.name}; Ctrl-C ends the demo:"
    return [Text(title, "dim"), Text(SHELL_LINE_BREAK.join(raise_limit(url)))]
