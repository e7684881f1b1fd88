"""The benchmarks' pure parts: what they make of figures, and when they take an answer as whole."""

import pytest

from benchmarks.load import is_whole
from benchmarks.report import Percentiles, Row, Target, added_rows, as_json, median_percentiles


@pytest.mark.parametrize(
    ("row", "is_reached"),
    [
        (Row("calls/s", "nginx", 100, "calls/s", 0.15, Target("at least", 0.15)), True),
        (Row("calls/s", "nginx", 100, "calls/s", 0.14, Target("at least", 0.15)), False),
        (Row("503, p99", "gateway", 9.9, "ms", None, Target("below", 10)), True),  # no ratio
        (Row("503, p99", "gateway", 10, "ms", None, Target("below", 10)), False),
        (Row("calls/s", "no proxy", 100, "calls/s", 0.04), None),
    ],
)
def test_a_target_is_held_against_the_ratio_or_else_the_figure(row, is_reached):
    assert row.is_reached is is_reached


def test_one_disturbed_round_does_not_decide():
    quiet, disturbed = [1.0] * 100, [50.0] * 100
    assert median_percentiles([quiet, disturbed, quiet]) == (1.0, 1.0)


def test_what_is_added_is_what_goes_beyond_calling_the_agent():
    taken = {
        "no proxy": Percentiles(1, 2),
        "gateway": Percentiles(2, 4),
        "nginx": Percentiles(1.5, 3),
        "lucky": Percentiles(0.9, 3),  # faster than no proxy is noise, and no ratio
    }
    rows = added_rows("call", "ms", "no proxy", "gateway", taken, {"nginx": Target("below", 3)})
    p50 = {row.who: (row.figure, row.ratio) for row in rows if row.what == "call, added p50"}
    assert p50 == {"gateway": (1, None), "nginx": (0.5, 2), "lucky": (pytest.approx(-0.1), None)}


def test_the_table_and_the_json_tell_the_same():
    row = Row("calls/s", "nginx", 24_986.3, "calls/s", 0.07, Target("at least", 0.15))
    told = ["calls/s", "nginx", "24,986", "calls/s", "0.070", "at", "least", "0.15:", "MISSED"]
    assert str(row).split() == told
    run = as_json({"cores": 2}, [row], ["skipped: wrk is not installed"])
    assert run["rows"] == [
        {
            "what": "calls/s",
            "who": "nginx",
            "figure": 24_986.3,
            "unit": "calls/s",
            "ratio": 0.07,
            "target": {"relation": "at least", "bound": 0.15},
            "is_reached": False,
        }
    ]


@pytest.mark.parametrize(
    ("answer", "is_all_here"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Len", False),  # not even a head
    ],
)
def test_an_answer_ends_with_its_length_or_its_last_chunk(answer, is_all_here):
    assert is_whole(answer) is is_all_here
