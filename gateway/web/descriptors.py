"""File descriptors: a process may open only so many, and a call needs two of them.

The last ones are kept back from calls, for the database, files, and the server itself: without
one, uvloop closes what it accepts without a word, and another of its kind may stop listening.
"""

import errno
import resource
import sys

from aiohttp import web

from gateway.log_limit import LogLimit

# Enough for every connection to the database and the files of metrics.
KEPT_BACK = 64
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)


class Descriptors:
    """How many this process may open, and the line in the log when they run out."""

    def __init__(self) -> None:
        limit = raise_limit()
        # The lowest free number is always taken next.
        self._first_kept_back = limit - min(KEPT_BACK, limit // 4)
        self._log = LogLimit("descriptors_exhausted")
        self._limit = limit

    def is_kept_back(self, descriptor: int) -> bool:
        """Whether a new connection has a descriptor that it must not keep."""
        return descriptor >= self._first_kept_back

    def is_exhaustion(self, error: BaseException | None) -> bool:
        """Whether an error says that there are no more descriptors; logged if so."""
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            return False
        self.log_exhausted()
        return True

    def log_exhausted(self) -> None:
        """Count that something was refused, in a line every few seconds."""
        self._log.warning(limit=self._limit)


def raise_limit() -> int:
    """Let this process open all the files that it may, and give their number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


DESCRIPTORS = web.AppKey("descriptors", Descriptors)
