"""The periods: their lengths, and that their names stand in one place."""

import re
from pathlib import Path

import pytest

from gateway.core.periods import LEGACY_PERIOD, PERIOD_BY_NAME, PERIODS

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("gateway", "sql")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]
# The one home of the names, and the contract, which is written by hand on purpose.
HOME = ROOT / "gateway/core/periods.py"
CONTRACT = "openapi.yaml"

# A whole word: the legacy member `monthly_spend` is another one.
NAMES = re.compile(
    rb"\b(%s)\b" % "|".join(period.name for period in PERIODS).encode(), re.IGNORECASE
)


@pytest.mark.parametrize(
    ("name", "window_seconds"),
    [("hourly", 3600), ("daily", 86_400), ("weekly", 604_800), ("monthly", 2_592_000)],
)
def test_period_has_the_length_of_the_contract(name: str, window_seconds: int) -> None:
    assert PERIOD_BY_NAME[name].window_seconds == window_seconds


def test_periods_are_four_and_stand_from_the_shortest_to_the_longest() -> None:
    assert [period.name for period in PERIODS] == ["hourly", "daily", "weekly", "monthly"]
    assert list(PERIODS) == sorted(PERIODS, key=lambda period: period.length)


def test_legacy_limit_is_the_monthly_one() -> None:
    assert LEGACY_PERIOD.name == "monthly"


def test_name_of_a_period_stands_in_one_place() -> None:
    assert HOME in SOURCES
    assert NAMES.search(HOME.read_bytes())
    elsewhere = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if path != HOME and path.name != CONTRACT
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if NAMES.search(line)
    ]
    assert elsewhere == []
