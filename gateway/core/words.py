"""Durations as people say them."""

from datetime import timedelta

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
# Nobody plans further ahead than this.
_MOST = timedelta(days=999)


def duration(length: timedelta) -> str:
    """The two largest units that say something: 3 h 10 min, 45 s, 12 d."""
    if length >= _MOST:
        return f"over {_MOST.days} d"
    seconds = max(0, int(length.total_seconds()))
    for position, (unit, size) in enumerate(_UNITS):
        count, rest = divmod(seconds, size)
        if count:
            return " ".join([f"{count} {unit}", *_smaller(position, count, rest)])
    return "0 s"


def _smaller(position: int, count: int, rest: int) -> list[str]:
    """The next smaller unit, where the larger one alone would be rough."""
    if position + 1 >= len(_UNITS) or count >= 10:
        return []
    unit, size = _UNITS[position + 1]
    return [f"{rest // size} {unit}"] if rest // size else []
