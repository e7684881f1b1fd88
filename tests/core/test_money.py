"""Amounts as people write and read them."""

import pytest

from gateway.core.money import dollars, plain_dollars, read_dollars


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("", None),
        ("  ", None),
        ("0", 0),
        ("12", 1200),
        ("12.5", 1250),
        ("12,50", 1250),  # a comma before one or two digits is a decimal one
        ("1,234", 123_400),  # before three it is for thousands
        ("1,234,567.89", 123_456_789),
        ("$ 3", 300),
    ],
)
def test_typed_amount_is_cents(text: str, cents: int | None) -> None:
    assert read_dollars(text) == cents


@pytest.mark.parametrize("text", ["-1", "1.234", "1e3", "abc", "1,23,456", "٣", "1 2", "9" * 33])
def test_what_is_no_amount_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        read_dollars(text)


@pytest.mark.parametrize(
    ("cents", "words", "typed"),
    [(0, "$0.00", "0"), (140, "$1.40", "1.40"), (123_400, "$1,234.00", "1234")],
)
def test_amount_in_words_and_in_a_field(cents: int, words: str, typed: str) -> None:
    assert (dollars(cents), plain_dollars(cents)) == (words, typed)
    assert read_dollars(typed) == cents
