"""A pipe that is read only when a test reads it, and that holds little until then."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

SIZE_BYTES = 4096
WIDE_BYTES = 1 << 18


class SmallPipe:
    """Both ends of a pipe; `stream` is the end that is written to."""

    def __init__(self) -> None:
        self._reading_end, writing_end = os.pipe()
        fcntl.fcntl(writing_end, fcntl.F_SETPIPE_SZ, SIZE_BYTES)
        os.set_blocking(self._reading_end, False)
        self.stream: TextIO = os.fdopen(writing_end, "w")
        self._read = b""

    def read(self) -> bytes:
        """Everything that has come out of it so far."""
        while self._reading_end >= 0 and self.read_page() > 0:
            pass
        return self._read

    def read_page(self) -> int:
        """Read no more than the pipe holds; how much was there."""
        try:
            piece = os.read(self._reading_end, SIZE_BYTES)
        except BlockingIOError:
            return 0
        self._read += piece
        return len(piece)

    def lines(self) -> list[bytes]:
        """The whole lines that have come out of it so far."""
        return self.read().split(b"\n")[:-1]

    def widen(self) -> None:
        """Let it hold more, so that much can be read soon."""
        fcntl.fcntl(self._reading_end, fcntl.F_SETPIPE_SZ, WIDE_BYTES)

    def leave(self) -> None:
        """Close the end that is read."""
        os.close(self._reading_end)
        self._reading_end = -1

    def close(self) -> None:
        """Close what is open."""
        self.stream.close()
        if self._reading_end >= 0:
            self.leave()


@contextmanager
def small_pipe() -> Iterator[SmallPipe]:
    """A pipe of one page."""
    pipe = SmallPipe()
    try:
        yield pipe
    finally:
        pipe.close()
