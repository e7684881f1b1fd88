"""A window's history as a drawing: what it held, against its limit, and what was spent when.

Coordinates are those of a drawing of WIDTH by HEIGHT that is stretched to the room there is; so it
holds no text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from gateway.core.budget import WindowSpend
from gateway.core.words import duration
from gateway.storage.spending import SpendSeries

WIDTH, HEIGHT = 600, 150
# Above: what the window held. Below: what was spent in each bucket.
UPPER_TOP, UPPER_BOTTOM = 4.0, 96.0
LOWER_TOP, LOWER_BOTTOM = 110.0, 150.0
_BAR_GAP = 2.0
# The highest line does not touch the edge.
_HEADROOM = 1.08


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket: when it began, what was spent in it, and what the window held at its end."""

    starts_at: datetime
    spend_cents: int
    window_cents: int
    is_refusing: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the drawing's width."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The drawing of one period's window."""

    buckets: tuple[Bucket, ...]
    line: str
    area: str
    limit_y: float | None
    refusing: tuple[Span, ...]
    bucket_words: str
    starts_at: datetime
    ends_at: datetime

    @property
    def most_cents(self) -> int:
        """The most that was spent in one bucket."""
        return max(bucket.spend_cents for bucket in self.buckets)


def draw(window: WindowSpend, series: SpendSeries, ends_at: datetime) -> Chart:
    """Draw a window that ends now; refusals are judged by the limit of today."""
    limit_cents, step = window.limit_cents, WIDTH / len(series.bucket_cents)
    most_cents = max(1, limit_cents or 0, *series.window_cents)
    heights = [_upper_y(cents, most_cents) for cents in series.window_cents]
    # What it held at its very start is not known; it is drawn as at the first bucket's end.
    points = enumerate([heights[0], *heights])
    line = " ".join(f"{_x(number, step)},{y}" for number, y in points)
    buckets = tuple(_buckets(window, series, ends_at))
    return Chart(
        buckets,
        line,
        f"0,{UPPER_BOTTOM} {line} {WIDTH},{UPPER_BOTTOM}",
        None if limit_cents is None else _upper_y(limit_cents, most_cents),
        tuple(_spans([bucket.is_refusing for bucket in buckets], step)),
        duration(window.period.length / len(buckets)),
        ends_at - window.period.length,
        ends_at,
    )


def _buckets(window: WindowSpend, series: SpendSeries, ends_at: datetime) -> Iterator[Bucket]:
    length, limit_cents, count = window.period.length, window.limit_cents, len(series.bucket_cents)
    step, most_cents = WIDTH / count, max(1, *series.bucket_cents)
    for number, cents in enumerate(series.bucket_cents):
        y = _scaled(cents / most_cents, LOWER_BOTTOM, LOWER_TOP)
        window_cents = series.window_cents[number]
        yield Bucket(
            ends_at - length + length * number / count,
            cents,
            window_cents,
            limit_cents is not None and window_cents >= limit_cents,
            _x(number, step, _BAR_GAP / 2),
            y,
            round(step - _BAR_GAP, 2),
            round(LOWER_BOTTOM - y, 2),
        )


def _x(number: float, step: float, shift: float = 0) -> float:
    return round(number * step + shift, 2)


def _upper_y(cents: int, most_cents: int) -> float:
    return _scaled(cents / (most_cents * _HEADROOM), UPPER_BOTTOM, UPPER_TOP)


def _scaled(part: float, bottom: float, top: float) -> float:
    return round(bottom - (bottom - top) * max(0.0, part), 2)


def _spans(is_refusing: Sequence[bool], step: float) -> Iterator[Span]:
    """The stretches in which calls were refused, each as one."""
    position = 0
    for value, group in groupby(is_refusing):
        count = len(list(group))
        if value:
            yield Span(_x(position, step), _x(count, step))
        position += count
