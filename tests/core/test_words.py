"""Durations as people say them."""

from datetime import timedelta

import pytest

from gateway.core.words import duration


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(seconds=-1), "0 s"),
        (timedelta(milliseconds=400), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(seconds=90), "1 min 30 s"),
        (timedelta(minutes=10, seconds=30), "10 min"),
        (timedelta(hours=3, minutes=10), "3 h 10 min"),
        (timedelta(hours=3, seconds=10), "3 h"),
        (timedelta(days=28, hours=4), "28 d"),
        (timedelta(days=5000), "over 999 d"),
    ],
)
def test_duration_has_two_units_at_most(length: timedelta, words: str) -> None:
    assert duration(length) == words
