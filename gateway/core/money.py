"""Amounts of money as people write and read them."""

import re

# Thousands with commas or none; two decimals at most, behind a point or a comma.
_DOLLARS = re.compile(r"\$?\s*(\d{1,3}(?:,\d{3})+|\d+)(?:[.,](\d{1,2}))?", re.ASCII)
# Longer than any limit; what a person types has an end.
_CHARACTERS_MAX = 32


def dollars(cents: int) -> str:
    """Cents as dollars: 140 is $1.40."""
    sign = "-" if cents < 0 else ""
    return f"{sign}${abs(cents) // 100:,}.{abs(cents) % 100:02}"


def plain_dollars(cents: int) -> str:
    """Cents as somebody would type them: 140 is 1.40, and 100 is 1."""
    return f"{cents // 100}" if cents % 100 == 0 else f"{cents // 100}.{cents % 100:02}"


def read_dollars(text: str) -> int | None:
    """What somebody typed, in cents; None where the field is blank. Raises ValueError."""
    text = text.strip()
    if not text:
        return None
    match = _DOLLARS.fullmatch(text) if len(text) <= _CHARACTERS_MAX else None
    if match is None:
        raise ValueError("Write an amount in dollars, such as 12 or 12.50.")
    whole, decimals = match[1].replace(",", ""), match[2] or ""
    return int(whole) * 100 + int(decimals.ljust(2, "0"))
