"""What a run tells: rows with medians, ratios and targets, as a table and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

COLUMNS = f"{'what':<44} {'who':<22} {'figure':>9} {'unit':<8} {'ratio':>7}  target"


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio, or a figure without one, should be."""

    relation: Literal["at least", "below"]
    bound: float

    def is_reached_by(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.bound if self.relation == "at least" else value < self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    `ratio` is the gateway's figure over this one, or this one over the row that `what` names
    after a slash.
    """

    what: str
    who: str
    figure: float
    unit: str
    ratio: float | None = None
    target: Target | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.target.is_reached_by(self.figure if self.ratio is None else self.ratio)

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else shortened(self.ratio)
        verdict = {None: "", True: "reached", False: "MISSED"}[self.is_reached]
        target = f"{self.target.relation} {self.target.bound:g}: " if self.target else ""
        line = f"{self.what:<44} {self.who:<22} {shortened(self.figure):>9} {self.unit:<8}"
        return f"{line} {ratio:>7}  {target}{verdict}".rstrip()


class Percentiles(NamedTuple):
    """Half took at most `p50`, all but one in a hundred at most `p99`."""

    p50: float
    p99: float


def percentiles(values: Sequence[float]) -> Percentiles:
    """The percentiles of at least two values."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return Percentiles(cuts[49], cuts[98])


def median_percentiles(rounds: Sequence[Sequence[float]]) -> Percentiles:
    """Each percentile's median over the rounds, so that one disturbed round does not decide."""
    each = [percentiles(values) for values in rounds]
    return Percentiles(
        statistics.median(one.p50 for one in each), statistics.median(one.p99 for one in each)
    )


def added_rows(
    what: str,
    unit: str,
    direct: str,
    own: str,
    taken: Mapping[str, Percentiles],
    targets: Mapping[str, Target],
) -> list[Row]:
    """What everybody adds to `direct`, with the ratio of what `own` adds; targets are of p50."""
    rows = [Row(f"{what}, p50", direct, taken[direct].p50, unit)]
    rows.append(Row(f"{what}, p99", direct, taken[direct].p99, unit))
    added = {
        name: Percentiles(each.p50 - taken[direct].p50, each.p99 - taken[direct].p99)
        for name, each in taken.items()
        if name != direct
    }
    for name, (p50, p99) in added.items():
        p50_ratio, p99_ratio = None, None
        if name != own:
            p50_ratio, p99_ratio = ratio(added[own].p50, p50), ratio(added[own].p99, p99)
        rows.append(Row(f"{what}, added p50", name, p50, unit, p50_ratio, targets.get(name)))
        rows.append(Row(f"{what}, added p99", name, p99, unit, p99_ratio))
    return rows


def rate_rows(
    what: str, own: str, rates: Mapping[str, float], targets: Mapping[str, Target]
) -> list[Row]:
    """Everybody's calls a second, with what `own` reaches over it."""
    return [
        Row(what, name, rate, "calls/s", None if name == own else ratio(rates[own], rate), target)
        for name, rate in rates.items()
        for target in [targets.get(name)]
    ]


def ratio(one: float, other: float) -> float | None:
    """One over the other, where there is an other."""
    return one / other if other > 0 else None


def shortened(value: float) -> str:
    """A count, or a number with about three digits, whatever its size."""
    if isinstance(value, int) or abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def as_json(
    machine: Mapping[str, object], rows: Sequence[Row], notes: Sequence[str]
) -> dict[str, object]:
    """The run for programs: what the table says, unrounded."""
    listed = [{**asdict(row), "is_reached": row.is_reached} for row in rows]
    return {"machine": machine, "rows": listed, "notes": list(notes)}
