"""How often somebody may try a token."""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from gateway.core.errors import TooManyRequests
from gateway.core.networks import read_address

WINDOW_S = 60.0
FAILURES_MAX = 10
SOURCES_MAX = 10_000
# What one network of IPv6 has for itself (RFC 6177), each machine in it as often as it likes.
IPV6_PREFIX_BITS = 64


@dataclass(slots=True)
class Attempts:
    """The failed attempts of the last minute, by where they came from, in this worker.

    Workers and replicas count apart, so that together they allow as many times as much. That is
    few all the same for a token that nobody can guess, and the API knows no limit at all: what is
    bounded here is what a form invites to.
    """

    _failures: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def begin(self, address: str) -> None:
        """Count an attempt as failed, until `forgive`. Raises TooManyRequests.

        Counted before the outcome is known: others that come meanwhile are too many as well.
        """
        source, now = _source(address), time.monotonic()
        failures = self._failures.setdefault(source, deque(maxlen=FAILURES_MAX))
        self._failures.move_to_end(source)
        if len(self._failures) > SOURCES_MAX:
            self._failures.popitem(last=False)
        while failures and failures[0] <= now - WINDOW_S:
            failures.popleft()
        if len(failures) >= FAILURES_MAX:
            wait_s = int(failures[0] + WINDOW_S - now) + 1
            raise TooManyRequests(f"Too many attempts. Try again in {wait_s} s.", wait_s)
        failures.append(now)

    def forgive(self, address: str) -> None:
        """Take an attempt back: it did not fail, or nobody could tell."""
        if failures := self._failures.get(_source(address)):
            failures.pop()


def _source(address: str) -> str:
    """What counts as one: an address, of IPv6 its network."""
    try:
        read = read_address(address)
    except ValueError:
        return address
    if isinstance(read, IPv6Address):
        return str(IPv6Network((read, IPV6_PREFIX_BITS), strict=False))
    return str(read)
